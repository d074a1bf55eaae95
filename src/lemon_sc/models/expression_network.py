"""The expression side of SEAL: an autoencoder whose latent vector lies in the space of an image encoder.

Letters of array names: N units, P genes of the panel, D width of latent and image embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence


class Latent(NamedTuple):
    """Latent vectors."""

    z: torch.Tensor
    """(N, D), after the flows."""
    excess: torch.Tensor
    """``log q(z) - log p(z)`` of each, nats (N,): its mean is the KL divergence from a standard normal."""


class PlanarFlow(nn.Module):
    """``z + u tanh(w z + b)``, u changed along w as far as is needed to have ``w u >= -1``: then it has an inverse.

    Rezende and Mohamed, "Variational Inference with Normalizing Flows" (ICML 2015), with their appendix A.1.

    Parameters
    ----------
    dim
        Width.
    generator
        Draws the first values.
    """

    def __init__(self, dim: int, *, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dim)
        self.w, self.u = (nn.Parameter(torch.empty(dim).uniform_(-bound, bound, generator=generator)) for _ in range(2))
        self.b = nn.Parameter(torch.zeros(()))

    def allowed_u(self) -> torch.Tensor:
        """U with ``w u = -1 + softplus(w u)``, (D,)."""
        along = self.w @ self.u
        return self.u + (F.softplus(along) - 1 - along) * self.w / (self.w @ self.w).clamp_min(1e-12)

    def forward(self, z_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, D) to (N, D), and the logarithm of the Jacobian's determinant, (N,)."""
        u = self.allowed_u()
        h_N = torch.tanh(z_ND @ self.w + self.b)
        log_det_N = torch.log1p((1 - h_N**2) * (self.w @ u))
        return z_ND + h_N[:, None] * u, log_det_N


class ExpressionNetwork(nn.Module):
    """Standardised expression to a latent vector and back.

    Parameters
    ----------
    n_genes, dim
        P and D.
    hidden
        Widths of the encoder's layers; the decoder has them in the other order.
    n_flows
        Planar flows after the latent vector is drawn.
    generator
        Draws the first weights.
    """

    def __init__(
        self, n_genes: int, dim: int, *, hidden: Sequence[int], n_flows: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            widths = (n_genes, *hidden)
            self.body = nn.Sequential(*(layer for a, b in zip(widths, hidden, strict=False) for layer in _normed(a, b)))
            self.mu, self.log_var = (nn.Linear(widths[-1], dim) for _ in range(2))
            self.flows = nn.ModuleList(PlanarFlow(dim, generator=generator) for _ in range(n_flows))
            back = (dim, *reversed(hidden))
            rising = (layer for a, b in zip(back, back[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU()))
            self.decoder = nn.Sequential(*rising, nn.Linear(back[-1], n_genes))

    def encode(self, x_NP: torch.Tensor) -> Latent:
        """Latent vectors: drawn in training mode, and the same every time in evaluation mode.

        Parameters
        ----------
        x_NP
            Standardised expression, 0 for genes that are missing.

        Returns
        -------
        The vectors, and what they add to the divergence.
        """
        h = self.body(x_NP)
        mu, log_var = self.mu(h), self.log_var(h)
        noise = torch.randn_like(mu) if self.training else torch.zeros_like(mu)
        z = mu + noise * (0.5 * log_var).exp()
        log_q_N = -0.5 * (log_var + noise**2).sum(dim=1)  # both without the constant, which cancels
        for flow in self.flows:
            z, log_det_N = flow(z)
            log_q_N = log_q_N - log_det_N
        return Latent(z, log_q_N + 0.5 * (z**2).sum(dim=1))

    def decode(self, z_ND: torch.Tensor) -> torch.Tensor:
        """Latent vectors to log-normalised expression (N, P), not standardised and >= 0.

        Parameters
        ----------
        z_ND
            From `encode`.

        Returns
        -------
        Expression.
        """
        return F.relu(self.decoder(z_ND))


def _normed(width_in: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width_in, width), nn.BatchNorm1d(width), nn.ReLU()
