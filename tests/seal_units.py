"""Drawn units whose genes follow what can be seen in them, or nothing; and an encoder that was never trained."""

import numpy as np
import torch

from lemon_sc.models import ModelCard, as_encoder
from lemon_sc.models.vit import cell_vit
from lemon_sc.train.seal_pairs import Pairs
from lemon_sc.train.seal_recipe import seal_small

PX = 24
KINDS = {"size": slice(0, 4), "dark": slice(4, 8), "noise": slice(8, 14)}
GENES = [f"{kind}{k}" for kind, at in KINDS.items() for k in range(at.stop - at.start)] + ["BALANCE"]
TINY = {"n_genes": 15, "hidden": (16,), "decoder_width": 8, "batch": 8, "omics_epochs": 1, "epochs": 2, "lr": 1e-3}
CARD = ModelCard(
    name="tiny", dim=48, input_px=PX, mean=(0.7, 0.6, 0.7), std=(0.2, 0.2, 0.2), num_heads=3, license="CC0-1.0"
)


def drawn(n, *, seed):
    """Discs of some radius and darkness anywhere in the crop, and counts; the balancing gene keeps totals alike."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2)).clip(-2.2, 2.2)
    centre = PX / 2 + rng.uniform(-4, 4, (n, 2, 1, 1))
    y, x = np.mgrid[:PX, :PX]
    inside = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < (5 + 1.2 * z[:, 0, None, None]) ** 2
    nucleus = np.array([110, 80, 140]) + 30 * z[:, 1, None, None, None]
    pixels = np.where(inside[..., None], nucleus, (230, 190, 210))
    pixels = pixels + rng.normal(0, 12, pixels.shape) + rng.normal(0, 15, (n, 1, 1, 3))
    follow = np.repeat(z, 4, axis=1) + 0.3 * rng.normal(size=(n, 8))
    rate = np.exp(1.5 + 0.7 * np.concatenate([follow, rng.normal(size=(n, 6))], axis=1))
    rate = np.concatenate([rate, (400 - rate.sum(axis=1, keepdims=True)).clip(50)], axis=1)
    return pixels.clip(0, 255).astype(np.uint8), rng.poisson(rate), rng


def units(n=24, *, seed=0, name="a", **changes):
    """Pairs of two slides of one patient."""
    crops, counts, rng = drawn(n, seed=seed)
    given = {
        "slide": np.char.add(f"{name}-", rng.integers(0, 2, n).astype(str)), "patient": name, "name": name,
        "licence": "CC0-1.0", "genes": GENES, "crops": crops, "counts": counts,
    }  # fmt: skip
    return Pairs(**(given | changes))


def tiny_encoder(*, seed=1, card=CARD):
    generator = torch.Generator().manual_seed(seed)
    return as_encoder((cell_vit(dim=48, num_heads=3, depth=2, image_px=PX, generator=generator), card))


def tiny_recipe(**changes):
    return seal_small(**(TINY | changes))
