"""Xenium slides of HEST-1k (Jaume et al. 2024) as published: nuclei and transcripts in the px of their H&E.

Slides are not at 0.25 um/px (0.2125 to 0.3639): the pixel size is read from the metadata of each, and crops are
resampled. Several slides are of one patient, so that leaving out a slide does not leave out its patient.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from lemon_sc.analysis.panel import is_gene
from lemon_sc.bench.kinds import Labelled, Source
from lemon_sc.geometry.outlines import outline_centres
from lemon_sc.io.image import dask_image
from lemon_sc.io.raster import from_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SLIDES = {
    "bowel": ("TENX149", "TENX148", "TENX147", "TENX139", "TENX111"),
    "breast": ("NCBI783", "NCBI785", "TENX94", "TENX95", "TENX98"),
    "lung": tuple(
        f"NCBI{k}" for k in (856, 857, 858, 859, 860, 861, 864, 865, 866, 867, 870, 873, 875, 876, *range(879, 885))
    ),
}
"""The slides of the published tables."""

PATIENTS = {"TENX147": "Patient 1", "TENX148": "Patient 1", "TENX149": "Patient 1", "NCBI875": "Patient 7",
            "NCBI876": "Patient 7"}  # fmt: skip
"""Slides that share a patient, where the metadata do not say."""

MIN_QUALITY = 20
"""Transcripts count whose quality is above this."""

MIN_CELLS = 5
"""Genes count that are found in so many cells of a slide."""

UNASSIGNED = ("UNASSIGNED", "-1")

SOURCE = Source(
    url="https://huggingface.co/datasets/MahmoodLab/hest",
    licence="CC BY-NC-SA 4.0",
    layout=(
        "hest/wsis/<slide>.tif, hest/xenium_seg/<slide>_xenium_nucleus_seg.parquet, "
        "hest/transcripts/<slide>_transcripts.parquet and hest/metadata/<slide>.json."
    ),
    citation="Jaume et al., NeurIPS 2024",
)


def read_hest(folder: Path, *, organ: str) -> Labelled:
    """Nuclei of the slides of an organ with their transcripts.

    Parameters
    ----------
    folder
        The data folder.
    organ
        ``"bowel"``, ``"breast"`` or ``"lung"``.

    Returns
    -------
    The nuclei, and counts of the genes that are in the panels of all slides, controls left out. Cells without a
    transcript keep their row of zeros.

    Raises
    ------
    MissingDataError
        If a slide is not there.
    ValueError
        If the metadata give no pixel size, or the panels share no gene.
    """
    home, tables, counts, panels, mpp = folder / "hest", [], [], [], {}
    for slide in SLIDES[organ]:
        paths = _paths(home, slide)
        cells = _nuclei(paths["nuclei"])
        found, genes = _counts(paths["transcripts"], cells["id"])
        meta = json.loads(paths["metadata"].read_text(encoding="utf-8"))
        mpp[slide] = _mpp(meta, paths["metadata"])
        tables.append(cells.assign(image=slide, slide=slide, patient=_patient(slide, meta)))
        counts.append(found)
        panels.append(genes)
    shared = sorted(set.intersection(*map(set, panels)))
    if not shared:
        msg = f"The panels of {list(SLIDES[organ])} share no gene."
        raise ValueError(msg)
    columns = [[genes.index(name) for name in shared] for genes in panels]
    expression = sparse.vstack([x[:, c] for x, c in zip(counts, columns, strict=True)]).tocsr()
    nuclei = pd.concat(tables, ignore_index=True)[["image", "x", "y", "slide", "patient"]]
    return Labelled(
        nuclei=nuclei,
        open=lambda slide: dask_image(*from_path(_paths(home, slide)["image"]).levels),
        mpp=mpp,
        expression=expression,
        genes=tuple(shared),
    )


def reader(organ: str) -> Callable[[Path], Labelled]:
    """The adapter of the slides of an organ.

    Parameters
    ----------
    organ
        As for `read_hest`.

    Returns
    -------
    From the data folder to the nuclei.
    """
    return partial(read_hest, organ=organ)


def _paths(home: Path, slide: str) -> dict[str, Path]:
    """The files of a slide, all there."""
    paths = {
        "image": home / "wsis" / f"{slide}.tif",
        "nuclei": home / "xenium_seg" / f"{slide}_xenium_nucleus_seg.parquet",
        "transcripts": home / "transcripts" / f"{slide}_transcripts.parquet",
        "metadata": home / "metadata" / f"{slide}.json",
    }
    for path in paths.values():
        if not path.is_file():
            raise SOURCE.missing(slide, path)
    return paths


def _nuclei(path: Path) -> pd.DataFrame:
    """Id and centroid of each nucleus: of its polygon, by area."""
    import shapely

    table = pd.read_parquet(path)
    geometry = shapely.from_wkb(table["geometry"].to_numpy())
    xy = outline_centres(geometry).xy
    ids = pd.Series(table.get("cell_id", table.index))
    made = pd.DataFrame({"id": _texts(ids), "x": xy[:, 0], "y": xy[:, 1]})
    return made[np.isfinite(xy).all(axis=1)].drop_duplicates("id").reset_index(drop=True)


def _counts(path: Path, ids: pd.Series) -> tuple[sparse.csr_matrix, list[str]]:
    """Transcripts of each nucleus' cell by gene, and the genes."""
    table = pd.read_parquet(path, columns=["cell_id", "feature_name", "qv"])
    table = table[table["qv"] > MIN_QUALITY]
    cell, gene = _texts(table["cell_id"]), _texts(table["feature_name"])
    place = pd.Series(np.arange(len(ids)), index=ids)
    row = cell.map(place)
    kept = (row.notna() & ~cell.isin(UNASSIGNED)).to_numpy()
    codes, names = pd.factorize(gene[kept], sort=True)
    x = sparse.coo_matrix(
        (np.ones(kept.sum(), np.float32), (row[kept].to_numpy(np.intp), codes)), shape=(len(ids), len(names))
    ).tocsr()
    often = (np.asarray((x > 0).sum(axis=0)).ravel() >= MIN_CELLS) & is_gene([str(name) for name in names])
    return x[:, np.flatnonzero(often)], [str(name) for name in names[often]]


def _texts(values: pd.Series) -> pd.Series:
    """Names as text: some files hold bytes, some numbers."""
    plain = values.reset_index(drop=True)
    if len(plain) and isinstance(plain.iloc[0], bytes):
        return plain.map(lambda value: value.decode())
    return plain.astype(str)


def _mpp(meta: dict[str, Any], path: Path, names: Sequence[str] = ("pixel_size_um_estimated",)) -> tuple[float, float]:
    stated = next((meta[name] for name in names if meta.get(name)), None)
    if stated is None or not float(stated) > 0:
        msg = f"'{path}' gives no pixel size ({list(names)}); it is never guessed."
        raise ValueError(msg)
    return float(stated), float(stated)


def _patient(slide: str, meta: dict[str, Any]) -> str:
    """Name of the patient: "Patient 1" of two studies are two; one that is not named is alone."""
    if slide in PATIENTS:
        return PATIENTS[slide]
    named = meta.get("patient")
    return f"{meta.get('dataset_title', '')}/{named}" if named else slide
