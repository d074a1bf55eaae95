"""Mitotic figures, normal or atypical: MIDOG25 (track 2) and the AMi-Br, AtNorM-Br, AtNorM-MD folders, as published.

Each figure is the middle of an image of its own. Classes are taken by name; all sets get ``NMF`` and ``AMF``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from lemon_sc._core.errors import listing
from lemon_sc.bench.kinds import Labelled, Source
from lemon_sc.bench.sets.files import check_images, open_picture, pictures, read_table

if TYPE_CHECKING:
    from collections.abc import Callable

MITOSIS_MPP = 0.25
"""um per px, about (40x); the publishers state no exact number."""

NORMAL, ATYPICAL = "NMF", "AMF"

NAMES = {
    "nmf": NORMAL, "normal": NORMAL, "false": NORMAL,
    "amf": ATYPICAL, "atypical": ATYPICAL, "true": ATYPICAL,
}  # fmt: skip
"""What the published tables call the classes, in small letters; truth values say whether a figure is atypical."""

IMAGE_COLUMNS = ("image_id", "dataset_uid", "filename", "image", "file")
LABEL_COLUMNS = ("majority", "majority_atypical", "final_label", "majority_vote", "label")
SLIDE_COLUMNS = ("slide", "case", "patient")

MIDOG25 = Source(
    url="https://midog2025.deepmicroscopy.org (training set of track 2)",
    licence="see the challenge's page",
    layout=(
        "midog25/MIDOG25_Atypical_Classification_Train_Set.csv and "
        "midog25/MIDOG25_Binary_Classification_Train_Set/<image_id>."
    ),
    citation="MIDOG 2025 challenge; Aubreville et al., Scientific Data 2023",
)

AMIBR = Source(
    url="https://github.com/DeepMicroscopy/AMi-Br_Benchmark (and https://github.com/DeepMicroscopy/AMi-Br)",
    licence="MIT; MIDOG images CC0",
    layout="ami_br/<AMi-Br, AtNorM-Br or AtNorM-MD>/*.csv with the images of the repository in folders beside it.",
    citation="Bertram et al., BVM 2025; Banerjee et al., MELBA 2026",
)


def read_midog25(folder: Path) -> Labelled:
    """Figures of MIDOG25's training set.

    Parameters
    ----------
    folder
        The data folder.

    Returns
    -------
    The figures; rows without a majority vote are left out.

    Raises
    ------
    MissingDataError
        If the data set is not there.
    ValueError
        If the table has other columns or classes, or an image is missing.
    """
    home = folder / "midog25"
    path, images = (home / name for name in (
        "MIDOG25_Atypical_Classification_Train_Set.csv", "MIDOG25_Binary_Classification_Train_Set"
    ))  # fmt: skip
    for needed in (path, images):
        if not needed.exists():
            raise MIDOG25.missing("midog25", needed)
    table = read_table(path, ("image_id", "filename", "majority"), text=("image_id", "filename", "majority"))
    table = table[table["majority"].notna()]
    stem = table["image_id"].map(lambda name: Path(name).stem)
    return _figures(images, stem, table["majority"], table["filename"], path=path)


def read_ami_br(folder: Path, *, part: str) -> Labelled:
    """Figures of a folder of the AMi-Br repositories.

    Parameters
    ----------
    folder
        The data folder.
    part
        ``"AMi-Br"``, ``"AtNorM-Br"`` or ``"AtNorM-MD"``.

    Returns
    -------
    The figures. Where the table names no slide, an image is one.

    Raises
    ------
    MissingDataError
        If the data set is not there.
    ValueError
        If no column says image or class, or an image is missing.
    """
    home = folder / "ami_br" / part
    tables = sorted(home.glob("*.csv"))
    if not tables:
        raise AMIBR.missing(part, home / "*.csv")
    path = tables[0]
    table = read_table(path, ())
    label = _first(table, LABEL_COLUMNS, "the class", path=path)
    if {"dataset", "uid"} <= set(table):  # how AMi-Br names its patches
        stem = table["dataset"].astype(str) + "_" + table["uid"].astype(str)
    else:
        stem = table[_first(table, IMAGE_COLUMNS, "the image", path=path)].astype(str).map(lambda name: Path(name).stem)
    slide = next((table[name].astype(str) for name in SLIDE_COLUMNS if name in table), stem)
    kept = table[label].notna()
    return _figures(home, stem[kept], table.loc[kept, label], slide[kept], path=path)


def reader(part: str) -> Callable[[Path], Labelled]:
    """The adapter of a folder of the AMi-Br repositories.

    Parameters
    ----------
    part
        As for `read_ami_br`.

    Returns
    -------
    From the data folder to the figures.
    """
    return partial(read_ami_br, part=part)


def _first(table: pd.DataFrame, names: tuple[str, ...], what: str, *, path: Path) -> str:
    for name in names:
        if name in table:
            return name
    msg = f"No column of '{path}' says {what}: expected one of {list(names)}, found {listing(table.columns, most=20)}."
    raise ValueError(msg)


def _figures(folder: Path, stem: pd.Series, label: pd.Series, slide: pd.Series, *, path: Path) -> Labelled:
    """The middle of each image."""
    classes = label.astype(str).str.strip().str.lower().map(NAMES)
    if classes.isna().any():
        strange = sorted(set(label[classes.isna()].astype(str)))
        msg = f"'{path}' has classes that are neither normal nor atypical: {listing(strange)}."
        raise ValueError(msg)
    files = pictures(folder)
    check_images(stem, files, folder=folder)
    sizes = np.array([_size(files[name]) for name in stem], dtype=np.float64).reshape(-1, 2)
    nuclei = pd.DataFrame(
        {
            "image": stem.to_numpy(),
            "x": sizes[:, 0] / 2,
            "y": sizes[:, 1] / 2,
            "slide": slide.to_numpy(),
            "label": classes.to_numpy(),
        }
    )
    mpp = dict.fromkeys(nuclei["image"].unique(), (MITOSIS_MPP, MITOSIS_MPP))
    return Labelled(nuclei=nuclei, open=lambda image: open_picture(files[image]), mpp=mpp)


def _size(path: Path) -> tuple[int, int]:
    """(width, height) without decoding."""
    with Image.open(path) as image:
        return image.size
