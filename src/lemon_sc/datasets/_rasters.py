"""The images and label images of the Xenium side, in global px."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.draw import polygon as fill_polygon

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Array = NDArray[np.floating]

DAPI_BACKGROUND, DAPI_SIGNAL, DAPI_NOISE = 180.0, 1500.0, 25.0


def label_image(polygons: Iterable[Array], labels: NDArray[np.integer], size: int) -> NDArray[np.uint32]:
    """Draw polygons (px, pixel centres at half-integers) into a square image; where two overlap the first one stays."""
    image = np.zeros((size, size), np.uint32)
    for xy, label in zip(polygons, labels, strict=True):
        rows, cols = fill_polygon(xy[:, 1] - 0.5, xy[:, 0] - 0.5, image.shape)
        free = image[rows, cols] == 0
        image[rows[free], cols[free]] = label
    return image


def dapi_image(
    rng: np.random.Generator, nuclei: NDArray[np.uint32], labels: NDArray[np.integer], chromatin: Array
) -> NDArray[np.uint16]:
    """Fluorescence that follows the chromatin of the nuclei in a label image."""
    brightness = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    brightness[labels] = chromatin
    light = gaussian_filter(brightness[nuclei], 1.5, output=np.float32)
    light *= DAPI_SIGNAL
    light += DAPI_BACKGROUND
    light += DAPI_NOISE * rng.standard_normal(light.shape, dtype=np.float32)
    return light.clip(0, 65535).astype(np.uint16)
