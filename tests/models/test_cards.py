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
        ({"features": None}, r"`card\.features` must be a tuple of names, got None"),
        ({"features": ("a", 5)}, r"card\.features"),
        ({"files": "x"}, r"`card\.files` must be a tuple of names, got 'x'"),
        ({"mpp": "x"}, r"`card\.mpp` must be a finite number of um per px > 0, got 'x'"),
        ({"mpp": None}, r"card\.mpp"),
        ({"mean": 0.5}, r"`card\.mean` must be three finite numbers"),
        ({"std": (0.1, "a", 0.1)}, r"`card\.std` must be three finite numbers"),
        ({"num_heads": "3"}, r"`card\.num_heads` must be an int >= 0, got '3'"),
        ({"num_heads": None}, r"card\.num_heads"),
        ({"name": 5}, r"`card\.name` must be text"),
        ({"license": None}, r"`card\.license` must be text, which may be empty, got None"),
        ({"sha256": 5}, r"card\.sha256"),
        ({"pooling": ["cls"]}, r"card\.pooling"),
        ({"training": None}, r"`card\.training` must be a dict, got None"),
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
