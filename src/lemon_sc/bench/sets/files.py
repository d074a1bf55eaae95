"""What adapters share: images of a folder, and tables with the columns that were promised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from lemon_sc._core.errors import listing
from lemon_sc.io.image import array_image
from lemon_sc.train.corpus_images import read_rgb

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lemon_sc.crops.stream import PyramidImage

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Image files that are read whole."""


def pictures(folder: Path) -> dict[str, Path]:
    """The image files of a folder by the name without its ending, subfolders included.

    Parameters
    ----------
    folder
        Where to look.

    Returns
    -------
    Files by name.

    Raises
    ------
    ValueError
        If two files have the same name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            msg = f"'{folder}' holds two images of the name {path.stem!r}: '{found[path.stem]}' and '{path}'. Keep one."
            raise ValueError(msg)
        found[path.stem] = path
    return found


def open_picture(path: Path) -> PyramidImage:
    """An image file, read whole.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    The image.
    """
    return array_image(read_rgb(path))


def read_table(path: Path, columns: Iterable[str], *, text: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV file that must have some columns.

    Parameters
    ----------
    path
        The file.
    columns
        Names that must be there.
    text
        Those that are texts even where they look like numbers.

    Returns
    -------
    The table.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    table = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    lacking = [name for name in columns if name not in table]
    if lacking:
        msg = f"'{path}' lacks the columns {lacking} (it has: {listing(table.columns, most=20)}). Is it the right file?"
        raise ValueError(msg)
    return table


def check_images(wanted: Iterable[str], found: dict[str, Path], *, folder: Path) -> None:
    """Raise if an image that a table names is not there.

    Parameters
    ----------
    wanted
        Names in the table.
    found
        Files by name.
    folder
        Where they were looked for.

    Raises
    ------
    ValueError
        If one is missing.
    """
    lacking = sorted(set(wanted) - set(found))
    if lacking:
        msg = f"{len(lacking)} images of the table are not in '{folder}': {listing(lacking)}. Download them again."
        raise ValueError(msg)
