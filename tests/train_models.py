"""Small networks and nuclei for tests of training; the second process of a test imports from here."""

from datetime import timedelta
from functools import partial

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lemon_sc.models.vit import initialise, sincos_pos_embed
from lemon_sc.train.moco import MoCoV3
from lemon_sc.train.schedules import Progress


def tiny_vit(dim=32, depth=2, heads=2, **options):
    vit = VisionTransformer(
        img_size=40, patch_size=8, embed_dim=dim, depth=depth, num_heads=heads, num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), **options,
    )  # fmt: skip
    initialise(vit)
    vit.pos_embed = nn.Parameter(sincos_pos_embed(dim, 5), requires_grad=False)
    return vit


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(step=0, steps=100, epoch_steps=10, seed=0):
    return Progress(step=step, steps=steps, epoch_steps=epoch_steps, seed=seed)


def nuclei(n, rng):
    """Dark ellipses on pink, (n, 3, 40, 40) in about -1 to 1: radii, orientation, darkness and hue differ."""
    y, x = np.mgrid[:40, :40] - 19.5
    angle, a, b = rng.uniform(0, np.pi, n), rng.uniform(5, 16, n), rng.uniform(0.4, 1, n)
    u = x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]
    v = -x * np.sin(angle)[:, None, None] + y * np.cos(angle)[:, None, None]
    inside = (u / a[:, None, None]) ** 2 + (v / (a * b)[:, None, None]) ** 2 < 1
    ground, ink = rng.uniform(0.3, 1, (n, 3, 1, 1)), rng.uniform(-1, 0.2, (n, 3, 1, 1))
    return np.where(inside[:, None], ink, ground).astype(np.float32)


def two_views(crops, rng):
    """Each crop flipped at random, lighter or darker, with noise, twice."""
    views = []
    for _ in range(2):
        flipped = np.where(rng.random((len(crops), 1, 1, 1)) < 0.5, crops[..., ::-1], crops)
        view = flipped * rng.uniform(0.9, 1.1, (len(crops), 1, 1, 1)) + rng.normal(0, 0.05, crops.shape)
        views.append(torch.from_numpy(view.astype(np.float32)))
    return views


def small_moco():
    return MoCoV3(tiny_vit(), hidden=24, out=16).eval()  # running statistics: rows do not see each other in the nets


def moco_step(views):
    """Loss and gradients of a step, by name."""
    method = small_moco()
    loss, _ = method(views, at())
    loss.backward()
    return loss.item(), {k: p.grad for k, p in method.named_parameters() if p.grad is not None}


def one_of_two(rank, store, folder):
    """A process of two: a step on its half of the batch, and what Sinkhorn and the centre make of unequal parts."""
    import torch.distributed as dist

    from lemon_sc.train.losses import Centre, sinkhorn

    patience = timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=patience)
    rows = slice(4 * rank, 4 * rank + 4)
    loss, gradients = moco_step([randn(8, 3, 40, 40, seed=s)[rows] for s in (1, 2)])
    scores = randn(9, 6, seed=3)[:7] if rank == 0 else randn(9, 6, seed=3)[7:]
    centre = Centre(6)
    centre(scores, 0.1)
    torch.save((loss, gradients, sinkhorn(scores, 0.1), centre.value), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
