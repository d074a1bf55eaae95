from __future__ import annotations

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
        ({"alpha": 0}, '`alpha` must be "inner", "hest" or a number > 0, got 0'),
        ({"alpha": True}, "`alpha` must be .* got True"),
        ({"c": -1}, "`c` must be a number > 0, got -1"),
        ({"n_pcs": 0}, "`n_pcs` must be None or an int >= 1, got 0"),
        ({"n_null": -1}, "`n_null` must be an int >= 0, got -1"),
    ],
)
def test_bad_choices_say_so(options, match):
    with pytest.raises(ValueError, match=match):
        ProbeProtocol(**options)


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match=r"`protocol` must be one of \['default', 'hest'\], got 'hst'"):
        as_protocol("hst")
    with pytest.raises(TypeError, match=r"or a `lm.tl.ProbeProtocol`, got int"):
        as_protocol(3)
