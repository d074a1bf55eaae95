"""The compiled part of the crop engine: it releases the interpreter's lock, and is loaded when it is first needed."""

from __future__ import annotations

import numba
import numpy as np

from lemon_sc.crops.lanes import blend_columns, blend_rows, loaded, pair_rows, prefetch

QUAD = 4
"""Px of a crop that are made at once, along each axis."""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def cut(lines, start, phase, first_x, weight_x, first_y, weight_y, taps, like_x, like_y, out):  # noqa: ANN001, ANN201, C901, PLR0913, PLR0917
    """Fill `out` (n, Q, Q * 3), Q being the crops' side rounded up to `QUAD`, from `lines` (h, w * 3).

    Along y first, over contiguous px; what comes of it is kept as pairs of px for all rows of the crop, so that the
    pass along x takes four rows at once. `like_x`, `like_y` are tuples as long as there are pairs of taps.
    """
    size, padded, line = first_x.shape[1], out.shape[1], lines.shape[1]
    across, down = (taps[0] + 3) // 4, (taps[1] + 1) // 2  # fours of px, pairs of rows
    rows = np.empty(down * across * 32 + 32, np.int16)
    rows = rows[-(rows.ctypes.data // 2) % 32 :]  # vectors shall not cross lines of the cache
    columns = np.empty(2 * across * padded * 8 + 32, np.int16)
    columns = columns[-(columns.ctypes.data // 2) % 32 :]
    spare = np.empty(taps[1] * across * 12 + 16, np.uint8)
    image, made = lines.reshape(lines.size), out.reshape(out.size)
    for k in range(out.shape[0]):
        source, stride, base = image, line, start[k, 1] * line + start[k, 0] * 3
        if base + (taps[1] - 1) * line + across * 12 + 4 > image.size:  # vectors would reach beyond the last px
            source, stride, base = spare, across * 12, 0
            for y in range(taps[1]):
                for c in range(taps[0] * 3):
                    spare[y * stride + c] = lines[start[k, 1] + y, start[k, 0] * 3 + c]
        for r in range(down):
            upper = base + 2 * r * stride
            lower = upper + stride if 2 * r + 1 < taps[1] else upper
            for t in range(across):
                pair_rows(source, upper + 12 * t, lower + 12 * t, rows, (r * across + t) * 32)
        px, py = phase[k, 0], phase[k, 1]
        after, asked = min(k + 1, out.shape[0] - 1), 0
        for o in range(padded):
            while asked * padded < taps[1] * (o + 1):  # of the next crop, few rows at a time: more would have to wait
                at = (start[after, 1] + asked) * line + start[after, 0] * 3
                for c in range(0, taps[0] * 3 + 63, 64):
                    prefetch(image, at + c)
                asked += 1
            here = min(o, size - 1)
            weights = loaded(weight_y[py], here * len(like_y), like_y)
            at = first_y[py, here] * across * 32
            for t in range(across):
                to = (2 * t * padded + o) * 8
                blend_rows(rows, at + t * 32, across * 32, weights, columns, to, to + padded * 8)
        step = padded * 8
        for i in range(0, padded, QUAD):
            i0, i1, i2, i3 = min(i, size - 1), min(i + 1, size - 1), min(i + 2, size - 1), min(i + 3, size - 1)
            n = len(like_x)
            weights = (
                loaded(weight_x[px], i0 * n, like_x)
                + loaded(weight_x[px], i1 * n, like_x)
                + loaded(weight_x[px], i2 * n, like_x)
                + loaded(weight_x[px], i3 * n, like_x)
            )
            a0, a1 = first_x[px, i0] * step, first_x[px, i1] * step
            a2, a3 = first_x[px, i2] * step, first_x[px, i3] * step
            for o in range(0, padded, QUAD):
                at = (a0 + o * 8, a1 + o * 8, a2 + o * 8, a3 + o * 8)
                to = ((k * padded + o) * padded + i) * 3
                blend_columns(columns, at, step, weights, made, to, padded * 3)


@numba.njit(nogil=True, cache=True)
def paste(lines, top, left, start, slot, shape, patches):  # noqa: ANN001, ANN201, PLR0917
    """Copy the part of each window that a block, `lines` (h, w * 3), holds into the window's patch.

    Beyond the image the outermost px is repeated, by the block that holds it.
    """
    bottom, right = top + lines.shape[0], left + lines.shape[1] // 3
    for k in range(len(slot)):
        patch, x0, y0 = patches[slot[k]], start[k, 0], start[k, 1]
        taps = patch.shape[1] // 3
        first = 0 if left == 0 else min(max(left - x0, 0), taps)
        last = taps if right == shape[1] else max(min(right - x0, taps), 0)
        in_image = min(max(-x0, first), last), max(min(shape[1] - x0, last), first)
        for y in range(patch.shape[0]):
            source = min(max(y0 + y, 0), shape[0] - 1)
            if not top <= source < bottom:
                continue
            line, target = lines[source - top], patch[y]
            shift = 3 * (x0 - left)
            here = np.uintp(3 * in_image[0] + shift)  # unsigned, which spares a look at the sign and makes vectors
            there = np.uintp(3 * in_image[0])
            for c in range(np.uintp(3 * (in_image[1] - in_image[0]))):
                target[there + c] = line[here + c]
            for x in range(first, in_image[0]):
                target[3 * x : 3 * x + 3] = line[:3]
            for x in range(in_image[1], last):
                target[3 * x : 3 * x + 3] = line[line.size - 3 :]
