"""Xenium Explorer's image alignment files: a 3 x 3 matrix, or the keypoints from which Explorer made one.

Both lead from px of the aligned image (the H&E) to px of the morphology image, which SpatialData calls ``global``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import shapely

from lemon_sc._core.errors import bad_value, listing
from lemon_sc._core.log import logger
from lemon_sc.geometry.affine import Affine, check_affine, invert, pixel_size, transform

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MORPHOLOGY_MPP = 0.2125
"""um per px of the Xenium morphology image."""

COLUMNS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
"""Of a keypoint file: the point in the morphology image, and the same point in the aligned image."""

LARGE_RESIDUAL_UM = 10.0
"""Keypoints set by hand agree to a few um; beyond this, a warning."""

USELESS_RESIDUAL_UM = 100.0
"""Root mean square above which pairs are not pairs."""

MIN_WIDTH = 0.01
"""Keypoints whose cloud is narrower than this part of its length lie on a line."""

MIN_TRIANGLE = 0.05
"""Triangles of keypoints below this part of the largest say nothing about mirroring."""

MPP_AGREES = 0.05
MPP_DIFFERS = 0.2
"""Relative differences between two pixel sizes up to which they are the same, and from which they are not."""

COVERED = (0.5, 0.8)
"""A matrix leads the wrong way if it lays the image over less than the first part of the run, but its inverse over more
than the second."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Alignment:
    """An alignment and how well it is known.

    Attributes
    ----------
    matrix
        Affine from image px to morphology px, (3, 3).
    kind
        What was read.
    residual_um
        Distance of each keypoint from where the matrix takes it, in um; empty for a matrix.
    """

    matrix: Affine
    kind: Literal["matrix", "keypoints"]
    residual_um: NDArray[np.float64]

    @property
    def n_points(self) -> int:
        """How many keypoints there were."""
        return len(self.residual_um)

    @property
    def rms_um(self) -> float:
        """Root mean square of the residuals; 0 for a matrix, and for three keypoints, which always fit exactly."""
        return float(np.sqrt(np.mean(self.residual_um**2))) if self.n_points else 0.0


def read_alignment(alignment: str | os.PathLike[str] | ArrayLike) -> Affine:
    """The affine from image px to the px of the Xenium morphology image (SpatialData's ``global``).

    Parameters
    ----------
    alignment
        As for `load_alignment`.

    Returns
    -------
    Float64 (3, 3).
    """
    return load_alignment(alignment).matrix


def load_alignment(alignment: str | os.PathLike[str] | ArrayLike, *, mpp: float = MORPHOLOGY_MPP) -> Alignment:
    """Read an alignment: the matrix, or an affine fitted to all keypoints by least squares.

    Parameters
    ----------
    alignment
        Path of a CSV of 3 rows and 3 columns without header (``*_imagealignment.csv``, ``matrix.csv``), path of a CSV
        of keypoints with the columns `COLUMNS` (``keypoints.csv``), or a 3 x 3 matrix.
    mpp
        um per px of the morphology image, in which residuals are expressed.

    Returns
    -------
    The affine, and how well keypoints fit it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the content is neither a finite, invertible affine matrix nor three or more keypoints that determine one.
    """
    if not isinstance(alignment, str | os.PathLike):
        return _known(check_affine(alignment, name="alignment"))
    path = Path(alignment)
    if not path.is_file():
        msg = f"No alignment file at '{path}'. Xenium Explorer exports it as '*_imagealignment.csv'."
        raise FileNotFoundError(msg)
    if any(name.lower() in _first_line(path).lower() for name in COLUMNS):
        fixed, moving = _read_keypoints(path)
        return fit_keypoints(fixed, moving, mpp=mpp, name=path.name)
    try:
        matrix = np.loadtxt(path, delimiter=",", dtype=np.float64, ndmin=2, encoding="utf-8-sig")
    except ValueError as error:
        msg = (
            f"'{path}' is not a 3 x 3 matrix of numbers in CSV without a header ({error}), nor keypoints with the "
            f"columns {', '.join(COLUMNS)}."
        )
        raise ValueError(msg) from error
    return _known(check_affine(matrix, name=f"alignment ({path.name})"))


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.readline()
    except UnicodeDecodeError as error:
        msg = f"'{path}' is not a text file. Unpack the archive of Xenium Explorer and pass one of the CSV files in it."
        raise ValueError(msg) from error


def _known(matrix: Affine) -> Alignment:
    return Alignment(matrix=matrix, kind="matrix", residual_um=np.zeros(0))


def _read_keypoints(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points in the morphology image and in the aligned image, (n, 2) each."""
    frame = pd.read_csv(path, encoding="utf-8-sig", skipinitialspace=True)
    by_name = {str(name).strip().lower(): name for name in frame.columns}
    absent = [name for name in COLUMNS if name.lower() not in by_name]
    if absent:
        msg = f"The keypoint file '{path}' has no column {listing(absent)} (found: {listing(frame.columns)})."
        raise ValueError(msg)
    points = frame[[by_name[name.lower()] for name in COLUMNS]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        msg = f"The keypoint file '{path}' has no finite numbers in row {listing(bad + 1, most=5)} below its header."
        raise ValueError(msg)
    return points[:, :2], points[:, 2:]


def fit_keypoints(
    fixed: NDArray[np.float64], moving: NDArray[np.float64], *, mpp: float = MORPHOLOGY_MPP, name: str = "keypoints"
) -> Alignment:
    """Affine that takes `moving` to `fixed` with the least squared distance, from all pairs.

    Parameters
    ----------
    fixed, moving
        The same points in morphology px and in image px, (n, 2) each.
    mpp
        um per morphology px.
    name
        Of the file, for messages.

    Returns
    -------
    The affine, and how well the pairs fit it.

    Raises
    ------
    ValueError
        If there are fewer than three pairs, they lie on a line, some are mirrored and others not, or they do not
        belong together at all.
    """
    if len(moving) < 3:
        msg = f"{len(moving)} keypoints in '{name}'; an affine needs at least 3."
        raise ValueError(msg)
    for points, where in ((moving, "the aligned image"), (fixed, "the morphology image")):
        long, short = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if short <= MIN_WIDTH * long:
            msg = f"The {len(points)} keypoints of '{name}' lie on a line in {where}. Add one away from it."
            raise ValueError(msg)
    centre = moving.mean(axis=0)  # centred, or large coordinates cost digits
    design = np.column_stack([moving - centre, np.ones(len(moving))])
    solution = np.linalg.lstsq(design, fixed, rcond=None)[0]
    matrix = np.eye(3)
    matrix[:2, :2] = solution[:2].T
    matrix[:2, 2] = solution[2] - matrix[:2, :2] @ centre
    residual = np.hypot(*(transform(matrix, moving) - fixed).T) * mpp
    found = Alignment(matrix=check_affine(matrix, name=f"keypoints ({name})"), kind="keypoints", residual_um=residual)
    # far off if left out: an outlier pulls the fit towards itself
    leverage = np.einsum("ij,jk,ik->i", design, np.linalg.pinv(design.T @ design), design)
    worst = int(np.argmax(residual / np.maximum(1 - leverage, 1e-9)))
    _check_fit(found, mirrored=_mirrored(fixed, moving), worst=worst, name=name)
    return found


def _mirrored(fixed: NDArray[np.float64], moving: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each triangle of keypoints is turned over, for those large enough to tell."""
    triples = np.array(list(combinations(range(min(len(fixed), 60)), 3)))

    def areas(points: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c = (points[triples[:, k]] for k in range(3))
        (ux, uy), (vx, vy) = (b - a).T, (c - a).T
        return ux * vy - uy * vx

    of_fixed, of_moving = areas(fixed), areas(moving)
    large = [np.abs(area) > MIN_TRIANGLE * np.abs(area).max() for area in (of_fixed, of_moving)]
    return (of_fixed * of_moving < 0)[large[0] & large[1]]


def _check_fit(found: Alignment, *, mirrored: NDArray[np.bool_], worst: int, name: str) -> None:
    """Raise on pairs that contradict each other; say how well the others agree."""
    n, rms, largest = found.n_points, found.rms_um, float(found.residual_um.max())
    about = f"{n} keypoints of '{name}': residual {rms:.2f} um (root mean square), at most {largest:.2f} um"
    if mirrored.any() and not mirrored.all():
        msg = (
            f"The keypoints of '{name}' contradict each other: some triangles of them are mirrored, others not "
            f"(residual {rms:.1f} um). Check pair {worst + 1}, which fits worst."
        )
        raise ValueError(msg)
    if rms > USELESS_RESIDUAL_UM:
        msg = f"No affine fits the {about}. Check pair {worst + 1}, which fits worst."
        raise ValueError(msg)
    if largest > LARGE_RESIDUAL_UM:
        logger.warning("%s. Check pair %d, which fits worst.", about, worst + 1)
    elif n == 3:
        logger.warning("3 keypoints of %r fit exactly whatever their error; set more to learn it", name)
    else:
        logger.info("%s", about)


def check_direction(
    matrix: Affine,
    *,
    shape: tuple[int, int],
    run: Affine,
    run_box: tuple[float, float, float, float],
    stated_mpp: tuple[float, float] | None,
) -> None:
    """Raise if an alignment evidently leads from the morphology image to the image instead of back.

    Parameters
    ----------
    matrix
        Affine from image px to the coordinate system.
    shape
        (height, width) of the image.
    run
        Affine from the run's um to the coordinate system.
    run_box
        Extent of the run in um: x, y low and x, y high.
    stated_mpp
        um per image px that the image's file states, (x, y), if it does.

    Raises
    ------
    ValueError
        If only the inverse gives the stated pixel size or, where none is stated, only the inverse lays the image over
        the run.
    """
    there, back = matrix, invert(matrix)
    if stated_mpp is not None:
        off_there, off_back = (
            float(np.abs(np.array(pixel_size(invert(run) @ m).mpp) / np.array(stated_mpp) - 1).max())
            for m in (there, back)
        )
        wrong = off_there > MPP_DIFFERS and off_back < MPP_AGREES
        why = "only its inverse gives the pixel size that the image's file states"
    else:
        height, width = shape
        image = shapely.box(0, 0, width, height)
        home = shapely.transform(shapely.box(*run_box), lambda xy: transform(run, xy))
        laid = [shapely.transform(image, lambda xy, m=m: transform(m, xy)) for m in (there, back)]
        now, inverse = (shapely.area(shapely.intersection(p, home)) / shapely.area(home) for p in laid)
        wrong = now < COVERED[0] and inverse > COVERED[1]
        why = "only its inverse lays the image over the nuclei"
    if wrong:
        raise bad_value(
            "alignment",
            must="lead from image px to px of the morphology image",
            got=matrix.round(4).tolist(),
            fix=f"It seems to lead the other way: {why}. Pass `numpy.linalg.inv` of it.",
        )
