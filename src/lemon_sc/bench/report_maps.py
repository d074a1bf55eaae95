"""Pictures of nuclei for a benchmark report: maps of an embedding, and markers on them with Moran's I."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from lemon_sc import pl, tl
from lemon_sc._core import keys
from lemon_sc._core.log import logger
from lemon_sc.bench.catalogue import task
from lemon_sc.bench.encoders import one
from lemon_sc.bench.features import features, parts
from lemon_sc.bench.kinds import Labelled, MissingDataError
from lemon_sc.bench.report_words import encoder_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from lemon_sc.models import Encoder

BASIS = "X_tsne"
LOGNORM = "lognorm"
LABEL = "label"
SIZE_PX = 40
N_PCS, PERPLEXITY = 50, 30
MARKERS = ("EPCAM", "KRT7", "ERBB2", "LUM", "PECAM1", "PTPRC", "CD3E", "CD68")
"""Markers of lineages, chosen by what they are known for and not by their Moran's I."""
MITOSES, RUN = "amibr_all", "xenium_markers"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn map, and what is said beneath it."""

    name: str
    caption: str
    figure: Figure


def tsne(z_ND: ArrayLike, *, seed: int = 0) -> NDArray[np.float64]:
    """Map of an embedding: standardised, 50 principal components, t-SNE of perplexity 30 that begins at the first two.

    Parameters
    ----------
    z_ND
        Embedding (N, D), N >= 4.
    seed
        Of the components and the descent.

    Returns
    -------
    (N, 2).
    """
    z = np.asarray(StandardScaler().fit_transform(np.asarray(z_ND, dtype=np.float64)))
    n_cells, width = z.shape
    x = PCA(min(N_PCS, n_cells - 1, width), svd_solver="full", random_state=seed).fit_transform(z)
    # "auto" is N / 12 in the units of the t-SNE papers: scikit-learn's gradient is 4 times theirs
    descent = TSNE(init="pca", perplexity=min(PERPLEXITY, (n_cells - 1) / 3), learning_rate="auto", random_state=seed)
    return descent.fit_transform(x).astype(np.float64)


def mapped(labelled: Labelled, encoder: Encoder, *, window_px: int, cache: Path | None = None) -> ad.AnnData:
    """Nuclei with their crops, embedding and map, as the plots of `lm.pl` read them.

    Parameters
    ----------
    labelled
        The nuclei; all that have a whole window are taken.
    encoder
        Embeds them.
    window_px
        Side of the window in px of 0.25 um.
    cache
        Folder that keeps embeddings.

    Returns
    -------
    Table with ``obsm["X_lemon"]``, ``obsm["X_tsne"]``, ``obsm["nuclei"]``, ``obs["label"]`` where there are labels, and
    the counts as ``X`` where there is expression.
    """
    made = features(labelled, labelled.nuclei, {"map": encoder}, window_px=window_px, cache=cache)["map"]
    crops = np.empty((len(labelled.nuclei), SIZE_PX, SIZE_PX, 3), np.uint8)
    for rows, cut in parts(labelled, labelled.nuclei, size_px=SIZE_PX, window_px=window_px):
        crops[rows] = cut
    nuclei = labelled.nuclei.iloc[made.rows]
    names = pd.Index([f"n{row}" for row in made.rows])
    x = None if labelled.expression is None else sparse.csr_matrix(labelled.expression)[labelled.items()[made.rows]]
    adata = ad.AnnData(
        x,
        obs=pd.DataFrame({keys.NUCLEUS_QC: keys.QC_OK, keys.NUCLEUS_ID: names}, index=names),
        var=None if x is None else pd.DataFrame(index=list(labelled.genes)),
        obsm={
            keys.X_LEMON: made.z,
            BASIS: tsne(made.z),
            keys.NUCLEI: crops[made.rows],
            keys.NUCLEUS_XY: nuclei[["x", "y"]].to_numpy(np.float64),
        },
    )
    if LABEL in nuclei:
        adata.obs[LABEL] = pd.Categorical(nuclei[LABEL].to_numpy())
    further = {"obs_name": np.array([], object), "rank": np.array([], np.int64)}
    further |= {"xy": np.zeros((0, 2)), "nucleus_id": np.array([], object)}
    record = {"size_px": SIZE_PX, "target_mpp": 0.25, "mask": "", "store": "", "extra": further}
    adata.uns[keys.UNS] = {keys.NUCLEI: record}
    return adata


def with_moran(adata: ad.AnnData) -> list[str]:
    """Normalise expression, compute Moran's I on the graph of the embedding, and pick the markers that there are.

    Parameters
    ----------
    adata
        From `mapped`, with counts. Gets ``layers["lognorm"]`` (10,000 per cell, log1p) and ``uns["moranI"]``.

    Returns
    -------
    Those of `MARKERS` that some cell expresses.
    """
    adata.layers[LOGNORM] = adata.X.astype(np.float64)
    sc.pp.normalize_total(adata, target_sum=1e4, layer=LOGNORM)
    sc.pp.log1p(adata, layer=LOGNORM)
    tl.morans_i(adata, use_rep=keys.X_LEMON, layer=LOGNORM, n_perms=999)
    return [gene for gene in MARKERS if gene in adata.var_names and adata[:, gene].X.sum() > 0]


def pictures(data: Path, *, model: object = None, cache: Path | None = None) -> Iterator[Picture]:
    """Draw the maps, one after the other; those of data that are not there are left out, and the log says so.

    Parameters
    ----------
    data
        The data folder.
    model
        The encoder, as `lm.bench.run` takes it.
    cache
        Folder that keeps embeddings.

    Yields
    ------
    The pictures. Close each figure before the next is asked for.
    """
    encoder = one(model)
    for name, draw in ((MITOSES, _mitoses), (RUN, _run)):
        of = task(name)
        try:
            labelled = _read(of.adapter, data)
        except MissingDataError as error:
            logger.warning("No map of %s: %s", name, error)
            continue
        yield from draw(
            mapped(labelled, encoder, window_px=of.window_px, cache=cache), encoder_label(encoder.card.name)
        )


def _read(adapter: Callable[[Path], Labelled] | None, data: Path) -> Labelled:
    if adapter is None:
        msg = "A map needs nuclei, and the task has no adapter that reads them."
        raise ValueError(msg)
    return adapter(data)


def _mitoses(adata: ad.AnnData, encoder: str) -> Iterator[Picture]:
    axes = pl.morphology_map(adata, basis=BASIS, grid=30, color=LABEL)
    text = (
        f"AMi-Br, {adata.n_obs:,} mitotic figures: t-SNE of the embedding by {encoder}, in each bin the figure nearest "
        "to its centre, framed by its label. Images: AMi-Br (MIDOG21 and TUPAC16), MIT and CC0."
    )
    yield Picture(name="map_mitoses", caption=text, figure=_figure(axes))


def _run(adata: ad.AnnData, encoder: str) -> Iterator[Picture]:
    credit = "Xenium human breast cancer, 10x Genomics (Janesick et al. 2023), CC BY 4.0."
    genes = with_moran(adata)
    text = f"The {adata.n_obs} usable nuclei of the Xenium crop: t-SNE of the embedding by {encoder}. {credit}"
    yield Picture(name="map_xenium", caption=text, figure=_figure(pl.morphology_map(adata, basis=BASIS, grid=12)))
    text = (
        "The same map, coloured by markers of lineages (counts normalised to 10,000 per cell, log1p), each with its "
        f"Moran's I on the graph of 15 neighbours and the nuclei that express it most. {credit}"
    )
    drawn = pl.markers(adata, genes=genes, basis=BASIS, layer=LOGNORM)
    yield Picture(name="markers_xenium", caption=text, figure=drawn)
    text = f"Moran's I of the genes of the Xenium crop on the graph of the embedding by {encoder}. {credit}"
    yield Picture(name="moran_xenium", caption=text, figure=_figure(pl.morans_i(adata)))


def _figure(axes: Axes) -> Figure:
    return axes.figure.figure
