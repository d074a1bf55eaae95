"""Parts of the DINOv2 losses: targets of the teacher, cross-entropies, and terms that spread the embeddings.

DINO: Caron et al. (ICCV 2021); iBOT: Zhou et al. (ICLR 2022); DINOv2: Oquab et al. (TMLR 2024).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from lemon_sc.train.distributed import max_over_ranks, sum_over_ranks

STUDENT_TEMPERATURE = 0.1
CENTRE_MOMENTUM = 0.9


class Centre(nn.Module):
    """Targets by centring: ``softmax((t - c) / tau)``, then ``c <- 0.9 c + 0.1 mean(t)``, over all processes.

    The centre moves in training mode only, and acts from the next batch on.

    Parameters
    ----------
    prototypes
        K.
    """

    def __init__(self, prototypes: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(1, prototypes))
        self.value: torch.Tensor

    @torch.no_grad()
    def forward(self, scores: torch.Tensor, temperature: float) -> torch.Tensor:
        """From scores (n, K) to probabilities (n, K), float32; n may be 0."""
        t = scores.float()
        targets = ((t - self.value) / temperature).softmax(dim=1)
        if self.training:
            total, count = sum_over_ranks(t.sum(0)), sum_over_ranks(t.new_tensor(float(len(t))))
            mean = torch.where(count > 0, total / count.clamp_min(1), self.value)
            self.value.lerp_(mean.view(1, -1), 1 - CENTRE_MOMENTUM)
        return targets


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, temperature: float, *, iterations: int = 3) -> torch.Tensor:
    """Targets by Sinkhorn-Knopp: each prototype gets about the same share of the batch, over all processes.

    Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (NeurIPS 2020).

    Parameters
    ----------
    scores
        (n, K); n may differ between processes, and be 0.
    temperature
        tau of the teacher.
    iterations
        Rounds of scaling prototypes, then samples.

    Returns
    -------
    Probabilities (n, K), float32: rows sum to 1; columns, over all processes, to nearly N / K.
    """
    t = scores.float() / temperature
    # a factor common to all entries cancels; without it the exponentials overflow for prototypes that have grown long
    highest = max_over_ranks(t.max() if t.numel() else t.new_tensor(-math.inf))
    q = (t - highest).exp()
    q /= sum_over_ranks(q.sum()).clamp_min(torch.finfo(q.dtype).tiny)
    samples = sum_over_ranks(q.new_tensor(float(len(q)))).clamp_min(1)
    tiny = torch.finfo(q.dtype).tiny  # what has no mass at all stays without
    for _ in range(iterations):
        q /= sum_over_ranks(q.sum(0)).clamp_min(tiny) * q.shape[1]
        q /= q.sum(1, keepdim=True).clamp_min(tiny) * samples
    return q * samples


def pairs_loss(targets: torch.Tensor, scores: torch.Tensor, *, skip_same: bool) -> tuple[torch.Tensor, int]:
    """Cross-entropy from each view of the teacher to each view of the student, as a sum over pairs of views.

    Parameters
    ----------
    targets
        Probabilities (views of the teacher, n, K).
    scores
        Scores of the student (views of the student, n, K).
    skip_same
        Whether pairs of a view with itself are left out: the two sides see the same views.

    Returns
    -------
    Sum over pairs of the mean over n, and the number of pairs.
    """
    log_p = (scores.float() / STUDENT_TEMPERATURE).log_softmax(dim=-1)
    pairs = [(i, j) for i in range(len(targets)) for j in range(len(log_p)) if not (skip_same and i == j)]
    losses = [-(targets[i] * log_p[j]).sum(-1).mean() for i, j in pairs]
    return torch.stack(losses).sum(), len(pairs)


def masked_loss(targets: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """iBOT: cross-entropy at the masked patches, averaged over those of an image, then over all images.

    Parameters
    ----------
    targets, scores
        Probabilities of the teacher and scores of the student, (m, K), of the masked patches in the order of
        ``mask.nonzero()``.
    mask
        bool (n, P); images without a masked patch count with 0.

    Returns
    -------
    Scalar; 0 where nothing is masked.
    """
    weight = (mask / mask.sum(1, keepdim=True).clamp_min(1))[mask]
    log_p = (scores.float() / STUDENT_TEMPERATURE).log_softmax(dim=-1)
    return -((targets * log_p).sum(-1) * weight).sum() / len(mask)


def koleo(z: torch.Tensor) -> torch.Tensor:
    """Kozachenko-Leonenko term: ``-mean log(distance to the nearest other + 1e-8)`` on the unit sphere.

    Sablayrolles et al., "Spreading Vectors for Similarity Search" (ICLR 2019). Its gradient has no bound: near
    duplicates, of which nuclei have many, dominate it.

    Parameters
    ----------
    z
        Embeddings (n, D), n of 2 or more, of any length.

    Returns
    -------
    Scalar.
    """
    with torch.autocast(z.device.type, enabled=False):
        unit = F.normalize(z.float(), dim=1)
        cosines = (unit @ unit.T).detach().fill_diagonal_(-2.0)  # only to find the nearest
        distance = (unit - unit[cosines.argmax(1)]).norm(dim=1)
        return -(distance + 1e-8).log().mean()


def kde(z: torch.Tensor, *, concentration: float = 5.0) -> torch.Tensor:
    """Kernel density term: mean log density at each embedding, by a von Mises-Fisher kernel over all the others.

    ``(1 / n) sum_i log[(1 / (n - 1)) sum_{j != i} exp(kappa z_i . z_j)]`` on the unit sphere: kappa when all embeddings
    are alike, 0 when they are orthogonal. In place of `koleo` its gradient is bounded, by kappa.

    Parameters
    ----------
    z
        Embeddings (n, D), n of 2 or more, of any length.
    concentration
        kappa.

    Returns
    -------
    Scalar.
    """
    with torch.autocast(z.device.type, enabled=False):
        unit = F.normalize(z.float(), dim=1)
        own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        kernel = (concentration * (unit @ unit.T)).masked_fill(own, -math.inf)
        return (kernel.logsumexp(1) - math.log(len(unit) - 1)).mean()
