"""Cell-type composition of a spot from frozen features of its image: the network, its loss, and held-out predictions.

Letters of array names: N spots, D features, C cell types.

References
----------
A published network of seven layers on the joint features of two frozen encoders, fitted to the abundances of a Bayesian
deconvolution; the widths of its layers and the weights of its loss were not reported and are choices made here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.log import logger
from lemon_sc.metrics.correlation import constant_floor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

TARGETS = ("abundance", "proportion")
LEAST = 3
"""Spots that a network can learn from."""
MIN_BATCH = 64
"""Spots that a correlation within a batch should rest on."""
_STEPS = 8  # of an epoch, at least, where spots suffice
_EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class DecompositionProtocol:
    """How `lm.tl.decompose` builds and fits its network."""

    widths: tuple[int, ...] = (1024, 1024, 512, 512, 256, 128)
    """Units of the hidden layers, each followed by SiLU; a linear layer to the cell types follows."""

    dropout: float = 0.1
    """After each hidden layer."""

    l1: float = 1.0
    """Weight of the mean absolute error, beside the mean squared error."""

    correlation: float = 1.0
    """Weight of one minus the mean Pearson correlation of the types over a batch."""

    lr: float = 1e-3
    """Learning rate of AdamW at the start; a cosine takes it to zero."""

    weight_decay: float = 1e-4
    """Of AdamW."""

    epochs: int = 100
    """At most."""

    batch_size: int = 256
    """Spots at once. Fewer, but at least `MIN_BATCH`, where an epoch would otherwise have fewer than eight steps: the
    deep network would stop before it has begun to learn. The last, smaller batch is shared out among the others."""

    patience: int = 20
    """Epochs without a lower loss on the spots held out for stopping after which training ends. The weights of the best
    epoch are kept."""

    device: str = "cpu"
    """Where to train. The network is small; a GPU pays from about 100,000 spots on."""

    def __post_init__(self) -> None:
        for name in ("epochs", "patience"):
            _check_int(name, getattr(self, name), least=1)
        _check_int("batch_size", self.batch_size, least=MIN_BATCH)
        if not isinstance(self.widths, tuple) or not self.widths:
            raise bad_value("widths", must="be a tuple of ints >= 1", got=self.widths)
        for width in self.widths:
            _check_int("widths", width, least=1)
        if not 0 <= self.dropout < 1:
            raise bad_value("dropout", must="lie in [0, 1)", got=self.dropout)
        for name in ("l1", "correlation", "weight_decay"):
            if not 0 <= getattr(self, name) < np.inf:
                raise bad_value(name, must="be a finite number >= 0", got=getattr(self, name))
        if not 0 < self.lr < np.inf:
            raise bad_value("lr", must="be a finite number > 0", got=self.lr)


def _check_int(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise bad_value(name, must=f"be an int >= {least}", got=value)


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposer:
    """A fitted network."""

    network: nn.Module
    target: str
    mean: Array
    """(D,) of the training spots."""
    inverse_sd: Array
    """(D,) of the training spots; 0 for features that are constant there."""
    epochs: int
    """Epochs run."""
    best_epoch: int
    """Epoch of the weights that were kept, from 1."""
    losses: Array
    """(epochs, 2) of the training spots and of those held out for stopping (NaN without any)."""

    def predict(self, x_ND: NDArray[np.floating]) -> Array:
        """Composition of spots.

        Parameters
        ----------
        x_ND
            Features, finite.

        Returns
        -------
        (N, C): abundances, nothing below 0, or proportions.
        """
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            out = _head(self.network(self._standardised(x_ND).to(device)), self.target).cpu().numpy()
        return np.maximum(out, 0.0).astype(np.float64)

    def _standardised(self, x_ND: NDArray[np.floating]) -> torch.Tensor:
        return torch.from_numpy(((x_ND - self.mean) * self.inverse_sd).astype(np.float32))


def decomposition_network(n_features: int, n_types: int, protocol: DecompositionProtocol) -> nn.Sequential:
    """The network with random weights, drawn from torch's generator.

    Parameters
    ----------
    n_features, n_types
        D and C.
    protocol
        Widths and dropout.

    Returns
    -------
    (N, D) to (N, C), the last layer linear.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise((n_features, *protocol.widths)):
        layers += [nn.Linear(before, after), nn.SiLU(), nn.Dropout(protocol.dropout)]
    return nn.Sequential(*layers, nn.Linear(protocol.widths[-1], n_types))


def decomposition_loss(
    prediction: torch.Tensor, truth: torch.Tensor, *, l1: float = 1.0, correlation: float = 1.0
) -> torch.Tensor:
    """``MSE + l1 * MAE + correlation * (1 - mean over types of the Pearson correlation over the batch)``.

    Parameters
    ----------
    prediction, truth
        (B, C).
    l1, correlation
        Weights.

    Returns
    -------
    A scalar. A type that is constant in the batch has the correlation 0.
    """
    error = prediction - truth
    a, b = prediction - prediction.mean(dim=0), truth - truth.mean(dim=0)
    sd_a, sd_b = (((z**2).mean(dim=0) + _EPS**2).sqrt() for z in (a, b))  # the gradient of sqrt is infinite at 0
    r = (a * b).mean(dim=0) / (sd_a * sd_b + _EPS)
    return (error**2).mean() + l1 * error.abs().mean() + correlation * (1 - r.mean())


def fit_decomposition(
    x_ND: NDArray[np.floating],
    y_NC: NDArray[np.floating],
    *,
    valid: NDArray[np.bool_],
    target: str,
    protocol: DecompositionProtocol,
    rng: np.random.Generator,
) -> Decomposer:
    """Fit the network; features are standardised with the spots that it learns from.

    Parameters
    ----------
    x_ND
        Features of the training spots, finite.
    y_NC
        Their composition, finite, not negative; rows of proportions sum to one.
    valid
        (N,) spots that are held out for early stopping; with none, all epochs are run.
    target
        ``"abundance"`` (linear output) or ``"proportion"`` (softmax).
    protocol
        The choices.
    rng
        Draws weights, batches and dropout.

    Returns
    -------
    The fitted network.

    Raises
    ------
    ValueError
        If no feature varies over the training spots, there are fewer than three, or the loss is not finite.
    """
    one_of("target", target, TARGETS)
    x, y = x_ND[~valid], y_NC[~valid]
    if len(x) < LEAST:
        msg = f"The network needs at least three spots to learn from, found {len(x)} ({int(valid.sum())} for stopping)."
        raise ValueError(msg)
    mean, sd = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    flat = sd <= constant_floor(x)
    if flat.all():
        msg = f"None of the {len(flat)} features varies over the {len(x)} training spots. Are they all zero?"
        raise ValueError(msg)
    inverse_sd = np.where(flat, 0.0, 1.0 / np.where(flat, 1.0, sd))
    seed = int(rng.integers(2**63))
    where = torch.device(protocol.device)
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        network = decomposition_network(x.shape[1], y.shape[1], protocol).to(where)
        made = Decomposer(
            network=network, target=target, mean=mean, inverse_sd=inverse_sd, epochs=0, best_epoch=0, losses=np.empty(0)
        )
        x_all = made._standardised(x_ND).to(where)
        y_all = torch.from_numpy(np.asarray(y_NC, dtype=np.float32)).to(where)
        losses, best = _train(network, x_all, y_all, valid, target=target, protocol=protocol, rng=rng)
    return Decomposer(
        network=network.eval(),
        target=target,
        mean=mean,
        inverse_sd=inverse_sd,
        epochs=len(losses),
        best_epoch=best,
        losses=losses,
    )


def _head(out: torch.Tensor, target: str) -> torch.Tensor:
    return out.softmax(dim=1) if target == "proportion" else out


def _train(
    network: nn.Sequential,
    x: torch.Tensor,
    y: torch.Tensor,
    valid: NDArray[np.bool_],
    *,
    target: str,
    protocol: DecompositionProtocol,
    rng: np.random.Generator,
) -> tuple[Array, int]:
    """Train in place, leave the best weights there; losses by epoch, and the best epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=protocol.lr, weight_decay=protocol.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=protocol.epochs)
    weights = {"l1": protocol.l1, "correlation": protocol.correlation}
    rows, held = np.flatnonzero(~valid), torch.from_numpy(np.flatnonzero(valid)).to(x.device)
    if len(rows) < MIN_BATCH:
        logger.warning(
            "decompose: %d spots to learn from; correlations within a batch of fewer than %d are rough",
            len(rows),
            MIN_BATCH,
        )
    n_steps = max(len(rows) // protocol.batch_size, min(_STEPS, len(rows) // MIN_BATCH), 1)
    losses: list[tuple[float, float]] = []
    best, best_state = 0, copy.deepcopy(network.state_dict())
    for epoch in range(protocol.epochs):
        network.train()
        total = 0.0
        for batch in np.array_split(rng.permutation(rows), n_steps):
            at = torch.from_numpy(batch).to(x.device)
            loss = decomposition_loss(_head(network(x[at]), target), y[at], **weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        schedule.step()
        losses.append((total / len(rows), _held_out_loss(network, x[held], y[held], target, weights)))
        if not np.isfinite(losses[-1][0]):
            msg = f"The loss is {losses[-1][0]} in epoch {epoch + 1}. Lower `lr`, or look for extreme features."
            raise ValueError(msg)
        if not len(held) or losses[-1][1] < min((late for _, late in losses[:-1]), default=np.inf):
            best, best_state = epoch + 1, copy.deepcopy(network.state_dict())
        elif epoch + 1 - best >= protocol.patience:
            break
    network.load_state_dict(best_state)
    return np.array(losses), best


def _held_out_loss(
    network: nn.Sequential, x: torch.Tensor, y: torch.Tensor, target: str, weights: dict[str, float]
) -> float:
    if not len(x):
        return float("nan")
    network.eval()
    with torch.inference_mode():
        return float(decomposition_loss(_head(network(x), target), y, **weights))
