"""Signs of collapse: how many directions the embeddings of a batch use, and how alike they are."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from lemon_sc.train.distributed import gather_rows

MOST_ROWS = 1024
"""Rows that are looked at: the rank of more costs time in every step that is monitored and says little else."""


@torch.no_grad()
def rankme(z: torch.Tensor) -> torch.Tensor:
    """Effective rank: the exponential of the entropy of the singular values, scaled to sum 1.

    Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
    Rank" (ICML 2023); the measure is that of Roy and Vetterli (EUSIPCO 2007).

    Parameters
    ----------
    z
        Embeddings (n, D), not centred.

    Returns
    -------
    Scalar from 1, all rows on one line through the origin, to ``min(n, D)``, all directions alike.
    """
    values = torch.linalg.svdvals(z.float())
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(p).sum().exp()


@torch.no_grad()
def mean_cosine(z: torch.Tensor) -> torch.Tensor:
    """Mean cosine between two different rows: 1 when all point the same way, about 0 when spread evenly.

    Parameters
    ----------
    z
        Embeddings (n, D), n of 2 or more.

    Returns
    -------
    Scalar from ``-1 / (n - 1)`` to 1.
    """
    unit = F.normalize(z.float(), dim=1)
    n = len(unit)
    # the sum over all pairs is the squared length of the sum; each row's own product, its squared length, is left out
    return (unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))


def collapse_metrics(z: torch.Tensor) -> dict[str, torch.Tensor]:
    """Both measures, of the first 1024 rows.

    Parameters
    ----------
    z
        Embeddings, (n, D).

    Returns
    -------
    ``rank`` and ``cosine``, scalars.
    """
    rows = gather_rows(z.detach().float())[:MOST_ROWS]
    return {"rank": rankme(rows), "cosine": mean_cosine(rows)}
