from __future__ import annotations

import numpy as np
import pytest

from lemon_sc.analysis.protocol import ProbeProtocol, as_protocol


def test_hest_is_a_name_for_its_penalty_and_components():
    assert as_protocol("hest") == ProbeProtocol(alpha="hest", n_pcs=256)
    own = ProbeProtocol(alpha=3.0)
    assert as_protocol(own) is own


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"folds": "strat"}, r"`folds` must be one of .* Did you mean 'stratified'"),
        ({"alpha": "iner"}, "`alpha` must be one of .* Did you mean 'inner'"),
        ({"alpha": 0}, '`alpha` must be "inner", "hest" or a finite number > 0, got 0'),
        ({"alpha": True}, "`alpha` must be .* got True"),
        ({"alpha": None}, "`alpha` must be .* got None"),
        ({"alpha": [1.0]}, r"`alpha` must be .* got \[1.0\]"),
        ({"alpha": float("inf")}, "`alpha` must be .* got inf"),
        ({"c": -1}, '`c` must be "inner" or a finite number > 0, got -1'),
        ({"c": "1"}, "`c` must be .inner. or a finite number > 0, got '1'"),
        ({"c": None}, '`c` must be "inner" or a finite number > 0, got None'),
        ({"c": True}, '`c` must be "inner" or a finite number > 0, got True'),
        ({"n_pcs": True}, "`n_pcs` must be None or an int >= 1, got True"),
        ({"n_pcs": 2.5}, "`n_pcs` must be None or an int >= 1, got 2.5"),
        ({"n_null": True}, "`n_null` must be an int >= 0, got True"),
        ({"n_null": 2.5}, "`n_null` must be an int >= 0, got 2.5"),
        ({"n_null": "3"}, "`n_null` must be an int >= 0, got '3'"),
        ({"train_only": "yes"}, "`train_only` must be True or False, got 'yes'"),
        ({"patient_key": 3}, "`patient_key` must be None or a str, got 3"),
        ({"pos_label": 3}, "`pos_label` must be None or a str, got 3"),
        ({"n_pcs": 0}, "`n_pcs` must be None or an int >= 1, got 0"),
        ({"n_null": -1}, "`n_null` must be an int >= 0, got -1"),
    ],
)
def test_bad_choices_say_so(options, match):
    with pytest.raises(ValueError, match=match):
        ProbeProtocol(**options)


def test_numbers_of_numpy_are_numbers():
    plan = ProbeProtocol(alpha=np.float32(2), c=np.int64(1), n_pcs=np.int64(8), n_null=np.int32(0))
    assert (plan.alpha, plan.c, plan.n_pcs, plan.n_null) == (2, 1, 8, 0)


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match=r"`protocol` must be one of \['default', 'hest'\], got 'hst'"):
        as_protocol("hst")
    with pytest.raises(TypeError, match=r"or a `lm.tl.ProbeProtocol`, got int"):
        as_protocol(3)
