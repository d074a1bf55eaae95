"""Small corpora and runs for tests of the training loop; the processes of a test import from here."""

import dataclasses
import os
from datetime import timedelta

import numpy as np
import torch
from train_models import nuclei, randn

from lemon_sc.train.corpus_reader import Corpus
from lemon_sc.train.loop import fit
from lemon_sc.train.recipes import debug

SHARED = {
    "moco_v3": debug(),
    "dinov2": debug(method="dinov2", options={"prototypes": 32, "n_local": 1, "hidden": 32, "spread": "kde"}),
    "guided": debug(method="guided", options={}, augmentation="light", epochs=1),
}
"""Runs that two processes make as one does."""


def pixels(n, rng, side=60):
    """Nuclei of `nuclei`, as uint8 (n, side, side, 3) with a mirrored margin."""
    small = ((nuclei(n, rng) + 1) * 120).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    margin = (side - 40) // 2
    return np.pad(small, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")


def corpus(n=96, seed=0, **changes):
    """A corpus in memory: two slides, with the manifest that a store would have."""
    manifest = {
        "slides": [{"name": f"s/{k}", "organ": "skin"} for k in range(2)],
        "sources": [{"name": "s", "licence": "CC0", "n_crops": n}],
        "seed": seed,
    }
    made = Corpus(
        crops=pixels(n, np.random.default_rng(seed)), slide=np.arange(n, dtype=np.int32) % 2, manifest=manifest
    )
    return dataclasses.replace(made, **changes)


def weights(run):
    return torch.load(run.checkpoint, weights_only=True)["method"]


def norms():
    """A projector with batch normalisations, in training mode, and a loss of its rows."""
    from lemon_sc.train.heads import moco_mlp

    return moco_mlp((6, 10, 4)).train()


def norm_step(head, rows):
    out = head(rows)
    return out, (out * torch.arange(out.numel()).reshape(out.shape).sin()).sum()


def one_of_two(rank, store, folder):
    """A process of two: half of a run's batches, and the norms of half of some rows."""
    import torch.distributed as dist

    from lemon_sc.train.distributed import synchronise_norms

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    head = norms()
    synchronise_norms(head)
    rows = randn(8, 6)[4 * rank : 4 * rank + 4].requires_grad_()
    out = head(rows)
    (out * torch.arange(32).reshape(8, 4)[4 * rank : 4 * rank + 4].sin()).sum().backward()
    torch.save((out, rows.grad, head.state_dict()), f"{folder}/norm{rank}.pt")
    for name, recipe in SHARED.items():
        fit(recipe, corpus=corpus(), out=f"{folder}/two {name}", log_steps=1)
    dist.destroy_process_group()
