"""NuCLS (Amgad et al. 2022), the corrected single-rater data set, as published: ``rgb/*.png`` and ``csv/*.csv``.

Images and coordinates are at 0.2 um/px. A box stands for a nucleus, its middle for the centre. Classes are taken by
name; ambiguous and unlabelled nuclei are in none of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from lemon_sc._core.errors import one_of
from lemon_sc.bench.kinds import Labelled, Source
from lemon_sc.bench.sets.files import check_images, open_picture, pictures, read_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUCLS_MPP = 0.2
"""um per px, as published."""

CLASSES = {
    "super": ("tumor_any", "sTIL", "nonTIL_stromal"),
    "main": ("tumor_nonMitotic", "tumor_mitotic", "lymphocyte", "plasma_cell", "macrophage", "nonTILnonMQ_stromal"),
    "raw": (
        "tumor", "fibroblast", "lymphocyte", "plasma_cell", "macrophage", "mitotic_figure", "vascular_endothelium",
        "myoepithelium", "apoptotic_body", "neutrophil", "ductal_epithelium", "eosinophil",
    ),
}  # fmt: skip
"""Classes of each level."""

SOURCE = Source(
    url="https://sites.google.com/view/nucls",
    licence="CC0",
    layout="nucls/rgb/<fov>.png and nucls/csv/<fov>.csv, from the corrected single-rater data set.",
    citation="Amgad et al., GigaScience 2022",
)

BOX = ("xmin", "ymin", "xmax", "ymax")
LOCATIONS = "ALL_FOV_LOCATIONS"
"""A table beside the others that lists no nuclei."""


def read_nucls(folder: Path, *, level: str) -> Labelled:
    """Nuclei of NuCLS with their class at one level.

    Parameters
    ----------
    folder
        The data folder.
    level
        ``"super"``, ``"main"`` or ``"raw"``.

    Returns
    -------
    The nuclei: a slide is a slide of TCGA, a patient one of its patients.

    Raises
    ------
    MissingDataError
        If the data set is not there.
    ValueError
        If a table has other columns, or an image is missing.
    """
    one_of("level", level, CLASSES)
    home = folder / "nucls"
    tables, images = (next((home / n for n in names if (home / n).is_dir()), home / names[0])
                      for names in (("csv", "csvs"), ("rgb", "rgbs")))  # fmt: skip
    for path in (tables, images):
        if not path.is_dir():
            raise SOURCE.missing("nucls", path)
    column = f"{level}_classification"
    parts = []
    for path in sorted(tables.glob("*.csv")):
        if path.stem.upper() != LOCATIONS:
            table = read_table(path, (column, *BOX), text=(column,))
            parts.append(table[[column, *BOX]].assign(image=path.stem))
    if not parts:
        raise SOURCE.missing("nucls", tables / "<fov>.csv")
    whole = pd.concat(parts, ignore_index=True)
    # names carry a mark where an annotator corrected the suggestion, and dots in some versions
    names = whole[column].str.removeprefix("correction_").str.replace(".", "", regex=False)
    whole = whole.assign(label=names)[names.isin(CLASSES[level])].reset_index(drop=True)
    slide = whole["image"].str.split("_").str[0]
    files = pictures(images)
    check_images(whole["image"], files, folder=images)
    nuclei = pd.DataFrame(
        {
            "image": whole["image"],
            "x": (whole["xmin"] + whole["xmax"]) / 2,
            "y": (whole["ymin"] + whole["ymax"]) / 2,
            "slide": slide,
            "patient": slide.str.split("-").str[:3].str.join("-"),
            "label": whole["label"],
        }
    )
    mpp = dict.fromkeys(nuclei["image"].unique(), (NUCLS_MPP, NUCLS_MPP))
    return Labelled(nuclei=nuclei, open=lambda image: open_picture(files[image]), mpp=mpp)


def reader(level: str) -> Callable[[Path], Labelled]:
    """The adapter of one level of classes.

    Parameters
    ----------
    level
        As for `read_nucls`.

    Returns
    -------
    From the data folder to the nuclei.
    """
    return partial(read_nucls, level=level)
