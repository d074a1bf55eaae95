"""Do image and nuclei fit? Haematoxylin inside the outlines against a ring around them, over all small shifts.

Everything happens on a square grid in um. Row and column index y and x, a grid point is a pixel centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.signal import correlate
from skimage.draw import polygon

from lemon_sc.geometry.affine import Affine, invert, transform
from lemon_sc.geometry.windows import choose_level
from lemon_sc.models.nucleus_mask import UNIT, optical_density, stains

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.crops.stream import PyramidImage

STEP_UM = 0.5
"""Grid spacing."""
REACH_UM = 30.0
"""Largest shift that is tried, along x and y."""
REGION_UM = 200.0
"""Side of a region at most."""
MAX_REGIONS = 25
MIN_NUCLEI = 20
"""Fewer nuclei than this in a region decide nothing."""
RING_UM = (0.5, 3.0)
"""Where the ring around a nucleus begins and ends, measured from its outline."""
FAR_UM = 8.0
"""Shifts at least this far from the best one show what chance gives."""
MIN_COVERAGE = 0.5
"""Share of the nuclear area that must lie in the image for a shift to count."""
MAX_STAIN = 1.5
"""Haematoxylin is clipped here, in optical density: darker is ink, a fold, or black filling."""
PEAK_UM = 1.5
"""The peak is refined by a paraboloid within this distance."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle in um that is looked at.

    Attributes
    ----------
    low, size
        Lower corner (x, y), and extent along x and y.
    n_nuclei
        Nuclei with their centre in it.
    """

    low: tuple[float, float]
    size: tuple[float, float]
    n_nuclei: int

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y)."""
        return self.low[0] + self.size[0] / 2, self.low[1] + self.size[1] / 2

    @property
    def shape(self) -> tuple[int, int]:
        """Grid points (rows, columns)."""
        return int(np.ceil(self.size[1] / STEP_UM)), int(np.ceil(self.size[0] / STEP_UM))

    def to_um(self, margin: int = 0) -> Affine:
        """Affine from grid coordinates, where (0, 0) is the centre of the first point, to um.

        Parameters
        ----------
        margin
            Grid points added on every side.
        """
        first = [v + (0.5 - margin) * STEP_UM for v in self.low]
        return np.array([[STEP_UM, 0.0, first[0]], [0.0, STEP_UM, first[1]], [0.0, 0.0, 1.0]])


def choose_regions(xy_um: NDArray[np.float64]) -> list[Region]:
    """Divide the nuclei into a grid of regions and take up to `MAX_REGIONS`, spread over all of it.

    Parameters
    ----------
    xy_um
        Centres in um, (n, 2).

    Returns
    -------
    Regions, the most crowded one first, then always the one farthest from those before it; none for fewer than
    `MIN_NUCLEI` nuclei.
    """
    if len(xy_um) < MIN_NUCLEI:
        return []
    low, high = xy_um.min(axis=0), xy_um.max(axis=0) + 1e-6
    # small runs are halved along both axes, so that regions can disagree
    parts = np.maximum(np.ceil((high - low) / REGION_UM), 2 if len(xy_um) >= 4 * MIN_NUCLEI else 1).astype(int)
    size = (high - low) / parts
    tile, count = np.unique(((xy_um - low) / size).astype(int), axis=0, return_counts=True)
    tile, count = tile[count >= MIN_NUCLEI], count[count >= MIN_NUCLEI]
    if not len(tile):
        return []
    taken = [int(count.argmax())]
    gap = np.full(len(tile), np.inf)
    while len(taken) < min(MAX_REGIONS, len(tile)):  # always the one farthest from those taken
        gap = np.minimum(gap, np.hypot(*((tile - tile[taken[-1]]) * size).T))
        taken.append(int(gap.argmax()))
    w, h = (float(v) for v in size)
    return [
        Region(low=(float(x), float(y)), size=(w, h), n_nuclei=int(count[i]))
        for i, (x, y) in zip(taken, low + tile[taken] * size, strict=True)
    ]


def haematoxylin(image: PyramidImage, px_to_um: Affine, region: Region) -> NDArray[np.float64]:
    """Haematoxylin on the grid of a region and `REACH_UM` around it, in optical density; NaN outside the image.

    Parameters
    ----------
    image
        Pyramid, read in one rectangle at the coarsest level that is fine enough.
    px_to_um
        Affine from level-0 px to um.
    region
        Which.

    Returns
    -------
    Float64, one value per grid point.
    """
    margin = reach_px()
    rows, cols = (n + 2 * margin for n in region.shape)
    mpp = tuple(np.linalg.norm(px_to_um[:2, :2], axis=0))
    level = choose_level((float(mpp[0]), float(mpp[1])), image.downsamples, STEP_UM)
    down = np.array(image.downsamples[level])
    grid = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 2)
    at = transform(invert(px_to_um) @ region.to_um(margin), grid) / down - 0.5
    height, width = image.levels[level].shape
    limit = np.array([width, height])
    first = np.clip(np.floor(at.min(axis=0)).astype(int) - 3, 0, limit)
    last = np.clip(np.ceil(at.max(axis=0)).astype(int) + 4, 0, limit)
    if (last <= first).any():
        return np.full((rows, cols), np.nan)
    pixels = image.levels[level].read(int(first[1]), int(last[1]), int(first[0]), int(last[0]))
    stain = np.clip(stains(optical_density(pixels))[0] / UNIT, 0, MAX_STAIN)
    # what is finer than the grid would be sampled as noise
    sigma = [max(STEP_UM / (mpp[k] * down[k]), 1.0) / 2 for k in (1, 0)]
    local = (at - first)[:, ::-1].T
    sampled = map_coordinates(gaussian_filter(stain, sigma), local, order=1, mode="nearest")
    inside = ((at > -0.5) & (at < limit - 0.5)).all(axis=1)
    return np.where(inside, sampled, np.nan).reshape(rows, cols)


def rasterise(outlines: NDArray[Any], region: Region) -> NDArray[np.bool_]:
    """Nuclei on the grid of a region: whether each grid point lies in one.

    Parameters
    ----------
    outlines
        Shapely polygons in um.
    region
        Which.

    Returns
    -------
    Bool, one value per grid point.
    """
    mask = np.zeros(region.shape, dtype=np.bool_)
    to_grid = invert(region.to_um())
    for part in shapely.get_parts(outlines):
        if part.is_empty:
            continue
        ring = transform(to_grid, shapely.get_coordinates(shapely.get_exterior_ring(part)))
        mask[polygon(ring[:, 1], ring[:, 0], mask.shape)] = True
    return mask


def reach_px() -> int:
    """Largest shift in grid points."""
    return round(REACH_UM / STEP_UM)


def contrast_by_shift(nuclei: NDArray[np.bool_], stain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean stain in the nuclei less that in the ring around them, for every shift of the nuclei.

    Parameters
    ----------
    nuclei
        Mask (h, w).
    stain
        (h + 2 m, w + 2 m), NaN where unknown.

    Returns
    -------
    (2 m + 1, 2 m + 1), the unshifted one in the centre; NaN where too little of the nuclei or rings is known.
    """
    away = distance_transform_edt(~nuclei) * STEP_UM
    ring = (away > RING_UM[0]) & (away <= RING_UM[1])
    known = np.isfinite(stain)
    level = stain[known].mean() if known.any() else 0.0
    filled = np.where(known, stain - level, 0.0)  # zero mean keeps the rounding of the transform small

    def mean_in(part: NDArray[np.bool_]) -> NDArray[np.float64]:
        total, area = (
            correlate(values, part.astype(np.float64), mode="valid", method="fft")
            for values in (filled, known.astype(np.float64))
        )
        enough = area >= max(MIN_COVERAGE * part.sum(), 1)
        return np.divide(total, area, out=np.full(total.shape, np.nan), where=enough)

    return mean_in(nuclei) - mean_in(ring)


@dataclass(frozen=True, kw_only=True)
class Match:
    """How nuclei and stain of a region fit.

    Attributes
    ----------
    contrast
        Haematoxylin inside less around, as they lie, in optical density.
    best_contrast
        The same at the best shift.
    z
        Standard deviations by which the best stands out of far shifts.
    offset_um
        (x, y) by which the image must be moved for the best.
    """

    contrast: float
    best_contrast: float
    z: float
    offset_um: tuple[float, float]


UNKNOWN = Match(contrast=np.nan, best_contrast=np.nan, z=0.0, offset_um=(np.nan, np.nan))


def match(contrast: NDArray[np.float64]) -> Match:
    """Read the best shift, and how much it stands out, from `contrast_by_shift`.

    Parameters
    ----------
    contrast
        Contrast by shift, (2 m + 1, 2 m + 1), NaN where it is unknown.

    Returns
    -------
    The match; `UNKNOWN` where the contrast without a shift is NaN.
    """
    side = len(contrast)
    m = side // 2
    if not np.isfinite(contrast[m, m]):
        return UNKNOWN
    row, col = np.unravel_index(np.nanargmax(contrast), contrast.shape)
    y, x = np.mgrid[:side, :side]
    away = np.hypot(y - row, x - col) * STEP_UM
    far = contrast[(away >= FAR_UM) & np.isfinite(contrast)]
    spread = float(far.std()) if len(far) else 0.0
    best = float(contrast[row, col])
    z = (best - float(far.mean())) / spread if spread > 0 else 0.0
    near = (away <= PEAK_UM) & np.isfinite(contrast)
    dx, dy = refine(x[near] - col, y[near] - row, contrast[near])
    # the stain lies at outline + shift, so the image goes back by it
    offset = (float(-(col + dx - m) * STEP_UM), float(-(row + dy - m) * STEP_UM))
    return Match(contrast=float(contrast[m, m]), best_contrast=best, z=z, offset_um=offset)


def refine(x: NDArray[Any], y: NDArray[Any], value: NDArray[np.float64]) -> tuple[float, float]:
    """Top of the paraboloid through values around a maximum at (0, 0), or (0, 0) where they have no top nearby.

    Parameters
    ----------
    x, y
        Places around the maximum, (n,).
    value
        What was found there, (n,).

    Returns
    -------
    (x, y) of the top.
    """
    design = np.column_stack([np.ones(len(x)), x, y, x * x, x * y, y * y])
    _, a, b, xx, xy, yy = np.linalg.lstsq(design, value, rcond=None)[0]
    hessian = np.array([[2 * xx, xy], [xy, 2 * yy]])
    if not (np.linalg.eigvalsh(hessian) < 0).all():
        return 0.0, 0.0
    dx, dy = np.linalg.solve(hessian, [-a, -b])
    return (float(dx), float(dy)) if np.hypot(dx, dy) * STEP_UM <= PEAK_UM else (0.0, 0.0)
