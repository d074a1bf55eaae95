"""Losses of SEAL: images against expression, and expression against what is reconstructed of it.

Letters of array names: B pairs of a batch, P genes, D width.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

RECONSTRUCTIONS = ("seal", "mse", "huber", "pearson")
CORRELATION, SQUARES, WHOLE = 0.05, 5.0, 0.1
"""Weights of the two terms of the reconstruction, and of their sum."""
_FLAT = 1e-6  # standard deviation of a standardised gene over a batch that counts as none


def contrast(
    image_BD: torch.Tensor, gene_BD: torch.Tensor, *, apart_BB: torch.Tensor, temperature: float
) -> torch.Tensor:
    """InfoNCE in both directions: each crop is to find its expression, and each expression its crop.

    Parameters
    ----------
    image_BD, gene_BD
        Embeddings of the same units; lengths do not count.
    apart_BB
        True for pairs of units that are left out as negatives; the diagonal does not count.
    temperature
        What cosines are divided by.

    Returns
    -------
    The mean of both cross-entropies, nats. ``ln B`` at random.
    """
    score_BB = F.normalize(image_BD, dim=1) @ F.normalize(gene_BD, dim=1).T / temperature
    own = torch.arange(len(score_BB), device=score_BB.device)
    left_out = apart_BB.clone()
    left_out[own, own] = False
    score_BB = score_BB.masked_fill(left_out, -torch.inf)
    return (F.cross_entropy(score_BB, own) + F.cross_entropy(score_BB.T, own)) / 2


def correlations(truth_BP: torch.Tensor, made_BP: torch.Tensor, known_BP: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Pearson correlation over a batch, gene by gene, of the rows where a gene is known.

    Parameters
    ----------
    truth_BP, made_BP
        What is and what is predicted, standardised.
    known_BP
        Bool.

    Returns
    -------
    Correlations (P,), 0 where undefined; and whether the truth varies, bool (P,).
    """
    w = known_BP.to(truth_BP.dtype)
    n = w.sum(dim=0).clamp_min(1)
    a, b = ((x - (w * x).sum(dim=0) / n) * w for x in (truth_BP, made_BP))
    var_a, var_b = (a * a).sum(dim=0) / n, (b * b).sum(dim=0) / n
    varies = var_a > _FLAT**2
    both = varies & (var_b > _FLAT**2)
    size = torch.where(both, var_a * var_b, 1.0).sqrt()
    return torch.where(both, (a * b).sum(dim=0) / n / size, 0.0), varies


def reconstruction(
    truth_BP: torch.Tensor, made_BP: torch.Tensor, *, known_BP: torch.Tensor, kind: str = "seal"
) -> torch.Tensor:
    """How far a reconstruction is from the truth, both standardised with the same mean and sd of each gene.

    Parameters
    ----------
    truth_BP, made_BP
        Standardised expression, and what is made of it.
    known_BP
        Which values are known; the others do not count. Nor do genes that are constant in the batch.
    kind
        ``"seal"``: ``0.1 (0.05 sum (1 - r)^2 + 5 MSE)`` with r the correlation over the batch, of all genes;
        ``"mse"``, ``"huber"``, or ``"pearson"``, the mean of ``1 - r``.

    Returns
    -------
    The loss; 0 if nothing is left.
    """
    r_P, varies_P = correlations(truth_BP, made_BP, known_BP)
    counted = known_BP & varies_P
    n_values, n_genes = counted.sum().clamp_min(1), varies_P.sum().clamp_min(1)
    if kind == "pearson":
        return (1 - r_P)[varies_P].sum() / n_genes
    if kind == "huber":
        each = F.huber_loss(made_BP, truth_BP, reduction="none")
        return torch.where(counted, each, 0.0).sum() / n_values
    mse = torch.where(counted, (made_BP - truth_BP) ** 2, 0.0).sum() / n_values
    if kind == "mse":
        return mse
    return WHOLE * (CORRELATION * ((1 - r_P)[varies_P] ** 2).sum() + SQUARES * mse)
