"""Which devices, which precision, how many crops at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.models.encoder import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lemon_sc.models.encoder import Encoder

AUTO_BATCH = {"cuda": 4096, "mps": 1024, "cpu": 256}
"""Crops at once by kind of device; halved on the way where memory does not hold them."""


def resolve_devices(device: str | torch.device | Sequence[str] = "auto") -> list[str]:
    """Names of the devices to use.

    Parameters
    ----------
    device
        ``"auto"``: all visible CUDA devices, else MPS, else the CPU. A name as torch writes it (``"cpu"``,
        ``"cuda:1"``), or several names: one replica each.

    Returns
    -------
    Names as torch knows them, one or more.

    Raises
    ------
    ValueError
        Not a device, or one that this machine lacks.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        return ["mps"] if torch.backends.mps.is_available() else ["cpu"]
    names = [device] if isinstance(device, str | torch.device) else list(device)
    if not names:
        raise bad_value("device", must="name at least one device", got=device)
    return [_check_device(name) for name in names]


def _check_device(name: str | torch.device) -> str:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise bad_value("device", must='be "auto", "cpu", "cuda", "cuda:N" or "mps"', got=name) from error
    visible = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (device.index or 0) >= visible.get(device.type, 0):
        have = resolve_devices("auto")
        raise bad_value("device", must="be present on this machine", got=str(name), fix=f"It has {have}.")
    return "cuda:0" if device.type == "cuda" and device.index is None else str(device)


def resolve_dtype(dtype: str, device: str, encoder: Encoder) -> str:
    """``"fp32"`` or ``"bf16"``.

    ``"auto"`` is bf16 for a module on a CUDA device that computes in it, and for a plain ViT on a CPU that multiplies
    matrices of it in hardware (Intel AMX); else fp32.

    Parameters
    ----------
    dtype
        ``"auto"``, ``"fp32"`` or ``"bf16"``.
    device
        One name from `resolve_devices`.
    encoder
        A function computes as it likes, which counts as fp32.

    Returns
    -------
    ``"fp32"`` or ``"bf16"``.
    """
    one_of("dtype", dtype, ("auto", *DTYPES))
    if encoder.module is None:
        return "fp32"
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device != "cpu" or not cpu_has_amx():
        return "fp32"
    from lemon_sc.models.fast_vit import can_pack, fits  # loads timm, which other models do without

    return "bf16" if fits(encoder.module) and can_pack(torch.bfloat16) else "fp32"


def cuts_crops(device: str | Sequence[str], encoder: Encoder) -> bool:
    """Whether crops that come from an image are cut on the devices that encode them.

    They are on accelerators. On a CPU the compiled kernel of `lemon_sc.crops.resample` is faster, and what a function
    embeds is needed on the host.

    Parameters
    ----------
    device
        As for `resolve_devices`.
    encoder
        The model.

    Returns
    -------
    Whether they are.
    """
    return encoder.module is not None and "cpu" not in {name.split(":")[0] for name in resolve_devices(device)}


def cpu_has_amx() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 in hardware, as far as this torch can tell."""
    tell: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(tell().get("amx_bf16"))


def resolve_batch_size(batch_size: int | str, device: str) -> int:
    """Crops at once; ``"auto"`` takes `AUTO_BATCH`.

    Parameters
    ----------
    batch_size
        ``"auto"`` or an int >= 1.
    device
        One name from `resolve_devices`.

    Returns
    -------
    Crops at once, at least 1.
    """
    if batch_size == "auto":
        return AUTO_BATCH[device.split(":")[0]]
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise bad_value("batch_size", must='be "auto" or an int >= 1', got=batch_size)
    return int(batch_size)
