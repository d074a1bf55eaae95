"""Xenium Explorer's image alignment file: a 3 x 3 matrix from image px to morphology px."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.geometry.affine import Affine, check_affine

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def read_alignment(alignment: str | os.PathLike[str] | ArrayLike) -> Affine:
    """The affine from image px to the px of the Xenium morphology image (SpatialData's ``global``).

    Parameters
    ----------
    alignment
        Path of a CSV of 3 rows and 3 columns without header (``*_imagealignment.csv``), or such a matrix.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the content is not a finite, invertible affine matrix.
    """
    if not isinstance(alignment, str | os.PathLike):
        return check_affine(alignment, name="alignment")
    path = Path(alignment)
    if not path.is_file():
        msg = f"No alignment file at '{path}'. Xenium Explorer exports it as '*_imagealignment.csv'."
        raise FileNotFoundError(msg)
    try:
        matrix = np.loadtxt(path, delimiter=",", dtype=np.float64, ndmin=2, encoding="utf-8-sig")
    except ValueError as error:
        msg = f"'{path}' is not a 3 x 3 matrix of numbers in CSV without a header ({error})."
        raise ValueError(msg) from error
    return check_affine(matrix, name=f"alignment ({path.name})")
