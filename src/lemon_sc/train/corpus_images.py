"""Image files and masks on their way into a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pil
from PIL import UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Looked:
    """What a look at an image finds.

    Attributes
    ----------
    xy
        Centres in level-0 px, float64 (n, 2); pixel (r, c) has its centre at (c + 0.5, r + 0.5).
    shape
        (height, width) of level 0.
    mpp
        um per level-0 px, (x, y).
    """

    xy: NDArray[np.float64]
    shape: tuple[int, int]
    mpp: tuple[float, float]


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Pixels of an image file, uint8 (h, w, 3); transparent pixels are laid on white.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Uint8 (h, w, 3).
    """
    try:
        with Pil.open(path) as image:
            if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
                white = Pil.new("RGBA", image.size, "white")
                return np.array(Pil.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
            if image.mode not in {"RGB", "P"}:
                kind = {"F": "floating point", "L": "grey", "CMYK": "CMYK"}.get(image.mode, f"mode {image.mode}")
                msg = f"'{path}' is {kind}; an H&E is RGB, uint8. Convert it first, or leave it out."
                raise ValueError(msg)
            return np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        msg = f"'{path}' cannot be read: it is damaged, or cut off ({error}). Replace it, or leave it out."
        raise OSError(msg) from error


def label_centroids(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Centroids (x, y) of the labels of an image (h, w), by label: pixel centres lie at halves.

    Parameters
    ----------
    labels
        Integers, 0 is background. With a single other value, its connected parts are the nuclei.

    Returns
    -------
    Float64 (n, 2), in px.
    """
    ids, flat = np.unique(labels, return_inverse=True)
    flat = flat.reshape(labels.shape)
    if len(ids) - (ids[0] == 0) == 1:
        from scipy.ndimage import label

        flat, n = label(labels != 0)
        ids = np.arange(n + 1)
    rows, cols = (np.arange(n) + 0.5 for n in labels.shape)
    count = np.bincount(flat.ravel(), minlength=len(ids))
    y = np.bincount(flat.ravel(), weights=np.repeat(rows, labels.shape[1]), minlength=len(ids))
    x = np.bincount(flat.ravel(), weights=np.tile(cols, labels.shape[0]), minlength=len(ids))
    keep = (ids != 0) & (count > 0)
    return np.column_stack([x, y])[keep] / count[keep, None]


def _read_mask(path: Path) -> NDArray[Any]:
    labels = np.load(path) if path.suffix == ".npy" else np.asarray(Pil.open(path))
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        msg = f"'{path}' is {labels.dtype} {labels.shape}; a mask is (height, width) of integers."
        raise ValueError(msg)
    return labels


def folder_look(
    path: Path, *, mask: Path | None, xy: NDArray[np.float64] | None, mpp: tuple[float, float]
) -> Callable[[], Looked]:
    """How to find the nuclei of one image: in its mask, among given points, or by looking at its pixels.

    Parameters
    ----------
    path
        The image.
    mask
        Label image of the same size, or None.
    xy
        Centres (x, y) in px, (n, 2), or None.
    mpp
        um per px, (x, y).

    Returns
    -------
    A function that looks when it is called, so that listing a folder reads no pixels.
    """

    def look() -> Looked:
        if mask is None and xy is None:
            from lemon_sc.models.detect import detect_nuclei

            pixels = read_rgb(path)
            height, width = pixels.shape[:2]
            return Looked(xy=detect_nuclei(pixels, mpp=mpp), shape=(height, width), mpp=mpp)
        try:
            with Pil.open(path) as image:
                width, height = image.size
        except (UnidentifiedImageError, OSError) as error:
            msg = f"'{path}' cannot be read: it is damaged, or no image ({error}). Replace it, or leave it out."
            raise OSError(msg) from error
        if mask is None:
            return Looked(xy=np.zeros((0, 2)) if xy is None else xy, shape=(height, width), mpp=mpp)
        labels = _read_mask(mask)
        if labels.shape != (height, width):
            msg = f"'{mask}' is {labels.shape[1]} x {labels.shape[0]} px, its image is {width} x {height} px."
            raise ValueError(msg)
        return Looked(xy=label_centroids(labels), shape=(height, width), mpp=mpp)

    return look
