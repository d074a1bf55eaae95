"""The compiled part of the crop engine: it releases the interpreter's lock, and is loaded when it is first needed."""

from __future__ import annotations

import numba
import numpy as np

from lemon_sc.crops.lanes import blend_columns, blend_rows, loaded, move, pair_rows, prefetch, prefetch_to_write
from lemon_sc.crops.tables import QUAD


@numba.njit(nogil=True, cache=True, error_model="numpy")
def cut(lines, start, phase, first_x, weight_x, first_y, weight_y, taps, like_x, like_y, out):  # noqa: ANN001, ANN201, C901, PLR0913, PLR0917
    """Fill `out` (n, Q, Q * 3), Q being the crops' side rounded up to `QUAD`, from `lines` (h, w * 3).

    Along y first, over contiguous px; what comes of it is kept as pairs of px for four rows of the crop, so that the
    pass along x takes four rows at once. `like_x`, `like_y` are tuples as long as there are pairs of weights for `QUAD`
    px.
    """
    padded, line, like = out.shape[1], lines.shape[1], (0, 0, 0, 0)
    across, down, fours = (taps[0] + 7) // 8, (taps[1] + 1) // 2, padded // QUAD  # eights of px, pairs of rows
    rows = np.empty(across * down * 64 + 32, np.int16)
    rows = rows[-(rows.ctypes.data // 2) % 32 :]  # vectors shall not cross lines of the cache
    columns = np.empty(fours * across * 128 + 32, np.int16)
    columns = columns[-(columns.ctypes.data // 2) % 32 :]
    spare = np.empty(taps[1] * across * 24 + 8, np.uint8)
    image, made, n_bytes = lines.reshape(lines.size), out.reshape(out.size), padded * padded * 3
    for k in range(out.shape[0]):
        source, stride, base = image, line, start[k, 1] * line + start[k, 0] * 3
        if base + (taps[1] - 1) * line + across * 24 + 8 > image.size:  # vectors would reach beyond the last px
            source, stride, base = spare, across * 24, 0
            for y in range(taps[1]):
                for c in range(taps[0] * 3):
                    spare[y * stride + c] = lines[start[k, 1] + y, start[k, 0] * 3 + c]
        for r in range(down):
            upper = base + 2 * r * stride
            lower = upper + stride if 2 * r + 1 < taps[1] else upper
            for t in range(across):
                pair_rows(source, upper + 24 * t, lower + 24 * t, rows, (t * down + r) * 64)
        px, py = phase[k, 0], phase[k, 1]
        after, asked = min(k + 1, out.shape[0] - 1), 0
        for t in range(across):
            for c in range(n_bytes * t // across, n_bytes * (t + 1) // across, 64):  # else stores would have to wait
                prefetch_to_write(made, k * n_bytes + c)
            for q in range(fours):
                while asked * across * fours < taps[1] * (t * fours + q + 1):
                    # of the next crop, few rows at a time: more would have to wait
                    at = (start[after, 1] + asked) * line + start[after, 0] * 3
                    for c in range(0, taps[0] * 3 + 63, 64):
                        prefetch(image, at + c)
                    asked += 1
                first = loaded(first_y[py], q * QUAD, like)
                weights = loaded(weight_y[py], q * len(like_y), like_y)
                blend_rows(rows, t * down * 64, first, weights, columns, (q * across + t) * 128)
        for i in range(fours):
            first, weights = loaded(first_x[px], i * QUAD, like), loaded(weight_x[px], i * len(like_x), like_x)
            for q in range(fours):
                to = k * n_bytes + (q * padded + i) * QUAD * 3
                blend_columns(columns, q * across * 128, first, weights, made, to, padded * 3)


@numba.njit(nogil=True, cache=True)
def paste(lines, top, left, start, shape, patches):  # noqa: ANN001, ANN201
    """Copy the part of each window that a block, `lines` (h, w * 3), holds into the window's patch.

    Beyond the image the outermost px is repeated, by the block that holds it.
    """
    bottom, right = top + lines.shape[0], left + lines.shape[1] // 3
    image = lines.reshape(lines.size)
    for k in range(len(start)):
        patch, x0, y0 = patches[k], start[k, 0], start[k, 1]
        taps = patch.shape[1] // 3
        first = 0 if left == 0 else min(max(left - x0, 0), taps)
        last = taps if right == shape[1] else max(min(right - x0, taps), 0)
        if first >= last:
            continue
        in_image = min(max(-x0, first), last), max(min(shape[1] - x0, last), first)
        upper = 0 if top == 0 else max(top - y0, 0)
        lower = patch.shape[0] if bottom == shape[0] else min(bottom - y0, patch.shape[0])
        for y in range(upper, lower):
            row, target = min(max(y0 + y, 0), shape[0] - 1) - top, patch[y]
            here = row * lines.shape[1] + 3 * (in_image[0] + x0 - left)
            move(image, here, target, 3 * in_image[0], 3 * (in_image[1] - in_image[0]))
            for x in range(first, in_image[0]):
                target[3 * x : 3 * x + 3] = lines[row, :3]
            for x in range(in_image[1], last):
                target[3 * x : 3 * x + 3] = lines[row, lines.shape[1] - 3 :]
