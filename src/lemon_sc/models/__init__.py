"""Encoders: crops of nuclei in, one vector per nucleus out.

What needs torch loads on first use.
"""

from __future__ import annotations

from lemon_sc._core.lazy import lazy
from lemon_sc.models.cards import ModelCard
from lemon_sc.models.encoder import Encoder
from lemon_sc.models.registry import as_encoder, available, load, status, with_adapter

# `encode` batches and picks devices, which is the work of `lemon_sc.embed`, one layer up; it is offered here because
# this is where users look for it.
_LATER = {
    "ExpressionEncoder": "lemon_sc.models.expression",
    "encode": "lemon_sc.embed.arrays",
    "load_expression": "lemon_sc.models.expression",
    "macs": "lemon_sc.models.cost",
    "vit_b8_40": "lemon_sc.models.vit",
    "vit_s8_40": "lemon_sc.models.vit",
}

__all__ = ["Encoder", "ModelCard", "as_encoder", "available", "load", "status", "with_adapter", *_LATER]

__getattr__, __dir__ = lazy(__name__, _LATER)
