"""How large a pixel of the H&E is: what transformations, file and user say of it, and whether they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata.transformations import get_transformation

from lemon_sc._core import keys
from lemon_sc._core.errors import listing
from lemon_sc.geometry.affine import Affine, check_affine, invert, pixel_size

if TYPE_CHECKING:
    import spatialdata as sd

    from lemon_sc.io.elements import Kind

AXES = ("x", "y")
MPP_TOLERANCE = 0.02
"""Relative difference between two statements of the pixel size, above which one of them is wrong."""


def to_system(element: Any, system: str) -> Affine:
    """Affine from an element's own coordinates to a coordinate system.

    Parameters
    ----------
    element
        Any element of a SpatialData.
    system
        Name of a coordinate system it is placed in.

    Returns
    -------
    Float64 (3, 3).
    """
    matrix = get_transformation(element, to_coordinate_system=system).to_affine_matrix(AXES, AXES)
    return check_affine(matrix, name=f"transformation to {system!r}")


def _placed_in_um(sdata: sd.SpatialData, system: str) -> dict[str, Affine]:
    """Affine from a coordinate system to um, by each vector element that says so.

    Xenium keeps outlines and transcripts in um and places them in the px of the morphology image, so the inverse of
    their transformation leads from the system to um. An identity says nothing: such elements are in the system's own
    units.
    """
    found: dict[str, Affine] = {}
    for name in [*sdata.shapes, *sdata.points]:
        if system in get_transformation(sdata[name], get_all=True):
            matrix = to_system(sdata[name], system)
            if not np.allclose(matrix, np.eye(3)):
                found[name] = invert(matrix)
    return found


def _um_of_system(sdata: sd.SpatialData, system: str) -> Affine:
    """Affine from a coordinate system to um, for elements that are given in its px and cannot say how large one is."""
    found = _placed_in_um(sdata, system)
    if not found:
        msg = (
            f"The size of a pixel of {system!r} in um is unknown: no shapes or points in um are placed in it. "
            "Pass `mpp=`, the um per px of the image."
        )
        raise ValueError(msg)
    first, *others = found.values()
    if any(not np.allclose(first, other, rtol=1e-3) for other in others):
        msg = f"{listing(found)} disagree on the size of a pixel of {system!r} in um. Pass `mpp=`, that of the image."
        raise ValueError(msg)
    return first


@dataclass(frozen=True, eq=False, kw_only=True)
class Chain:
    """How nuclei, image and a coordinate system are related: what of it bears on the pixel size.

    `to_pixel` leads from the nuclei's own coordinates to image px, `image_to_system` from image px to the system.
    """

    sdata: sd.SpatialData
    image_key: str
    shapes_key: str
    kind: Kind
    system: str
    to_pixel: Affine
    image_to_system: Affine

    @property
    def nuclei_in_px(self) -> bool:
        """Whether the nuclei are in px of the system: a label image, or an identity where others are placed in um."""
        if self.kind == "labels":
            return True
        in_system = np.allclose(self.image_to_system @ self.to_pixel, np.eye(3))
        return bool(in_system and _placed_in_um(self.sdata, self.system))

    @property
    def nuclei_in_image_px(self) -> bool:
        """Whether nothing lies between nuclei and image, so that neither tells the size of a px."""
        return bool(np.allclose(self.to_pixel, np.eye(3)))

    @property
    def stated(self) -> tuple[float, float] | None:
        """Pixel size that the image's file states, if `lm.pp.add_image` read one."""
        of_image = self.sdata.attrs.get(keys.UNS, {}).get(keys.IMAGES, {}).get(self.image_key, {})
        mpp = of_image.get("mpp")
        return None if mpp is None else (float(mpp[0]), float(mpp[1]))

    def said(self) -> dict[str, tuple[float, float]]:
        """um per image px, (x, y), as each element placed in um and the image's file say."""
        said = {
            repr(name): pixel_size(to_um @ self.image_to_system).mpp
            for name, to_um in _placed_in_um(self.sdata, self.system).items()
        }
        if not self.nuclei_in_px and not self.nuclei_in_image_px:
            said[repr(self.shapes_key)] = pixel_size(invert(self.to_pixel)).mpp
        return said if self.stated is None else {**said, "its file": self.stated}

    def px_to_um(self) -> Affine:
        """Affine from image px to um, from the transformations alone."""
        if self.nuclei_in_px:
            return _um_of_system(self.sdata, self.system) @ self.image_to_system
        if self.nuclei_in_image_px:
            said = f" ({_sayings(self.said())})" if self.said() else ""
            msg = (
                f"{self.shapes_key!r} is in the pixels of the image (the transformation between them is the identity), "
                f"so the pixel size cannot be derived from it{said}. Pass `mpp=`, the um per px of the image."
            )
            raise ValueError(msg)
        return invert(self.to_pixel)


def _sayings(said: dict[str, tuple[float, float]]) -> str:
    """Who says which pixel size, in words."""
    return ", ".join(f"{who} says {mpp[0]:.4f} x {mpp[1]:.4f} um per px" for who, mpp in said.items())


def _off(mpp: tuple[float, float], other: tuple[float, float]) -> float:
    """Relative difference of two pixel sizes, the larger of x and y."""
    return float(np.abs(np.asarray(mpp) / np.asarray(other) - 1).max())


def given_um(image_to_system: Affine, mpp: tuple[float, float]) -> Affine:
    """Affine from image px to um of a given pixel size, turned and mirrored as the transformations say.

    Parameters
    ----------
    image_to_system
        Affine from image px to the coordinate system.
    mpp
        um per image px, (x, y).

    Returns
    -------
    Float64 (3, 3), without a shift.
    """
    px_to_um = np.eye(3)
    px_to_um[:2, :2] = image_to_system[:2, :2] / np.linalg.norm(image_to_system[:2, :2], axis=0) * mpp
    return px_to_um


def check_transcripts(chain: Chain, mpp: tuple[float, float]) -> None:
    """Raise if points of the run, which Xenium keeps in um, contradict the pixel size derived from the nuclei.

    Parameters
    ----------
    chain
        Nuclei, image and coordinate system.
    mpp
        um per image px, (x, y), by the nuclei.

    Raises
    ------
    ValueError
        If they differ by more than `MPP_TOLERANCE`.
    """
    for name, to_um in _placed_in_um(chain.sdata, chain.system).items():
        if name not in chain.sdata.points:
            continue
        theirs = pixel_size(to_um @ chain.image_to_system).mpp
        if _off(mpp, theirs) > MPP_TOLERANCE:
            ours, others = (f"{m[0]:.4f} x {m[1]:.4f}" for m in (mpp, theirs))
            msg = (
                f"The nuclei say that the image has {ours} um per px, {name!r} say {others} "
                f"({_off(mpp, theirs):.0%} off). One of the two is not in um: check their transformations, or pass "
                "`mpp=`, the um per px of the image."
            )
            raise ValueError(msg)


def check_stated_mpp(chain: Chain, mpp: tuple[float, float]) -> None:
    """Raise if the derived pixel size contradicts the one that the image's file states.

    Parameters
    ----------
    chain
        Nuclei, image and coordinate system.
    mpp
        um per image px, (x, y), by the transformations.

    Raises
    ------
    ValueError
        If they differ by more than `MPP_TOLERANCE`.
    """
    stated = chain.stated
    if stated is not None and _off(mpp, stated) > MPP_TOLERANCE:
        msg = (
            f"The pixel size of {chain.image_key!r} is {mpp[0]:.4f} x {mpp[1]:.4f} um by the transformations, but its "
            f"file states {stated[0]:.4f} x {stated[1]:.4f} um ({_off(mpp, stated):.0%} off). One is wrong: check the "
            "alignment, or pass `mpp=` to say which holds."
        )
        raise ValueError(msg)


def doubt_of(chain: Chain, mpp: tuple[float, float]) -> str:
    """What contradicts a given pixel size, in words.

    Parameters
    ----------
    chain
        Nuclei, image and coordinate system.
    mpp
        um per image px, (x, y), as the user gave it.

    Returns
    -------
    A clause; "" where nothing does.
    """
    against = {who: other for who, other in chain.said().items() if _off(mpp, other) > MPP_TOLERANCE}
    if not against:
        return ""
    return (
        f"`mpp=` gives {chain.image_key!r} {mpp[0]:.4f} x {mpp[1]:.4f} um per px and is used, but {_sayings(against)} "
        f"({max(_off(mpp, other) for other in against.values()):.0%} off)"
    )
