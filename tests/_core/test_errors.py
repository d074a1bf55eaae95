import pytest

from lemon_sc._core.errors import MissingKeyError, bad_value, listing, missing_key, one_of


def test_a_missing_key_says_what_where_what_is_there_and_what_to_do():
    error = missing_key("X_lemn", where="adata.obsm", have=["X_lemon", "X_pca"], fix="Run `lm.tl.embed` first.")
    assert isinstance(error, KeyError)
    assert str(error) == (
        "'X_lemn' not found in `adata.obsm` (found: ['X_lemon', 'X_pca']). Did you mean 'X_lemon'? "
        "Run `lm.tl.embed` first."
    )
    assert "Did you mean 'EPCAM'?" in str(missing_key("epcam", where="x", have=["CD3E", "EPCAM", "KRT8"]))
    assert "Did you mean 'Slide'?" in str(missing_key("slides", where="x", have=["SLIDES_", "Slide"]))
    assert "Did you mean" not in str(missing_key("nope", where="x", have=["NOISE9"]))
    assert str(missing_key("a", where="x", have=[])) == "'a' not found in `x` (found: [])."
    assert str(MissingKeyError("a sentence")) == "a sentence"


def test_a_bad_value_says_what_it_must_be():
    assert str(bad_value("batch_size", must="be an int >= 1", got=0)) == "`batch_size` must be an int >= 1, got 0."


def test_long_lists_are_cut():
    assert listing(range(14), most=2) == "['0', '1', and 12 more]"


def test_one_of():
    assert one_of("mask", "ring", ["nucleus", "ring"]) == "ring"
    with pytest.raises(
        ValueError, match=r"`mask` must be one of \['nucleus', 'ring'\], got 'rng'. Did you mean 'ring'"
    ):
        one_of("mask", "rng", ["nucleus", "ring"])
