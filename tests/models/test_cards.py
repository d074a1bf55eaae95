import pytest

from lemon_sc.models import ModelCard


def card(**changes):
    return ModelCard(**{"name": "m", "dim": 2, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "card.name"),
        ({"dim": 0}, "card.dim"),
        ({"dim": 2.0}, "card.dim"),
        ({"input_px": True}, "card.input_px"),
        ({"mpp": 0}, "card.mpp"),
        ({"mpp": float("nan")}, "card.mpp"),
        ({"mean": (0.5, 0.5)}, "card.mean"),
        ({"mean": (0.5, 0.5, float("inf"))}, "card.mean"),
        ({"std": (0.1, 0.1, 0.0)}, "card.std"),
        ({"sha256": "abc"}, "card.sha256"),
        ({"features": ("a",)}, "2 different names"),
        ({"features": ("a", "a")}, "2 different names"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        card(**changes)


def test_a_good_card_passes():
    assert card(features=("a", "b"), sha256="0" * 64).input_px == 40


def test_a_misspelt_field_is_an_error():
    with pytest.raises(TypeError, match="mpx"):
        card(mpx=0.5)
