"""Multinomial logistic regression, solved to its optimum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from lemon_sc._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MAX_ITER = 5000
_TOLERANCE = 1e-8  # largest element of the gradient, of the mean loss in columns of one scale
_UNSOLVED = 1e-5  # above it, probabilities are off visibly
_CURVATURE = 0.03  # about that of the loss in a logit: p (1 - p), averaged; any number of this order does


def fit_softmax(
    x_ND: Array,
    code_N: NDArray[np.intp],
    *,
    c: float = 1.0,
    start: tuple[Array, Array] | None = None,
    weight_N: Array | None = None,
) -> tuple[Array, Array]:
    """Weights that minimise cross-entropy, summed over cells, plus the squared weights (no intercepts) over ``2 c``.

    The optimum is that of scikit-learn's ``LogisticRegression(C=c)``, and unique. Its lbfgs stops where the gradient is
    1e-4; with the hundreds of correlated features of an embedding, probabilities are then visibly away from those of
    the optimum, and depend on the path (`benchmarks/logistic.py`). Here columns are brought to the scale in which the
    penalised loss curves alike in all of them, so that the same algorithm (L-BFGS) gets there.

    Parameters
    ----------
    x_ND
        Features. Columns that are uncorrelated (principal components, all of them, which the penalty cannot tell from
        the features) make it fast; the result does not depend on it.
    code_N
        (N,) class of each cell, 0 .. K - 1, each there, K >= 2.
    c
        Inverse penalty.
    start
        Weights and intercepts to begin at, those of another penalty, say; the result does not depend on them.
    weight_N
        How often each cell counts, > 0; ``None``: once.

    Returns
    -------
    Weights (D, K) and intercepts (K,) of the logits. For two classes, logit 1 minus logit 0 is that of scikit-learn.
    """
    n, k = len(x_ND), int(code_N.max()) + 1
    # Two rows of weights share what one row of the binary model holds, and would pay half its penalty.
    penalty = (2.0 if k == 2 else 1.0) / (c * n)
    scale = np.append(1 / np.sqrt(_CURVATURE * x_ND.var(axis=0) + penalty), 1 / np.sqrt(_CURVATURE))
    z_ND = np.column_stack([x_ND, np.ones(n)]) * scale
    penalty_D = np.append(penalty * scale[:-1] ** 2, 0.0)
    cells, times = np.arange(n), np.ones(n) if weight_N is None else weight_N

    def loss(flat: Array) -> tuple[float, Array]:
        """Mean loss and its gradient; a row per class, in which numpy sums fastest."""
        w_KD = flat.reshape(k, -1)
        p_KN = w_KD @ z_ND.T
        p_KN -= p_KN.max(axis=0)
        own = (times * p_KN[code_N, cells]).sum()
        total = np.exp(p_KN, out=p_KN).sum(axis=0)
        p_KN /= total / times
        p_KN[code_N, cells] -= times
        value = ((times * np.log(total)).sum() - own) / n + 0.5 * (penalty_D * w_KD**2).sum()
        return float(value), (p_KN @ z_ND / n + penalty_D * w_KD).ravel()

    options = {"maxiter": MAX_ITER, "maxfun": 2 * MAX_ITER, "gtol": _TOLERANCE, "ftol": 0.0}
    first = np.zeros((k, z_ND.shape[1])) if start is None else np.vstack(start).T / scale
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    if np.abs(found.jac).max() > _UNSOLVED:
        msg = (
            "The logistic regression did not converge in %d steps: probabilities are approximate. "
            "The penalty was 1 / %g; stronger ones converge sooner."
        )
        logger.warning(msg, found.nit, c)
    w_DK = (found.x.reshape(k, -1) * scale).T
    return w_DK[:-1], w_DK[-1]


def softmax_path(
    x_ND: Array, code_N: NDArray[np.intp], c_P: NDArray[np.floating], *, weight_N: Array | None = None
) -> Iterator[tuple[Array, Array]]:
    """Solutions for one penalty after the other, each begun at the one before.

    Parameters
    ----------
    x_ND, code_N, weight_N
        As for `fit_softmax`.
    c_P
        Inverse penalties, strong penalties first: that is the shorter way.

    Yields
    ------
    Weights and intercepts, as `fit_softmax` gives them.
    """
    found = None
    for c in c_P:
        found = fit_softmax(x_ND, code_N, c=float(c), weight_N=weight_N, start=found)
        yield found
