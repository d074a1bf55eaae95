"""Encoders: crops of nuclei in, one vector per nucleus out.

What needs torch loads on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from lemon_sc.models.cards import ModelCard
from lemon_sc.models.encoder import Encoder
from lemon_sc.models.registry import as_encoder, available, load, status

# `encode` batches and picks devices, which is the work of `lemon_sc.embed`, one layer up; it is offered here because
# this is where users look for it.
_LATER = {
    "encode": "lemon_sc.embed.arrays",
    "macs": "lemon_sc.models.cost",
    "vit_b8_40": "lemon_sc.models.vit",
    "vit_s8_40": "lemon_sc.models.vit",
}

__all__ = ["Encoder", "ModelCard", "as_encoder", "available", "load", "status", *_LATER]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    msg = f"module 'lemon_sc.models' has no attribute {name!r} (it has: {', '.join(__all__)})"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
