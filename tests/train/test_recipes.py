import dataclasses
import inspect
import json

import pytest

from lemon_sc.train.build import METHODS, augmentations, build_encoder, build_method
from lemon_sc.train.recipes import OPTIONS, RECIPES, Recipe, changed, cpu, cpu_guided, debug, dinov2, dinov2_kde, lemon


def test_the_papers_run():
    """LEMON, appendix: 10 M crops, 150 epochs of 1 M, batch 4096; MoCo v3's numbers for what it leaves open."""
    recipe = lemon()
    assert (recipe.steps, recipe.epoch_steps) == (36_600, 244)
    assert recipe.peak_lr == pytest.approx(2.4e-3)
    assert (recipe.weight_decay, recipe.warmup_epochs, recipe.augmentation) == (0.1, 20, "a1+gray")
    encoder = build_encoder(recipe)
    assert sum(p.numel() for p in encoder.parameters()) == 21_378_816
    assert encoder.blocks[0].attn.num_heads == 12
    assert dinov2().peak_lr == pytest.approx(0.004 * 2)  # 4096 is four times 1024


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json_and_can_be_built(name):
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    small = changed(recipe, {"encoder": "vit_debug"} | ({"options.hidden": 8} if recipe.options else {}))
    small = changed(small, {"options.prototypes": 16} if recipe.method == "dinov2" else {})
    method = build_method(small)
    assert method.encoder_state_dict().keys() == build_encoder(small).state_dict().keys()


def test_options_are_arguments_of_the_methods():
    for name, options in OPTIONS.items():
        assert set(options) <= inspect.signature(METHODS[name].__init__).parameters.keys()


def test_views_follow_the_recipe():
    views = augmentations(dinov2(**{"options.n_local": 3}), None)
    assert [v.out_px for v in views] == [40, 40, 24, 24, 24]
    assert [v.crop_scale for v in views[1:3]] == [(0.32, 1.0), (0.05, 0.32)]
    views = augmentations(debug(image_px=32, mean=(0.5, 0.5, 0.5)), None)
    assert [(v.frame_px, v.out_px, v.mean, v.gray_p) for v in views] == [(32, 32, (0.5, 0.5, 0.5), 0.2)] * 2
    assert augmentations(debug(augmentation="a0"), None)[0].crop_scale == (0.08, 1.0)
    assert augmentations(debug(augmentation="a1"), None)[0].gray_p == 0
    guided = augmentations(debug(**{"options.guide": 0.5}), None)
    assert [(v.rotate, v.turn, v.shift_px) for v in guided] == [(True, False, 0)] * 2 + [(False, True, 2)]
    assert [v.turn for v in augmentations(cpu_guided(), None)] == [True]


def test_one_option_is_changed_and_the_others_stay():
    assert cpu(**{"options.hidden": 7}).options == {**cpu().options, "hidden": 7}
    assert dinov2_kde(epochs=11).options["spread"] == "kde"
    assert lemon(seed=3) == dataclasses.replace(lemon(), seed=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bacth": 4}, "'bacth' not found in `fields of a recipe`.*Did you mean 'batch'"),
        ({"options.hiden": 4}, "'hiden' not found in `options of moco_v3`.*Did you mean 'hidden'"),
        ({"encoder": "vit_s9"}, "`encoder` must be one of"),
        ({"method": "mae"}, "`method` must be one of"),
        ({"augmentation": "a2"}, "`augmentation` must be one of"),
        ({"precision": "fp16"}, "`precision` must be one of"),
        ({"image_px": 42}, "`image_px` must be a multiple of the patch, 8 px, got 42"),
        ({"local_px": 20}, "`local_px` must be a multiple of the patch, 8 px, got 20"),
        ({"batch": 1}, "`batch` must be an int >= 2, got 1"),
        ({"batch": 100}, "`batch` must be at most `epoch_length`, 64, got 100"),
        ({"epochs": 2.5}, "`epochs` must be an int >= 1, got 2.5"),
        ({"base_lr": 0}, "`base_lr` must be a number > 0, got 0"),
        ({"base_lr": "high"}, "`base_lr` must be a number > 0, got 'high'"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be a number >= 0, got nan"),
        ({"clip": -1}, "`clip` must be a number > 0, got -1"),
        ({"drop_path": 1}, "`drop_path` must be below 1"),
        ({"warmup_epochs": 2}, "`warmup_epochs` must be below `epochs`, 2, got 2"),
        ({"betas": (0.9, 1.0)}, "`betas` must be two numbers"),
        ({"options.guide": 1, "image_px": 48}, "`image_px` must be 40 where crops are measured, got 48"),
        ({"seed": -1}, "`seed` must be an int >= 0"),
    ],
)
def test_what_a_recipe_cannot_be(changes, message):
    with pytest.raises((ValueError, KeyError), match=message):
        debug(**changes)
