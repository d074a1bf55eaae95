"""What the matches of all regions say together: whether image and nuclei fit, and what is wrong if they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lemon_sc.analysis.registration import MIN_NUCLEI, REACH_UM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.analysis.registration import Match, Region

MIN_Z = 7.0
"""Standard deviations by which the best contrast must stand out of that at far shifts."""
MIN_MATCHED = 0.5
"""Share of regions in which nuclei and stain must match for the whole to be ok."""
MIN_AGREEING = 0.8
"""Share of these whose offset must be within the tolerance."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Registration:
    """How well an image and nuclei fit. Printed, it says so in words.

    Attributes
    ----------
    ok
        Whether they do.
    verdict
        In one sentence.
    offset_um
        (x, y) in um by which the image must be moved, in the um frame of the nuclei, to fit best: the median over the
        regions where nuclei and stain match. NaN where they match nowhere.
    regions
        One row per region: centre (``x_um``, ``y_um``), ``n_nuclei``, ``contrast`` (haematoxylin inside the nuclei less
        around them, in optical density), ``best_contrast`` (the same at the best shift), ``z`` (by how many standard
        deviations that stands out of other shifts), ``offset_x_um``, ``offset_y_um`` and ``ok``.
    n_nuclei, n_in_image
        How many nuclei there are, and how many have their centre in the image.
    """

    ok: bool
    verdict: str
    offset_um: tuple[float, float]
    regions: pd.DataFrame
    n_nuclei: int
    n_in_image: int

    def __repr__(self) -> str:
        head = f"Registration {'ok' if self.ok else 'NOT ok'}: {self.verdict}"
        tail = f"{self.n_in_image} of {self.n_nuclei} nuclei lie in the image."
        if not len(self.regions):
            return f"{head}\n{tail}"
        table = self.regions.round({"x_um": 0, "y_um": 0, "z": 1, "offset_x_um": 1, "offset_y_um": 1}).round(3)
        table[["offset_x_um", "offset_y_um"]] += 0.0  # takes the sign from a zero
        return f"{head}\n{tail}\n{table.to_string(index=False)}"


def judge(
    regions: list[Region], matches: list[Match], *, n_nuclei: int, n_in_image: int, tolerance_um: float
) -> Registration:
    """Put what was found in all regions together.

    Parameters
    ----------
    regions, matches
        What was looked at, and what was found there.
    n_nuclei, n_in_image
        Nuclei in all, and in the image.
    tolerance_um
        Offset up to which a region fits.

    Returns
    -------
    The verdict, with the offset of each region.
    """
    offset = np.array([m.offset_um for m in matches], dtype=np.float64).reshape(-1, 2)
    matched = np.array([m.z >= MIN_Z for m in matches], dtype=np.bool_)
    best = np.median(offset[matched], axis=0) if matched.any() else np.full(2, np.nan)
    fits = matched & (np.hypot(*offset.T) <= tolerance_um)
    centre = np.array([r.centre for r in regions], dtype=np.float64).reshape(-1, 2)
    trend = Trend.of(centre[matched], offset[matched])
    ok, verdict = _verdict(offset, matched, fits, best, trend, tolerance_um)
    columns = {
        "x_um": [r.centre[0] for r in regions],
        "y_um": [r.centre[1] for r in regions],
        "n_nuclei": [r.n_nuclei for r in regions],
        "contrast": [m.contrast for m in matches],
        "best_contrast": [m.best_contrast for m in matches],
        "z": [m.z for m in matches],
        "offset_x_um": offset[:, 0],
        "offset_y_um": offset[:, 1],
        "ok": fits,
    }
    return Registration(
        ok=ok,
        verdict=verdict,
        offset_um=(float(best[0]), float(best[1])),
        regions=pd.DataFrame(columns),
        n_nuclei=n_nuclei,
        n_in_image=n_in_image,
    )


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Offsets that change along the run as a rotation and a scale make them.

    Attributes
    ----------
    degrees, scale
        By how much the image must be turned (from x towards y) and scaled.
    largest_um
        Largest part of an offset that they explain, from the middle of the run.
    rest_um
        Largest part that they and a shift do not explain.
    """

    degrees: float
    scale: float
    largest_um: float
    rest_um: float

    @classmethod
    def of(cls, centre: NDArray[np.float64], offset: NDArray[np.float64]) -> Trend:
        """Least squares over regions: centres and offsets in um, (n, 2) each."""
        if not len(centre):
            return cls(degrees=0.0, scale=1.0, largest_um=0.0, rest_um=0.0)
        at, moved = ((v - v.mean(axis=0)) @ [1, 1j] for v in (centre, offset))
        size = float((np.abs(at) ** 2).sum())
        slope = complex((at.conj() * moved).sum() / size) if size > 0 else 0j
        return cls(
            degrees=float(np.rad2deg(np.angle(1 + slope))),
            scale=abs(1 + slope),
            largest_um=float(np.abs(slope * at).max(initial=0.0)),
            rest_um=float(np.abs(moved - slope * at).max(initial=0.0)),
        )

    def __str__(self) -> str:
        return f"turned by {self.degrees:+.1f} degrees and scaled by {self.scale:.3f}"


def _verdict(
    offset: NDArray[np.float64],
    matched: NDArray[np.bool_],
    fits: NDArray[np.bool_],
    best: NDArray[np.float64],
    trend: Trend,
    tolerance_um: float,
) -> tuple[bool, str]:
    """Whether image and nuclei fit, and the reason."""
    n, size = len(matched), float(np.hypot(*best))
    if not n:
        return False, f"undecided, because no region holds {MIN_NUCLEI} nuclei that lie in the image."
    if matched.sum() < MIN_MATCHED * n:
        return False, (
            f"nuclei and haematoxylin match in {matched.sum()} of {n} regions only, whatever the shift up to "
            f"{REACH_UM:g} um. The alignment may be flipped, transposed, inverted, far off in scale or rotation, or "
            "that of another image."
        )
    spread = np.hypot(*(offset[matched] - best).T)
    agree = fits.sum() >= MIN_AGREEING * matched.sum()
    x, y = (round(float(v), 1) + 0.0 for v in best)  # + 0.0 takes the sign from a zero
    moved = f"({x:+.1f}, {y:+.1f}) um (x, y)"
    # offsets are known to some tenths of a um, so half of the tolerance is a trend and not chance
    drifts = trend.largest_um > max(tolerance_um / 2, trend.rest_um)
    if np.median(spread) > tolerance_um or (size <= tolerance_um and not agree) or (size > tolerance_um and drifts):
        cure = f" It would have to be {trend}, and in the middle moved by {moved}." if drifts else ""
        return False, (
            f"the best offset differs by up to {spread.max():.1f} um between regions. The alignment is off in "
            f"rotation, scale or shear, or the section is deformed.{cure}"
        )
    if size > tolerance_um:
        alone = (
            " One region cannot tell a shift from a wrong pixel size or rotation: check `mpp` and the alignment, too."
            if matched.sum() == 1
            else ""
        )
        return False, f"the image must be moved by {moved}, as found in {matched.sum()} of {n} regions.{alone}"
    return True, f"{fits.sum()} of {n} regions fit; the best offset is {moved}."
