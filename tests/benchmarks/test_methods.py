import methods
import pytest

from lemon_sc.train.recipes import debug


def test_as_many_steps_as_fit_into_the_time(monkeypatch):
    monkeypatch.setattr(methods, "seconds_per_step", lambda recipe, corpus: 0.25 * recipe.batch / 16)
    recipe = methods.fitted(debug(), None, 30)
    assert (recipe.epochs, recipe.steps) == (10, 120)
    assert methods.fitted(debug(batch=32), None, 30).steps == 60
    assert methods.fitted(debug(), None, 0.1).steps == 10  # no less than a step for each epoch


@pytest.mark.parametrize("name", methods.RECIPES)
def test_what_is_compared_differs_in_the_method_alone(name):
    """One network, one seed; those of a batch of their own say so."""
    recipe = methods.RECIPES[name]
    assert (recipe.encoder, recipe.seed) == ("vit_ti8", 0)
    assert recipe.batch == (64 if name == "cpu_guided" else 256)
