"""The same probe before and after, in folds by slide and by patient."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm

N, SLIDES = 60, ("a1", "a2", "b1", "b2", "c1", "d1")


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    slide = np.repeat(SLIDES, N)
    y = rng.normal(size=(len(slide), 3))
    before = np.hstack([y[:, :1] + 2 * rng.normal(size=(len(slide), 1)), rng.normal(size=(len(slide), 4))])
    after = np.hstack([y + 0.5 * rng.normal(size=y.shape), rng.normal(size=(len(slide), 2))])
    return before, after, y, slide, np.array([name[0] for name in slide])


def test_what_was_learned_is_seen(case):
    before, after, y, slide, patient = case
    made = lm.metrics.expression_gain(before, after, expression=y, slides=slide, patients=patient)
    assert made.folds == "leave_one_patient_out"
    assert made.after.pcc - made.before.pcc == pytest.approx(made.test.difference)
    assert made.test.low > 0.3
    assert (made.test.n_units, made.test.pvalue) == (4, 2 / 2**4)
    assert made.after.slides == tuple(sorted(SLIDES))


def test_correlations_are_those_of_scikit_learn(case):
    before, after, y, slide, patient = case
    plan = lm.tl.ProbeProtocol(alpha=10.0)
    made = lm.metrics.expression_gain(before, after, expression=y, slides=slide, patients=patient, protocol=plan)
    for s, name in enumerate(made.after.slides):
        train, test = patient != name[0], slide == name
        scaler = StandardScaler().fit(after[train])
        guess = Ridge(alpha=10.0).fit(scaler.transform(after[train]), y[train]).predict(scaler.transform(after[test]))
        wanted = [np.corrcoef(guess[:, g], y[test, g])[0, 1] for g in range(3)]
        np.testing.assert_allclose(made.after.gene_pcc[s], wanted, atol=1e-8)


def test_a_patient_whose_slides_are_alike_flatters_folds_by_slide():
    """What is told holds for one patient only: other slides of the patient give it away."""
    rng = np.random.default_rng(1)
    slide = np.repeat(["a1", "a2", "b1", "b2"], 80)
    patient = np.array([name[0] for name in slide])
    x = rng.normal(size=(320, 2))
    y = np.where(patient == "a", x[:, 0], -x[:, 0])[:, None]
    z = np.hstack([x * (patient == "a")[:, None], x * (patient == "b")[:, None]])
    by_slide = lm.metrics.expression_gain(x, z, expression=y, slides=slide)
    by_patient = lm.metrics.expression_gain(x, z, expression=y, slides=slide, patients=patient)
    assert by_slide.folds == "leave_one_slide_out"
    assert by_slide.after.pcc > 0.95
    assert not by_patient.after.pcc > 0.1


def test_bad_input(case):
    before, after, y, slide, patient = case
    with pytest.raises(ValueError, match="`after` must be 2-D, with a row for each of the same cells"):
        lm.metrics.expression_gain(before, after[:9], expression=y, slides=slide)
    bad = before.copy()
    bad[3] = np.nan
    with pytest.raises(ValueError, match="`before` must be finite, got '1 rows"):
        lm.metrics.expression_gain(bad, after, expression=y, slides=slide)
    with pytest.raises(ValueError, match=r"`slides` must name one for each of the \d+ cells, got \(3,\)"):
        lm.metrics.expression_gain(before, after, expression=y, slides=slide[:3])
    with pytest.raises(ValueError, match="`slides` must name every row"):
        lm.metrics.expression_gain(before, after, expression=y, slides=[None, *slide[1:]])
    with pytest.raises(ValueError, match="at least two patients"):
        lm.metrics.expression_gain(before, after, expression=y, slides=slide, patients=["p"] * len(slide))
