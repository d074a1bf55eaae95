"""Crops cut by a device that torch drives: the arithmetic of `lemon_sc.crops.resample`, for many nuclei at once.

Both passes are batched matrix products: the weights of a phase, written out over all taps, are a small matrix. That is
ten times the multiplications of the compiled kernel, on hardware that does a thousand times as many.

The numbers are the whole numbers of the compiled kernel, as float32: all sums stay below 2^24, where float32 is exact,
and so the crops are the same to the bit. (Where the user lets torch multiply in TF32, within one level.)

Letters of array names: N crops, S px of a crop, Y and X taps per axis, C colours.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from lemon_sc.crops.tables import COLUMN_BITS, WEIGHT_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.crops.resample import Resampler
    from lemon_sc.crops.tables import AxisTable
    from lemon_sc.crops.uncut import Sheet, Uncut

DROPPED_BITS = WEIGHT_BITS - COLUMN_BITS
"""By which sums along y are shortened, and by `LAST_BITS` those along x: to nearest, as the compiled kernel does."""
LAST_BITS = WEIGHT_BITS + COLUMN_BITS
HALF_BITS = 7

AT_ONCE_BYTES = 256 * 2**20
"""Of intermediate numbers: crops are cut in parts whose windows stay below."""


_TYPES = {"uint8": torch.uint8, "int64": torch.int64, "bool": torch.bool}


def dense(table: AxisTable, taps: int) -> NDArray[np.float32]:
    """The weights of every phase as a matrix over all taps.

    Parameters
    ----------
    table
        Weights of one axis.
    taps
        Source px of a window along it.

    Returns
    -------
    float32 (PHASES, S, taps), whole numbers.
    """
    at = table.first[..., None].astype(np.int64) + np.arange(table.weight.shape[2])
    full = np.zeros((*table.first.shape, max(taps, int(at.max()) + 1)), dtype=np.float32)
    np.put_along_axis(full, at, table.weight.astype(np.float32), axis=2)
    return full[..., :taps]  # beyond are weights of 0 that make up an even number


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy an array to a device; to a CUDA device by page-locked memory, without waiting for it.

    Parameters
    ----------
    array
        uint8, int64 or bool, of any shape.
    device
        Where to. On a CUDA device the current stream does it.

    Returns
    -------
    The copy.
    """
    staged = stage(array.shape, _TYPES[array.dtype.name], device)
    staged.numpy()[...] = array
    return send(staged, device)


def send(staged: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of `stage` to its device.

    Parameters
    ----------
    staged
        On the host. May be forgotten at once.
    device
        Where to. On a CUDA device the current stream does it.

    Returns
    -------
    The copy.
    """
    return staged.to(device, non_blocking=device.type == "cuda")


def stage(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory of the host from which, or to which, a device copies by itself.

    Parameters
    ----------
    shape, dtype
        Of the tensor.
    device
        The device.

    Returns
    -------
    Tensor on the host, page-locked for a CUDA device, not initialised.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


class DeviceCutter:
    """Cuts crops of one geometry on one device.

    Parameters
    ----------
    cut
        Holds the weights.
    device
        Any that torch knows, the CPU among them.
    """

    def __init__(self, cut: Resampler, device: torch.device) -> None:
        self.size_px, (self.across, self.down) = cut.size_px, cut.taps
        self.device = device
        self._y_PSY = torch.from_numpy(dense(cut.y, self.down)).to(device)
        self._x_PXS = torch.from_numpy(dense(cut.x, self.across)).to(device).transpose(1, 2).contiguous()
        self._row_Y, self._col_X = (torch.arange(n, device=device) for n in (self.down, self.across))
        self._colour_C = torch.arange(3, device=device)
        self.at_once = max(AT_ONCE_BYTES // (4 * 3 * self.down * self.across), 1)

    def __call__(self, windows: Uncut) -> torch.Tensor:
        """Cut crops, uint8 (N, S, S, 3) on the device, without waiting for it.

        Sheets of one width are uploaded one under the other, all at once.

        Parameters
        ----------
        windows
            Of the geometry that this object was made for.
        """
        sizes = [len(sheet.start) for sheet in windows.sheets]
        ends = np.cumsum(sizes)
        out = torch.empty(len(windows), self.size_px, self.size_px, 3, dtype=torch.uint8, device=self.device)
        by_width = sorted(range(len(sizes)), key=lambda k: windows.sheets[k].pixels.shape[1])
        for _, group in groupby(by_width, key=lambda k: windows.sheets[k].pixels.shape[1]):
            chosen = list(group)
            pixels, at_N4 = self._upload([windows.sheets[k] for k in chosen])
            rows = np.concatenate([np.arange(ends[k] - sizes[k], ends[k]) for k in chosen])
            if len(rows) == len(out):
                self._cut(pixels, at_N4, out)
            else:
                part = out.new_empty(len(rows), *out.shape[1:])
                self._cut(pixels, at_N4, part)
                out[to_device(rows, self.device)] = part
        return out

    def _upload(self, sheets: list[Sheet]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels of sheets of one width, uint8 (h, w, 3), and where windows start in them with their phase, (N, 4)."""
        distinct = {id(sheet.pixels): sheet.pixels for sheet in sheets}  # parts of a block share its pixels
        tops = dict(zip(distinct, np.cumsum([0, *(len(pixels) for pixels in distinct.values())]), strict=False))
        height = sum(len(pixels) for pixels in distinct.values())
        staged = stage((height, *sheets[0].pixels.shape[1:]), torch.uint8, self.device)
        into = staged.numpy()
        for key, pixels in distinct.items():
            into[tops[key] : tops[key] + len(pixels)] = pixels
        where = [np.hstack([sheet.start + np.array([0, tops[id(sheet.pixels)]]), sheet.phase]) for sheet in sheets]
        at = np.concatenate(where).astype(np.int64, copy=False)
        return send(staged, self.device), to_device(at, self.device)

    def _cut(self, pixels: torch.Tensor, at_N4: torch.Tensor, out_NSSC: torch.Tensor) -> None:
        """Fill `out_NSSC`."""
        size, half = self.size_px, 1 << HALF_BITS
        for at, out in zip(at_N4.split(self.at_once), out_NSSC.split(self.at_once), strict=True):
            x, y, phase_x, phase_y = at.unbind(1)
            rows, cols = y[:, None] + self._row_Y, x[:, None] + self._col_X
            bytes_NYCX = pixels[rows[:, :, None, None], cols[:, None, None, :], self._colour_C[:, None]]
            lines = torch.bmm(self._y_PSY[phase_y], bytes_NYCX.flatten(2).float())
            lines.add_(1 << DROPPED_BITS - 1).mul_(2.0**-DROPPED_BITS).floor_()
            high = torch.floor(lines / half)  # two sums below 2^24 in place of one beyond
            parts = torch.cat([lines.sub_(high * half), high], dim=1).view(len(at), 2 * size * 3, self.across)
            low_sum, high_sum = torch.bmm(parts, self._x_PXS[phase_x]).int().chunk(2, dim=1)
            sums = low_sum + high_sum * half + (1 << LAST_BITS - 1)
            levels = (sums >> LAST_BITS).clamp_(0, 255).to(torch.uint8)
            out.copy_(levels.view(len(at), size, 3, size).transpose(2, 3))
