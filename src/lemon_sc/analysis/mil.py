"""What a slide is, from the embeddings of its nuclei or tiles: multiple-instance probes.

Letters of array names: B bags, I instances of all bags, D features, K classes.

References
----------
M. Ilse et al., "Attention-based deep multiple instance learning" (ICML 2018): gated attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.nn import functional

from lemon_sc._core.errors import bad_value, listing, one_of
from lemon_sc._core.rng import RNG, spawn
from lemon_sc.metrics.classification import classification
from lemon_sc.metrics.correlation import constant_floor
from lemon_sc.metrics.means import nanmean, nanstd
from lemon_sc.metrics.names import as_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

POOLINGS = ("attention", "mean")
SCORES = ("auc", "balanced_accuracy", "kappa")
BAGS, DROPOUT, LR, WEIGHT_DECAY = 4, 0.25, 1e-3, 1e-4


@dataclass(frozen=True, eq=False, kw_only=True)
class MILScores:
    """A multiple-instance probe, each bag scored by a network that has seen no bag of its patient."""

    classes: tuple[str, ...]
    probability: Array
    """(B, K)"""
    fold: NDArray[np.intp]
    """(B,) the fold in which a bag was held out."""
    scores: Array
    """(F, 3) by fold: `auc` (mean over classes against the rest), `balanced_accuracy`, `kappa` (Cohen's, with quadratic
    weights in the order of `classes`, which means something for ordered classes only). NaN where a fold has one class.
    """
    attention: tuple[Array, ...]
    """Weights of the instances of each bag, (n,), which sum to one; with ``pooling="mean"`` all alike."""

    @property
    def auc(self) -> float:
        """Mean over folds."""
        return float(nanmean(self.scores[:, 0], axis=0))

    @property
    def balanced_accuracy(self) -> float:
        """Mean over folds."""
        return float(nanmean(self.scores[:, 1], axis=0))

    @property
    def kappa(self) -> float:
        """Mean over folds."""
        return float(nanmean(self.scores[:, 2], axis=0))

    @property
    def sd(self) -> dict[str, float]:
        """Sample sd over folds, by name of the score."""
        return dict(zip(SCORES, nanstd(self.scores, axis=0).tolist(), strict=True))


class BagClassifier(nn.Module):
    """One hidden layer per instance, pooled over the bag by gated attention or the mean, and a linear layer.

    Parameters
    ----------
    n_features, n_classes
        D and K.
    hidden
        Units of the hidden layer and of the attention.
    pooling
        ``"attention"``: ``a = softmax(w (tanh(V h) * sigmoid(U h)))`` over the instances of a bag. ``"mean"``.
    """

    def __init__(self, n_features: int, n_classes: int, *, hidden: int = 256, pooling: str = "attention") -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Dropout(DROPOUT))
        gated = pooling == "attention"
        self.content = nn.Linear(hidden, hidden) if gated else None
        self.gate = nn.Linear(hidden, hidden) if gated else None
        self.weigh = nn.Linear(hidden, 1) if gated else None
        self.classify = nn.Linear(hidden, n_classes)

    def forward(self, x: torch.Tensor, bag: torch.Tensor, n_bags: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of bags and weights of instances.

        Parameters
        ----------
        x
            (I, D) instances of several bags.
        bag
            (I,) bag of each, 0 .. `n_bags` - 1.
        n_bags
            Number of bags, none empty.

        Returns
        -------
        (n_bags, K), and (I,), which sum to one over each bag.
        """
        h = self.embed(x)
        if self.content is None or self.gate is None or self.weigh is None:
            score = x.new_zeros(len(x))
        else:
            score = self.weigh(torch.tanh(self.content(h)) * torch.sigmoid(self.gate(h)))[:, 0]
        highest = score.detach().new_full((n_bags,), -torch.inf).scatter_reduce(0, bag, score.detach(), "amax")
        weight = (score - highest[bag]).exp()
        weight = weight / weight.new_zeros(n_bags).index_add(0, bag, weight)[bag]
        pooled = h.new_zeros(n_bags, h.shape[1]).index_add(0, bag, weight[:, None] * h)
        return self.classify(pooled), weight


def mil_probe(
    bags: Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    patients: ArrayLike,
    pooling: str = "attention",
    classes: Sequence[str] | None = None,
    n_folds: int = 5,
    hidden: int = 256,
    epochs: int = 30,
    rng: RNG = 0,
) -> MILScores:
    """Predict a label of a slide from the embeddings in it, in folds by patient.

    Folds hold about the same share of each class, and all bags of a patient together. Instances are standardised with
    those of the training bags.

    Parameters
    ----------
    bags
        One (n, D) array for each slide, n >= 1, finite. The order within a bag does not matter.
    labels
        (B,) class of each bag.
    patients
        (B,) patient of each bag.
    pooling
        ``"attention"`` (gated) or ``"mean"``.
    classes
        Names in the order that `MILScores.kappa` takes; ``None`` sorts them.
    n_folds
        Number of folds.
    hidden
        Units of the network.
    epochs
        Times that each bag is seen.
    rng
        Draws folds, weights and batches.

    Returns
    -------
    `MILScores`.

    Raises
    ------
    ValueError
        If a bag is empty or has other features or values that are not finite, labels or patients are missing, lengths
        differ, there are fewer than two classes, or a class has fewer patients than there are folds.

    Examples
    --------
    >>> import numpy as np
    >>> import lemon_sc as lm
    >>> draw = np.random.default_rng(0)
    >>> grade = np.repeat(["low", "high"], 20)
    >>> slides = [draw.normal(size=(30, 4)) + 2 * (name == "high") for name in grade]
    >>> made = lm.metrics.mil_probe(slides, grade, patients=np.arange(40), n_folds=2, epochs=5)
    >>> made.auc > 0.9, len(made.attention[0])
    (True, 30)
    """
    one_of("pooling", pooling, POOLINGS)
    x, bag, of, who, names = _checked(bags, labels, patients, classes)
    for name, value, least in (("n_folds", n_folds, 2), ("hidden", hidden, 1), ("epochs", epochs, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise bad_value(name, must=f"be an int >= {least}", got=value)
    fold_rng, fit_rng = spawn(rng, 2)
    fold = _folds(of, who, names, n_folds, fold_rng)
    probability, scores = np.empty((len(of), len(names))), np.full((n_folds, len(SCORES)), np.nan)
    weights = np.empty(len(x))
    for f, one_rng in enumerate(fit_rng.spawn(n_folds)):
        test = fold == f
        rows, train = np.flatnonzero(test[bag]), np.flatnonzero(~test[bag])
        mean, sd = x[train].mean(axis=0, dtype=np.float64), x[train].std(axis=0, dtype=np.float64)
        flat = sd <= constant_floor(x[train])
        z = ((x - mean) * np.where(flat, 0.0, 1.0 / np.where(flat, 1.0, sd))).astype(np.float32)
        network = _fit(
            z[train], bag[train], of, n_classes=len(names), hidden=hidden, pooling=pooling, epochs=epochs, rng=one_rng
        )
        probability[test], weights[rows] = _predict(network, z[rows], bag[rows])
        scores[f] = _scores(of[test], probability[test], names)
    split = np.split(weights, np.flatnonzero(np.diff(bag)) + 1)
    return MILScores(classes=names, probability=probability, fold=fold, scores=scores, attention=tuple(split))


def _checked(
    bags: Sequence[ArrayLike], labels: ArrayLike, patients: ArrayLike, classes: Sequence[str] | None
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp], NDArray[np.str_], tuple[str, ...]]:
    """Instances of all bags, the bag of each, code and patient of each bag, names of the classes."""
    arrays = [np.asarray(b, dtype=np.float32) for b in bags]
    wide = {a.shape[1] if a.ndim == 2 else -1 for a in arrays}
    bad = [i for i, a in enumerate(arrays) if a.ndim != 2 or not len(a) or not np.isfinite(a).all()]
    if not arrays or bad or len(wide) > 1:
        msg = "Each bag must be a finite (n, D) array with n >= 1, all of the same D" + (
            f"; bags {listing(bad)} are empty, not 2-D or not finite." if bad else f", got D of {sorted(wide)}."
        )
        raise ValueError(msg)
    text, who = as_names("labels", labels), as_names("patients", patients)
    if text.shape != (len(arrays),) or who.shape != (len(arrays),):
        msg = f"{len(arrays)} bags need as many labels and patients, got shapes {text.shape} and {who.shape}."
        raise ValueError(msg)
    names = tuple(np.unique(text).tolist() if classes is None else [str(c) for c in classes])
    unknown = sorted(set(text.tolist()) - set(names))
    if unknown or len(set(names)) < max(len(names), 2):
        fix = f"Labels are {listing(np.unique(text))}."
        raise bad_value("classes", must="be two or more, each once, with every label among them", got=names, fix=fix)
    code = {name: k for k, name in enumerate(names)}
    of = np.array([code[t] for t in text], dtype=np.intp)
    bag = np.repeat(np.arange(len(arrays)), [len(a) for a in arrays])
    return np.concatenate(arrays), bag, of, who, names


def _folds(
    of: NDArray[np.intp], who: NDArray[np.str_], names: tuple[str, ...], n_folds: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    patients = {name: len(np.unique(who[of == k])) for k, name in enumerate(names)}
    few = [f"{name} ({n})" for name, n in patients.items() if n < n_folds]
    if few:
        most = min(patients.values())
        fix = f"Lower `n_folds` to {most}." if most > 1 else "Leave such classes out, or join them with others."
        msg = f"{n_folds} folds by patient need as many patients of every class, but there are: {listing(few)}. {fix}"
        raise ValueError(msg)
    split = StratifiedGroupKFold(n_folds, shuffle=True, random_state=int(rng.integers(2**31)))
    fold = np.empty(len(of), dtype=np.intp)
    for f, (_, test) in enumerate(split.split(of, of, who)):
        fold[test] = f
    return fold


def _fit(
    z: NDArray[np.float32],
    bag: NDArray[np.intp],
    of: NDArray[np.intp],
    *,
    n_classes: int,
    hidden: int,
    pooling: str,
    epochs: int,
    rng: np.random.Generator,
) -> BagClassifier:
    """A network fitted to the bags of these instances, a few bags at a time."""
    names = np.unique(bag)
    start = dict(zip(names.tolist(), np.searchsorted(bag, names).tolist(), strict=True))
    size = dict(zip(names.tolist(), np.bincount(bag)[names].tolist(), strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        network = BagClassifier(z.shape[1], n_classes, hidden=hidden, pooling=pooling).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        for _ in range(epochs):
            for some in np.array_split(rng.permutation(names), -(-len(names) // BAGS)):
                rows = np.concatenate([np.arange(start[b], start[b] + size[b]) for b in some.tolist()])
                within = torch.from_numpy(np.repeat(np.arange(len(some)), [size[b] for b in some.tolist()]))
                logits, _ = network(torch.from_numpy(z[rows]), within, len(some))
                loss = functional.cross_entropy(logits, torch.from_numpy(of[some]))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
    return network.eval()


def _predict(
    network: BagClassifier, z: NDArray[np.float32], bag: NDArray[np.intp]
) -> tuple[Array, NDArray[np.float32]]:
    """Probabilities of the bags of these instances, in their order, and weights of the instances."""
    _, within = np.unique(bag, return_inverse=True)
    with torch.inference_mode():
        logits, weight = network(torch.from_numpy(z), torch.from_numpy(within.reshape(-1)), int(within.max()) + 1)
    return logits.double().softmax(dim=1).numpy(), weight.numpy()


def _scores(truth: NDArray[np.intp], probability: Array, names: tuple[str, ...]) -> tuple[float, float, float]:
    made = classification([names[k] for k in truth], probability, classes=names)
    guess = probability.argmax(axis=1)
    one = len(np.unique(truth)) < 2  # kappa would be 0/0, or 0 whatever is predicted
    kappa = np.nan if one else cohen_kappa_score(truth, guess, labels=np.arange(len(names)), weights="quadratic")
    return made.auc, np.nan if one else made.balanced_accuracy, float(kappa)
