"""Compiled loops over the pixels of a tile; none holds the interpreter's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int32]
    Plane = NDArray[np.float32]


@numba.njit(nogil=True, cache=True)
def components(values: Labels, min_px: int) -> tuple[Labels, int]:  # noqa: C901
    """4-connected parts of equal value, numbered by their first pixel in reading order.

    Parameters
    ----------
    values
        Int32 (H, W); 0 belongs to no part.
    min_px
        Parts of fewer pixels are left out.

    Returns
    -------
    Int32 (H, W) with 0 and 1..n, and n.
    """
    height, width = values.shape
    part = np.zeros((height, width), np.int32)
    parent = np.zeros(height * width + 1, np.int32)
    size = np.zeros(height * width + 1, np.int32)
    n = 0
    for r in range(height):
        for c in range(width):
            value = values[r, c]
            if value == 0:
                continue
            up = part[r - 1, c] if r > 0 and values[r - 1, c] == value else 0
            left = part[r, c - 1] if c > 0 and values[r, c - 1] == value else 0
            while parent[up] != up:
                up = parent[up]
            while parent[left] != left:
                left = parent[left]
            if up == 0 and left == 0:
                n += 1
                parent[n] = n
                up = n
            elif up == 0:
                up = left
            elif left != 0 and left != up:
                low, high = min(up, left), max(up, left)
                parent[high] = low
                size[low] += size[high]
                up = low
            part[r, c] = up
            size[up] += 1
    number = np.zeros(n + 1, np.int32)
    kept = 0
    for k in range(1, n + 1):
        if parent[k] == k:
            if size[k] >= min_px:
                kept += 1
                number[k] = kept
        else:  # a parent has the smaller number and is done
            number[k] = number[parent[k]]
    for r in range(height):
        for c in range(width):
            part[r, c] = number[part[r, c]]
    return part, kept


@numba.njit(nogil=True, cache=True)
def _mirrored(i: int, n: int) -> int:
    """Place of row `i` when the first and last of `n` rows are mirrors."""
    if n == 1:
        return 0
    i = abs(i) % (2 * n - 2)
    return min(i, 2 * n - 2 - i)


@numba.njit(nogil=True, cache=True)
def separable(image: Plane, down: Plane, across: Plane) -> Plane:
    """Correlate columns with `down` and rows with `across`; beyond the edge the image is mirrored at its last pixel.

    Parameters
    ----------
    image
        Float32 (H, W).
    down, across
        Float32 weights, both of the same odd length.

    Returns
    -------
    Float32 (H, W).
    """
    height, width = image.shape
    half = len(down) // 2
    out = np.zeros((height, width), np.float32)
    row = np.empty(width + 2 * half, np.float32)
    source = np.empty(width + 2 * half, np.int64)
    for c in range(width + 2 * half):
        source[c] = _mirrored(c - half, width)
    middle = np.empty(width, np.float32)
    for r in range(height):
        middle[:] = 0
        for k in range(len(down)):
            weight, line = down[k], image[_mirrored(r + k - half, height)]
            for c in range(width):
                middle[c] += weight * line[c]
        for c in range(width + 2 * half):
            row[c] = middle[source[c]]
        made = out[r]
        for k in range(len(across)):
            weight, line = across[k], row[k : k + width]
            for c in range(width):
                made[c] += weight * line[c]
    return out


@numba.njit(nogil=True, cache=True)
def fill_holes(mask: NDArray[np.uint8]) -> None:
    """Set, in place, what the outside does not reach by steps along rows and columns.

    Parameters
    ----------
    mask
        Uint8 (H, W), 0 or 1.
    """
    height, width = mask.shape
    stack = np.empty(height * width, np.int64)
    top = 0
    for r in range(height):
        for c in range(width):
            if (r == 0 or c == 0 or r == height - 1 or c == width - 1) and mask[r, c] == 0:
                mask[r, c] = 2
                stack[top] = r * width + c
                top += 1
    while top:
        top -= 1
        r, c = stack[top] // width, stack[top] % width
        for dr, dc in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            y, x = r + dr, c + dc
            if 0 <= y < height and 0 <= x < width and mask[y, x] == 0:
                mask[y, x] = 2
                stack[top] = y * width + x
                top += 1
    for r in range(height):
        for c in range(width):
            mask[r, c] = mask[r, c] != 2


@numba.njit(nogil=True, cache=True)
def votes(labels: Labels, n: int, types: NDArray[np.uint8], n_types: int) -> NDArray[np.int64]:
    """Pixels of each type in each nucleus.

    Parameters
    ----------
    labels
        Int32 (H, W), 0 and 1..n.
    n
        Number of nuclei.
    types
        Uint8 (H, W), below `n_types`.
    n_types
        Number of types.

    Returns
    -------
    Int64 (n, n_types).
    """
    count = np.zeros((n, n_types), np.int64)
    for r in range(labels.shape[0]):
        for c in range(labels.shape[1]):
            if labels[r, c]:
                count[labels[r, c] - 1, types[r, c]] += 1
    return count


@numba.njit(nogil=True, cache=True)
def likeliest(labels: Labels, probability: Plane) -> NDArray[np.uint8]:
    """Type of largest probability of the pixels inside nuclei, the first of equals.

    Parameters
    ----------
    labels
        Int32 (H, W), 0 outside nuclei.
    probability
        Float32 (C, H, W), C <= 256.

    Returns
    -------
    Uint8 (H, W), 0 outside.
    """
    n_types, height, width = probability.shape
    best = np.zeros((height, width), np.uint8)
    for r in range(height):
        for k in range(1, n_types):
            for c in range(width):
                if labels[r, c] and probability[k, r, c] > probability[best[r, c], r, c]:
                    best[r, c] = k
    return best


@numba.njit(nogil=True, cache=True)
def measures(labels: Labels, n: int, p: Plane) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums over the pixels of each nucleus, and its box.

    Parameters
    ----------
    labels
        Int32 (H, W), 0 and 1..n.
    n
        Number of nuclei.
    p
        Float32 (H, W), to be summed.

    Returns
    -------
    Float64 (n, 4): pixels, sum of columns, of rows, of `p`; and int64 (n, 4): x0, y0, x1, y1, the last two exclusive.
    """
    total = np.zeros((n, 4), np.float64)
    box = np.zeros((n, 4), np.int64)
    box[:, 0], box[:, 1] = labels.shape[1], labels.shape[0]
    for r in range(labels.shape[0]):
        for c in range(labels.shape[1]):
            if labels[r, c]:
                k = labels[r, c] - 1
                total[k, 0] += 1
                total[k, 1] += c
                total[k, 2] += r
                total[k, 3] += p[r, c]
                box[k, 0], box[k, 1] = min(box[k, 0], c), min(box[k, 1], r)
                box[k, 2], box[k, 3] = max(box[k, 2], c + 1), max(box[k, 3], r + 1)
    return total, box
