"""Does an encoder tell more of expression after it was finetuned? The same probe, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from lemon_sc._core.errors import bad_value
from lemon_sc._core.rng import RNG, as_generator, spawn
from lemon_sc.analysis.probe import ridge_probe
from lemon_sc.analysis.protocol import ProbeProtocol, as_protocol
from lemon_sc.analysis.splits import leave_one_group_out
from lemon_sc.metrics.means import nanmean
from lemon_sc.metrics.names import as_names
from lemon_sc.metrics.regression import RegressionScores, regression
from lemon_sc.metrics.uncertainty import PairedTest, paired_test

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpressionGain:
    """Probes of the same cells or spots before and after."""

    before: RegressionScores
    after: RegressionScores
    test: PairedTest | None
    """Of the means over genes; units are patients, or slides without them. ``None`` where fewer than two have a
    correlation."""
    folds: str
    """``"leave_one_patient_out"`` or ``"leave_one_slide_out"``."""


def expression_gain(
    before: ArrayLike,
    after: ArrayLike,
    *,
    expression: ArrayLike | sparse.spmatrix | sparse.sparray,
    slides: ArrayLike,
    patients: ArrayLike | None = None,
    protocol: str | ProbeProtocol = "default",
    rng: RNG = 0,
) -> ExpressionGain:
    """Ridge probe of expression from two embeddings of the same rows, each slide predicted from the others.

    Parameters
    ----------
    before, after
        (N, D) and (N, E), finite.
    expression
        (N, G) as it is to be predicted (log-transformed, say), dense or sparse.
    slides
        (N,) slide of each row.
    patients
        (N,) patient of each row: slides of one patient are then never learned from for each other. Without it, other
        slides of the patient are, which flatters both embeddings.
    protocol
        ``"default"``, ``"hest"`` or a `lm.tl.ProbeProtocol`, of which penalty and components are used.
    rng
        Seed or generator.

    Returns
    -------
    `ExpressionGain`. Correlations are within slides.

    Raises
    ------
    ValueError
        If lengths differ, values are not finite, names are missing, or there are fewer than two slides or patients.

    Examples
    --------
    >>> import numpy as np
    >>> import lemon_sc as lm
    >>> draw = np.random.default_rng(0)
    >>> y, slide = draw.normal(size=(300, 2)), np.repeat(list("abc"), 100)
    >>> made = lm.metrics.expression_gain(draw.normal(size=(300, 4)), y + 1, expression=y, slides=slide)
    >>> made.after.pcc - made.before.pcc > 0.8
    True
    """
    y = np.asarray(expression.toarray() if isinstance(expression, sparse.spmatrix | sparse.sparray) else expression)
    arrays = {"before": np.asarray(before), "after": np.asarray(after), "expression": y}
    for name, array in arrays.items():
        if array.ndim != 2 or len(array) != len(arrays["before"]):
            raise bad_value(name, must="be 2-D, with a row for each of the same cells", got=f"shape {array.shape}")
        if not np.isfinite(array).all():
            raise bad_value(
                name, must="be finite", got=f"{int((~np.isfinite(array)).any(axis=1).sum())} rows that are not"
            )
    plan, of_slide = as_protocol(protocol), as_names("slides", slides)
    of_patient = None if patients is None else as_names("patients", patients)
    for name, names in (("slides", of_slide), ("patients", of_slide if of_patient is None else of_patient)):
        if names.shape != (len(arrays["before"]),):
            raise bad_value(name, must=f"name one for each of the {len(arrays['before'])} cells", got=names.shape)
        if len(np.unique(names)) < 2:
            raise bad_value(name, must=f"name at least two {name}, to learn and to test", got=np.unique(names).tolist())
    folds = leave_one_group_out(of_slide, of_patient)
    probe_rng, test_rng = spawn(rng, 2)
    seed = int(as_generator(probe_rng).integers(2**31))

    def scores(x: NDArray[np.floating]) -> RegressionScores:
        made = ridge_probe(x, y, folds, rng=np.random.default_rng(seed), n_null=0, alpha=plan.alpha, n_pcs=plan.n_pcs)
        return regression(y, made.predictions, slide=of_slide)

    first, second = scores(arrays["before"]), scores(arrays["after"])
    owner = dict(zip(of_slide.tolist(), (of_slide if of_patient is None else of_patient).tolist(), strict=True))
    defined = np.isfinite(first.slide_pcc) & np.isfinite(second.slide_pcc)
    units = np.array([owner[name] for name in first.slides])[defined]
    test = None
    if len(np.unique(units)) > 1:
        test = paired_test(
            first.slide_pcc[defined],
            second.slide_pcc[defined],
            score=lambda pcc: float(nanmean(pcc, axis=0)),
            units=units,
            rng=test_rng,
        )
    return ExpressionGain(
        before=first,
        after=second,
        test=test,
        folds="leave_one_slide_out" if patients is None else "leave_one_patient_out",
    )
