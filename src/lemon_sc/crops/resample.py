"""One anti-aliased resampling per crop, for many crops at once.

Shapes: n crops, S crop px per axis, Ky and Kx source px (taps) per axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def cubic(t: torch.Tensor) -> torch.Tensor:
    """Keys' cubic convolution kernel with a = -0.5 (third-order accurate; Keys, IEEE ASSP 1981)."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def axis_weights(
    offset: NDArray[np.float64],
    start: NDArray[np.int64],
    *,
    scale: float,
    size_px: int,
    taps: int,
    length: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Weights of the taps of every crop pixel along one axis, float32 (n, S, K); rows sum to 1.

    The kernel is stretched by `scale` when that is above 1, so that detail finer than the crop's pixels is averaged
    away and does not alias. Taps outside the image (`length` px) get no weight.
    """
    at = torch.as_tensor(offset, dtype=torch.float64, device=device)[:, None]
    first = torch.as_tensor(start, device=device)[:, None]
    centre = at + scale * torch.arange(size_px, device=device, dtype=torch.float64)  # (n, S)
    tap = torch.arange(taps, device=device)
    distance = (tap + 0.5)[None, None, :] - centre[:, :, None]
    weights = cubic((distance / max(scale, 1.0)).to(torch.float32))
    within = (first + tap >= 0) & (first + tap < length)
    weights = weights * within[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def resample(patches: torch.Tensor, weights_y: torch.Tensor, weights_x: torch.Tensor) -> torch.Tensor:
    """Resample uint8 patches (n, Ky, Kx, 3) to crops (n, S, S, 3), uint8, rounded to nearest.

    Parameters
    ----------
    patches
        Source pixels of each crop.
    weights_y, weights_x
        From `axis_weights`: (n, S, Ky) and (n, S, Kx).
    """
    n, taps_y, taps_x, channels = patches.shape
    size = weights_y.shape[1]
    rows = torch.bmm(weights_y, patches.reshape(n, taps_y, taps_x * channels).to(torch.float32))
    rows = rows.reshape(n, size, taps_x, channels).transpose(2, 3).reshape(n, size * channels, taps_x)
    out = torch.bmm(rows, weights_x.transpose(1, 2)).reshape(n, size, channels, size)
    return out.transpose(2, 3).add_(0.5).clamp_(0, 255).to(torch.uint8)
