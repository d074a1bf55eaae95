"""The whole line in one go, with pictures and a page: what ``lemon-sc demo`` and ``lemon-sc run`` do."""

from __future__ import annotations

import html
import warnings
from dataclasses import dataclass, field
from string import Template
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

from lemon_sc import pl, pp, tl
from lemon_sc._core import keys
from lemon_sc._core.log import logger
from lemon_sc._core.table import as_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

CLUSTERS = "morphology"
BASIS = "X_umap_lemon"
PERMUTE_UP_TO = 20_000
"""Cells up to which Moran's I is also tested by permutation; with more, the analytic test is as good."""

MIN_CELLS = 50
"""Fewer cells than this cannot be split into folds and clusters that mean anything."""


@dataclass(kw_only=True)
class Page:
    """Pictures and tables for the HTML page, in order."""

    out: Path
    title: str
    lead: str
    parts: list[str] = field(default_factory=list)

    def text(self, heading: str, body: str) -> None:
        """A heading with a paragraph."""
        self.parts.append(f"<h2>{html.escape(heading)}</h2>\n<p>{html.escape(body)}</p>")

    def table(self, frame: pd.DataFrame) -> None:
        """A small table; floats with three digits."""
        self.parts.append(frame.to_html(index=False, border=0, float_format=lambda v: f"{v:.3f}", na_rep=""))

    def picture(self, name: str, caption: str, draw: Callable[[], Axes | Figure]) -> None:
        """Draw, save as PNG, and show with its caption."""
        drawn = draw()
        figure = drawn if isinstance(drawn, Figure) else drawn.figure.figure
        figure.savefig(self.out / f"{name}.png", dpi=150, bbox_inches="tight")
        plt.close(figure)
        text = html.escape(caption)
        image = f'<a href="{name}.png"><img src="{name}.png" alt="{text}"></a>'
        self.parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
        logger.info("wrote %s.png", self.out / name)

    def write(self) -> Path:
        """Write ``index.html`` and return its path."""
        path = self.out / "index.html"
        page = TEMPLATE.substitute(
            title=html.escape(self.title), lead=html.escape(self.lead), body="\n".join(self.parts)
        )
        path.write_text(page, encoding="utf-8")
        return path


def standardised(adata: AnnData, use_rep: str) -> Any:
    """Embedding with columns of mean 0 and variance 1, rows without a nucleus left out by the caller.

    Parameters
    ----------
    adata
        Table.
    use_rep
        Its embedding in ``obsm``, finite.

    Returns
    -------
    Array (n_obs, D).
    """
    return StandardScaler().fit_transform(adata.obsm[use_rep])


def add_manifold(adata: AnnData, *, n_clusters: int = 8, rng: int = 0) -> None:
    """UMAP and clusters of the embedding.

    Parameters
    ----------
    adata
        Table with ``obsm["X_lemon"]``.
    n_clusters
        Number of k-means clusters.
    rng
        Seed.

    Returns
    -------
    Nothing. Adds ``obsm["X_umap_lemon"]`` (NaN without a nucleus) and ``obs["morphology"]`` to the table.
    """
    ok = np.isfinite(adata.obsm[keys.X_LEMON]).all(axis=1)
    work = sc.AnnData(obs=pd.DataFrame(index=adata.obs_names[ok]))
    work.obsm["z"] = standardised(adata[ok], keys.X_LEMON)
    sc.pp.neighbors(work, n_neighbors=min(15, work.n_obs - 1), use_rep="z", random_state=rng)
    sc.tl.umap(work, random_state=rng)
    umap = np.full((adata.n_obs, 2), np.nan)
    umap[ok] = work.obsm["X_umap"]
    adata.obsm[BASIS] = umap
    found = KMeans(n_clusters, n_init=4, random_state=rng).fit_predict(work.obsm["z"])
    label = pd.Series(pd.NA, index=adata.obs_names, dtype="object")
    label[ok] = [f"m{k + 1}" for k in found]
    adata.obs[CLUSTERS] = pd.Categorical(label, categories=[f"m{k + 1}" for k in range(n_clusters)])


def analyse(
    sdata: SpatialData,
    *,
    table_key: str = "table",
    model: Any = None,
    target: str | Sequence[str] = "genes",
    **extract: Any,
) -> AnnData:
    """The main line: nuclei, embedding, measurements, manifold, probe and Moran's I.

    Parameters
    ----------
    sdata
        SpatialData with an H&E.
    table_key
        The table.
    model
        As in `lm.tl.embed`.
    target
        As in `lm.tl.probe`.
    **extract
        Options of `lm.pp.extract_nuclei`.

    Returns
    -------
    The annotated table.
    """
    pp.extract_nuclei(sdata, table_key=table_key, **extract)
    tl.embed(sdata, model=model, table_key=table_key)
    tl.embed(sdata, model="morphometry", table_key=table_key, key_added=keys.X_MORPHOMETRY)
    adata = as_table(sdata, table_key=table_key)
    n_ok = int((adata.obs[keys.NUCLEUS_QC] == keys.QC_OK).sum())
    if n_ok < MIN_CELLS:
        msg = (
            f"Only {n_ok} of {adata.n_obs} cells have a usable nucleus; at least {MIN_CELLS} are needed to relate them."
        )
        raise ValueError(msg)
    add_manifold(adata)
    tl.probe(adata, target=target)
    normalise(adata)
    n_perms = 999 if n_ok < PERMUTE_UP_TO else None
    tl.morans_i(adata, use_rep=keys.X_LEMON, layer="lognorm", n_perms=n_perms)
    return adata


def normalise(adata: AnnData) -> None:
    """Counts to ``layers["lognorm"]``: 10,000 per cell, then log1p. Data that are already log-like are kept.

    Parameters
    ----------
    adata
        Table; the layer is added in place.
    """
    values = adata.X[: min(1000, adata.n_obs)]
    data = values.data if hasattr(values, "data") and not isinstance(values, np.ndarray) else np.asarray(values)
    adata.layers["lognorm"] = adata.X.copy()
    if np.allclose(data, np.round(data)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Some cells have zero counts")  # they stay at zero
            sc.pp.normalize_total(adata, target_sum=1e4, layer="lognorm")
        sc.pp.log1p(adata, layer="lognorm")


def top_genes(adata: AnnData, n: int = 6) -> list[str]:
    """Genes that vary most smoothly over the morphology manifold.

    Parameters
    ----------
    adata
        Table with a result of `lm.tl.morans_i`.
    n
        How many.

    Returns
    -------
    Names, the largest I first.
    """
    return adata.uns[keys.MORAN]["I"].dropna().nlargest(n).index.tolist()


def illustrate(
    page: Page,
    sdata: SpatialData,
    *,
    table_key: str = "table",
    image_key: str = "he_image",
    shapes_key: str = "nucleus_boundaries",
    by: str,
) -> None:
    """Draw every picture of the main line onto the page; nuclei are coloured and sorted `by` a column of ``obs``.

    Parameters
    ----------
    page
        Written to.
    sdata
        Object that the whole main line has run on.
    table_key, image_key, shapes_key
        Names of its table, H&E and nuclei.
    by
        Column of ``obs``.
    """
    adata = as_table(sdata, table_key=table_key)
    genes = top_genes(adata)
    record = adata.uns[keys.UNS][keys.NUCLEI]
    n_ok = int((adata.obs[keys.NUCLEUS_QC] == keys.QC_OK).sum())
    mirrored = ", mirrored" if record["mirrored"] else ""
    page.text(
        "Nuclei in the H&E",
        f"The H&E has {record['mpp'][0]:.4f} x {record['mpp'][1]:.4f} um per px, is rotated by "
        f"{record['rotation_deg']:.1f} degrees{mirrored} against the Xenium run, and was never resampled as a whole. "
        f"{n_ok} of {adata.n_obs} cells have a usable nucleus.",
    )
    page.picture(
        "outlines",
        f"Nucleus outlines of the Xenium run on the H&E, coloured by {by}.",
        lambda: pl.outlines(sdata, color=by, image_key=image_key, shapes_key=shapes_key, table_key=table_key),
    )
    page.picture("qc", "What became of every cell.", lambda: pl.nucleus_qc(sdata, table_key=table_key))
    page.picture("nuclei", f"Nuclei by {by}, 10 x 10 um each.", lambda: pl.nuclei(sdata, by=by, table_key=table_key))
    page.picture(
        "nuclei_area",
        "The smallest and the largest nuclei, by the area that is measured in the crop.",
        lambda: pl.nuclei(sdata, dim="area_um2", use_rep=keys.X_MORPHOMETRY, table_key=table_key),
    )
    page.text("The morphology manifold", "Every cell is placed by what its nucleus looks like, not by its expression.")
    grid = int(np.clip(np.sqrt(n_ok), 8, 40))
    page.picture(
        "morphology_map",
        "Nuclei on the manifold: in each square the nucleus nearest to its centre.",
        lambda: pl.morphology_map(sdata, basis=BASIS, grid=grid, table_key=table_key),
    )
    page.picture(
        "markers",
        "The genes that vary most smoothly over the manifold, with nuclei of the cells that express them most.",
        lambda: pl.markers(sdata, genes=genes, basis=BASIS, layer="lognorm", table_key=table_key),
    )
    page.text(
        "Morphology and expression",
        "Moran's I says whether a gene is smooth over the manifold; the probe says how well its expression is "
        "predicted from the embedding in cells that the model has not seen. Both nulls take cells to be independent; "
        "neighbours in tissue are not, so weak effects need a second look.",
    )
    page.picture("morans_i", "Moran's I on the embedding's kNN graph.", lambda: pl.morans_i(adata))
    page.picture(
        "probe", "Ridge probe, held-out spatial blocks, beside the label-shuffled null.", lambda: pl.probe(adata)
    )


TEMPLATE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.3rem; border-bottom: 1px solid #ddd; padding-bottom: 0.2rem; }
p.lead { color: #555; margin-top: 0; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 0.9rem; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: right; padding: 0.15rem 0.8rem 0.15rem 0; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="lead">$lead</p>
$body
</body>
</html>
""")
