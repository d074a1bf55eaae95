"""How well a linear classifier reads labels from the encoder while it trains: ridge in closed form, out of fold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lemon_sc._core.errors import listing, missing_key
from lemon_sc.train.stats import check_crops

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

FOLDS = 5
BATCH = 1024
PENALTY = 1.0
"""Ridge on standardised features, per 100 crops."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeSet:
    """Labelled crops, apart from those that are trained on."""

    crops: NDArray[np.uint8]
    """Uint8 (n, S, S, 3)."""
    target: torch.Tensor
    """Class of each crop, int64 (n,)."""
    n_classes: int
    """Number of classes."""
    fold: torch.Tensor
    """Fold of each crop, int64 (n,); the crops of a group lie in one fold."""


def read_probe_set(path: str | os.PathLike[str], *, side: int) -> ProbeSet:
    """Read labelled crops from an ``.npz`` file.

    Parameters
    ----------
    path
        File with ``crops``, uint8 (n, S, S, 3); ``labels`` (n,), of any type; and, if there are some, ``groups`` (n,),
        such as slides: a group is never in two folds. Without groups, folds are drawn.
    side
        Least S, px: the centre of this size is embedded.

    Returns
    -------
    The crops, their classes and folds.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        No such file, a missing array, or arrays that do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"No probe set at '{path}': an .npz file with `crops`, `labels` and, if there are some, `groups`."
        raise FileNotFoundError(msg)
    with np.load(path, allow_pickle=False) as found:
        arrays = dict(found)
    for name in ("crops", "labels"):
        if name not in arrays:
            raise missing_key(name, where=f"'{path}'", have=arrays)
    crops, labels = arrays["crops"], arrays["labels"]
    groups = arrays.get("groups", np.arange(len(crops)))
    check_crops(crops)
    if crops.shape[1] < side or (crops.shape[1] - side) % 2:
        msg = f"The crops in '{path}' have {crops.shape[1]} px; the encoder needs {side}, or more by an even number."
        raise ValueError(msg)
    if labels.shape != (len(crops),) or groups.shape != (len(crops),):
        msg = f"'{path}' holds {len(crops)} crops, labels {labels.shape} and groups {groups.shape}: one each is needed."
        raise ValueError(msg)
    classes, target = np.unique(labels, return_inverse=True)
    names, of_group = np.unique(groups, return_inverse=True)
    if len(classes) < 2 or len(names) < 2:
        msg = f"'{path}' holds the classes {listing(classes)} in {len(names)} groups; a probe needs two of each."
        raise ValueError(msg)
    fold = np.random.default_rng(0).permutation(len(names)) % FOLDS
    return ProbeSet(
        crops=crops,
        target=torch.from_numpy(target.astype(np.int64)),
        n_classes=len(classes),
        fold=torch.from_numpy(fold[of_group].astype(np.int64)),
    )


def ridge_scores(x: torch.Tensor, target: torch.Tensor, train: torch.Tensor, *, n_classes: int) -> torch.Tensor:
    """Scores of all rows for each class, by ridge regression on the rows to train on, classes weighted evenly.

    Parameters
    ----------
    x
        Features, float64 (n, D).
    target
        Class of each row, int64 (n,).
    train
        Bool (n,).
    n_classes
        Number of classes.

    Returns
    -------
    (n, n_classes); the largest is the prediction.
    """
    own = x[train]
    mean, std = own.mean(0), own.std(0, correction=0)
    z = (x - mean) / torch.where(std > 1e-6, std, 1.0)
    z = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
    counts = torch.bincount(target[train], minlength=n_classes).clamp_min(1)
    weight = (1.0 / counts.to(x.dtype))[target[train]]
    weight = weight / weight.mean()
    design = z[train] * weight[:, None]
    penalty = torch.full((z.shape[1],), PENALTY * len(own) / 100, dtype=x.dtype, device=x.device)
    penalty[-1] = 1e-6
    one_hot = torch.nn.functional.one_hot(target[train], n_classes).to(x.dtype)
    solved = torch.linalg.solve(z[train].T @ design + penalty.diag(), design.T @ one_hot)
    return z @ solved


def balanced_accuracy(x: torch.Tensor, probe: ProbeSet) -> float:
    """Mean over classes of the share that is found, out of fold; 1 / classes by chance.

    Parameters
    ----------
    x
        Embeddings of the probe set's crops, (n, D).
    probe
        Their classes and folds.

    Returns
    -------
    From 0 to 1.
    """
    x = x.double().cpu()
    predicted = torch.full_like(probe.target, -1)
    for k in range(int(probe.fold.max()) + 1):
        held = probe.fold == k
        scores = ridge_scores(x, probe.target, ~held, n_classes=probe.n_classes)
        predicted[held] = scores[held].argmax(1)
    hit = (predicted == probe.target).double()
    sizes = torch.bincount(probe.target, minlength=probe.n_classes)
    return float((torch.bincount(probe.target, weights=hit, minlength=probe.n_classes) / sizes).mean())


@torch.no_grad()
def embed_probe(
    features: Callable[[torch.Tensor], torch.Tensor], probe: ProbeSet, *, recipe: Any, device: torch.device
) -> torch.Tensor:
    """Embeddings of the centres of a probe set's crops, float32 (n, D).

    Parameters
    ----------
    features
        From normalised crops (n, 3, side, side) to (n, D).
    probe
        The crops.
    recipe
        Says the side, the means and the deviations.
    device
        Where to compute.

    Returns
    -------
    float32 (n, D), on the CPU.
    """
    margin = (probe.crops.shape[1] - recipe.image_px) // 2
    part = slice(margin, margin + recipe.image_px)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (recipe.mean, recipe.std))
    found = []
    for start in range(0, len(probe.crops), BATCH):
        crops = torch.from_numpy(np.ascontiguousarray(probe.crops[start : start + BATCH, part, part]))
        images = crops.to(device).permute(0, 3, 1, 2).float() / 255
        found.append(features((images - mean) / std).float().cpu())
    return torch.cat(found)
