"""Small labelled sets in one plain layout: ``nuclei/<set>/nuclei.csv`` and ``nuclei/<set>/images``.

The table has one row per nucleus: ``image``, ``x``, ``y`` (px; pixel (r, c) has its centre at (c + 0.5, r + 0.5)),
``type``, ``slide``. Of some sets one half of the slides, or all, is held out of the corpus that the package's own
encoder was trained on (`held_out`).
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from lemon_sc.bench.kinds import Labelled, Source
from lemon_sc.bench.sets.files import check_images, open_picture, pictures, read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import pandas as pd

MPP = {"amibr": 0.25, "brecahad": 0.25, "consep": 0.25, "nucls_sample": 0.25, "nuinsseg": 0.24, "tnbc": 0.25}
"""um per px of each set; about, where its makers do not say."""

NO_NUCLEUS = ("Tubule", "Non_tubule")
"""Types of brecahad that are larger structures."""

HALVED = ("amibr", "brecahad")
"""Sets of which one half is held out."""

WHOLE = ("consep", "nucls_sample")
"""Sets that are held out whole."""

_LAYOUT = "nuclei/{0}/nuclei.csv (image, x, y, type, slide) and nuclei/{0}/images/<image>.jpg or .png."

SOURCES = {
    "amibr": Source(
        url="https://github.com/DeepMicroscopy/AMi-Br_Benchmark",
        licence="MIT; MIDOG images CC0",
        layout=_LAYOUT.format("amibr"),
        citation="Bertram et al., BVM 2025; Banerjee et al., MELBA 2026",
    ),
    "brecahad": Source(
        url="https://doi.org/10.6084/m9.figshare.7379186",
        licence="CC BY 4.0",
        layout=_LAYOUT.format("brecahad"),
        citation="Aksac et al., BMC Research Notes 2019",
    ),
    "consep": Source(
        url="https://warwick.ac.uk/fac/cross_fac/tia/data/hovernet",
        licence="Apache-2.0 by secondary sources; for evaluation only",
        layout=_LAYOUT.format("consep"),
        citation="Graham et al., Medical Image Analysis 2019",
    ),
    "nucls_sample": Source(
        url="https://sites.google.com/view/nucls",
        licence="CC0",
        layout=_LAYOUT.format("nucls_sample"),
        citation="Amgad et al., GigaScience 2022",
    ),
    "nuinsseg": Source(
        url="https://www.kaggle.com/datasets/ipateam/nuinsseg",
        licence="CC BY 4.0",
        layout=_LAYOUT.format("nuinsseg"),
        citation="Mahbod et al., Scientific Data 2024",
    ),
    "tnbc": Source(
        url="https://doi.org/10.5281/zenodo.1175282",
        licence="CC BY 4.0",
        layout=_LAYOUT.format("tnbc"),
        citation="Naylor et al., IEEE TMI 2018",
    ),
}


def held_out(name: str, slides: Iterable[str]) -> set[str]:
    """The slides of a set that nothing is trained on: the first half by the SHA-256 of their names.

    Parameters
    ----------
    name
        Name of the set.
    slides
        All its slides, in any order, repeats allowed.

    Returns
    -------
    Names of slides.
    """
    if name in WHOLE:
        return set(slides)
    if name not in HALVED:
        return set()
    ranked = sorted(set(slides), key=lambda slide: hashlib.sha256(f"{name}/{slide}".encode()).hexdigest())
    return set(ranked[: len(ranked) // 2])


def table_of(folder: Path, name: str) -> pd.DataFrame:
    """Nuclei of a set, one row each, with a slide for each and whether it is held out.

    Images without a slide are slides of their own; those of amibr are held out, for a slide could stand on both sides.

    Parameters
    ----------
    folder
        The data folder.
    name
        Name of the set.

    Returns
    -------
    The table of the set, with ``held_out``.

    Raises
    ------
    MissingDataError
        If the set is not there.
    """
    path = folder / "nuclei" / name / "nuclei.csv"
    if not path.is_file():
        raise SOURCES[name].missing(name, path)
    texts = ("image", "slide", "type")
    table = read_table(path, ("image", "x", "y", "type", "slide"), text=texts)
    if name == "brecahad":
        table = table[~table["type"].isin(NO_NUCLEUS)]
    named = table["slide"].notna()
    out = held_out(name, table.loc[named, "slide"])
    table["held_out"] = table["slide"].isin(out) | (~named & (name in HALVED + WHOLE))
    table["slide"] = table["slide"].where(named, table["image"])
    return table.reset_index(drop=True)


def read_set(folder: Path, *, name: str, where: str | None = None, label: str = "type") -> Labelled:
    """Labelled nuclei of a set.

    Parameters
    ----------
    folder
        The data folder.
    name
        Name of the set.
    where
        Which rows of its table, as pandas' ``query`` reads it; ``None``: all that have a label.
    label
        Column with the class.

    Returns
    -------
    The nuclei.

    Raises
    ------
    MissingDataError
        If the set is not there.
    ValueError
        If its table names images that are not there.
    """
    table = table_of(folder, name)
    if where is not None:
        table = table.query(where)
    table = table[table[label].notna()].assign(label=lambda rows: rows[label].astype(str)).reset_index(drop=True)
    images = folder / "nuclei" / name / "images"
    files = pictures(images)
    check_images(table["image"], files, folder=images)
    nuclei = table[["image", "x", "y", "slide", "label"]]
    mpp = dict.fromkeys(nuclei["image"].unique(), (MPP[name], MPP[name]))
    return Labelled(nuclei=nuclei, open=lambda image: open_picture(files[image]), mpp=mpp)


def reader(name: str, *, where: str | None = None, label: str = "type") -> Callable[[Path], Labelled]:
    """The adapter of a set.

    Parameters
    ----------
    name, where, label
        As for `read_set`.

    Returns
    -------
    From the data folder to the nuclei.
    """
    return partial(read_set, name=name, where=where, label=label)
