"""CIELAB (white point D65) for batches of sRGB images, float (n, 3, h, w)."""

from __future__ import annotations

import torch

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_CUBE = 0.008856
_SLOPE, _FOOT = 7.787, 16 / 116


def _mix(images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,njhw->nihw", matrix, images)


def rgb_to_lab(images: torch.Tensor) -> torch.Tensor:
    """SRGB in [0, 1] to L in [0, 100], a and b, in CIE units (not those of 8-bit files).

    Parameters
    ----------
    images
        Float (n, 3, h, w).

    Returns
    -------
    Float (n, 3, h, w).
    """
    linear = torch.where(images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92)
    to_xyz = torch.tensor(_XYZ, device=images.device, dtype=images.dtype)
    to_xyz = to_xyz / torch.tensor(_WHITE, device=images.device, dtype=images.dtype)[:, None]
    xyz = _mix(linear, to_xyz)
    x, y, z = torch.where(xyz > _CUBE, xyz.clamp(min=_CUBE) ** (1 / 3), _SLOPE * xyz + _FOOT).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """The way back, colours that sRGB cannot show clipped to [0, 1].

    Parameters
    ----------
    lab
        Float (n, 3, h, w), CIE units.

    Returns
    -------
    Float (n, 3, h, w), sRGB in [0, 1].
    """
    y = (lab[:, 0] + 16) / 116
    x, z = lab[:, 1] / 500 + y, y - lab[:, 2] / 200
    root = torch.stack([x, y, z], dim=1)
    knee = _CUBE ** (1 / 3)
    xyz = torch.where(root > knee, root**3, (root - _FOOT) / _SLOPE)
    from_xyz = torch.linalg.inv(torch.tensor(_XYZ, dtype=torch.float64)) * torch.tensor(_WHITE, dtype=torch.float64)
    linear = _mix(xyz, from_xyz.to(device=lab.device, dtype=lab.dtype))
    curve = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curve, 12.92 * linear).clamp(0, 1)
