"""`lm.seg.segment_image`: an image in, labels out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from skimage.draw import polygon as polygon_px

from lemon_sc._core.errors import bad_value
from lemon_sc.io.image import array_image
from lemon_sc.seg.finders import resolve_finder
from lemon_sc.seg.slide import segment_slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lemon_sc.seg.segmenter import Segmenter


def segment_image(
    image: NDArray[np.uint8],
    *,
    mpp: float | Sequence[float],
    model: str | Path | Segmenter | None = None,
    device: str = "auto",
) -> NDArray[np.int32]:
    """Outline the nuclei of an H&E image that fits into memory.

    The image is cut into overlapping tiles at the pixel size of the model, and the nuclei are brought back to the px of
    the image; an image of another pixel size than the model's, by more than 20 %, is resampled.

    Parameters
    ----------
    image
        H&E, uint8 (h, w, 3).
    mpp
        um per px, one number or (x, y).
    model
        ``None``: the segmenter that ships with the package, else ``"haematoxylin"``, which needs no weights and tells
        no types. A name or the path of a weight file; ``"cellpose"``, ``"instanseg"`` or ``"stardist"`` where those
        packages are installed; or what `lm.seg.load` returned.
    device
        ``"auto"`` (the first CUDA device, else MPS, else CPU) or a name such as ``"cuda:1"``.

    Returns
    -------
    Labels, int32 (h, w): 0 is background, nuclei are 1 to n. All 0 where there are none.

    Raises
    ------
    ValueError
        If the image is not uint8 RGB, or nuclei cannot be seen at that pixel size.
    FileNotFoundError, ImportError
        If the model, or the package it is from, is not there.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=100)
    >>> he = sdata["he_image"]["scale0"].image.transpose("y", "x", "c").values
    >>> labels = lm.seg.segment_image(he[:100, :150], mpp=0.2738, model="haematoxylin")
    >>> labels.shape
    (100, 150)
    """
    check_rgb_array(image)
    finder = resolve_finder(model, device=device)
    found, _ = segment_slide(array_image(image), finder, mpp=mpp, min_tissue=0.0)
    return rasterise(found.polygons, image.shape[:2])


def check_rgb_array(image: Any) -> None:
    """Raise unless this is an RGB image in memory.

    Parameters
    ----------
    image
        What was given.

    Raises
    ------
    ValueError
        If it is not uint8 (h, w, 3), or has no px.
    """
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        got = f"{image.dtype} {image.shape}" if is_array else type(image).__name__
        fix = ""
        if is_array and image.ndim == 3 and image.shape[2] == 4:
            fix = "Drop the alpha channel with image[..., :3]."
        elif is_array and image.dtype.kind == "f":
            fix = "Values from 0 to 1 are brought there by (255 * image).round().astype(np.uint8)."
        raise bad_value("image", must="be uint8 RGB of shape (h, w, 3)", got=got, fix=fix)


def rasterise(polygons: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Labels of outlines: a px belongs to the first of the outlines that hold its centre.

    Parameters
    ----------
    polygons
        Shapely polygons in px, (n,); holes count as inside.
    shape
        (height, width).

    Returns
    -------
    Int32 (h, w), numbered 1 to n without gaps; an outline that holds no px of its own has no number.
    """
    labels = np.zeros(shape, dtype=np.int32)
    n = 0
    for polygon in polygons:
        x, y = shapely.get_coordinates(shapely.get_exterior_ring(polygon)).T
        r, c = polygon_px(y - 0.5, x - 0.5, shape)
        free = labels[r, c] == 0
        if free.any():
            n += 1
            labels[r[free], c[free]] = n
    return labels
