import numpy as np
import pytest
from scipy.stats import entropy

from lemon_sc.seg.active import diverse_tiles, top_tiles, uncertain_tiles, uncertainty
from lemon_sc.seg.rare_type import fit_rare_type

LN2 = np.log(2)


def test_one_tile_of_every_kind():
    """Six kinds in each of three slides, one of them 200 times as frequent as the others."""
    rng = np.random.default_rng(0)
    kind = np.tile(np.r_[np.zeros(200, int), 1:6], 3)
    slide = np.repeat(["s1", "s2", "s3"], 205)
    x = 10 * np.eye(6)[kind] + rng.normal(0, 0.1, (len(kind), 6))
    rows = diverse_tiles(x, slide, n_clusters=6, rng=1)
    assert sorted(zip(slide[rows], kind[rows], strict=True)) == [(s, k) for s in ("s1", "s2", "s3") for k in range(6)]
    fewer = diverse_tiles(x, slide, n=5, n_clusters=6, rng=1)
    assert len(set(fewer)) == 5
    assert set(fewer) <= set(rows)
    assert np.array_equal(fewer, diverse_tiles(x, slide, n=5, n_clusters=6, rng=1))
    assert diverse_tiles(x[:3], slide[:3], n_clusters=6).tolist() == [0, 1, 2]  # fewer tiles than clusters


def test_uncertainty_is_that_of_its_definition():
    p = np.random.default_rng(0).random((7, 50))
    got = uncertainty(p)
    both = np.stack([p, 1 - p])
    assert got.mean == pytest.approx(p.mean(axis=0))
    assert got.entropy == pytest.approx(entropy(both.mean(axis=1)))
    assert got.bald == pytest.approx(entropy(both.mean(axis=1)) - entropy(both).mean(axis=0))
    assert got.variation_ratio == pytest.approx([min(k, 7 - k) / 7 for k in (p >= 0.5).sum(axis=0)])
    assert got.bald.min() >= 0
    assert got.bald.max() <= LN2


def test_bounds_of_bald():
    """Sure and split: ln 2, all of it disagreement. Unsure and of one mind: entropy without disagreement."""
    got = uncertainty([[1, 0.5, 0], [0, 0.5, 0], [1, 0.5, 0], [0, 0.5, 0]])
    assert got.bald == pytest.approx([LN2, 0, 0])
    assert got.entropy == pytest.approx([LN2, LN2, 0])
    assert got.variation_ratio.tolist() == [0.5, 0, 0]


def test_what_models_disagree_about_is_taken_from_all_slides():
    """Planted: 10 of 200 tiles of each slide split the models; 10 more split them, but are improbable."""
    rng = np.random.default_rng(0)
    slide = np.repeat(["a", "b", "c"], 200)
    split, unlikely = (np.tile(np.arange(200) // 10 == k, 3) for k in (0, 1))
    p = np.full((10, 600), 0.45) + rng.normal(0, 0.005, (10, 600))
    p[:, split] = np.where(np.arange(10) % 2 == 0, 0.98, 0.02)[:, None]
    p[:, unlikely] = np.where(np.arange(10) < 3, 0.98, 0.02)[:, None]
    x = rng.normal(size=(600, 4))
    rows = uncertain_tiles(p, x, slide=slide, n=12, rng=0)
    assert len(rows) == 12
    assert split[rows].all()
    assert len(uncertain_tiles(p, x, slide=slide, n=50, rng=0)) == 15  # five of each slide are all there are
    assert len(uncertain_tiles(np.full((4, 600), 0.9), x, slide=slide)) == 0


def test_the_most_probable_of_each_slide():
    p = np.array([0.1, 0.9, 0.5, 0.7, 0.2, 0.3])
    assert top_tiles(p, ["s", "s", "s", "t", "t", "u"], n=2).tolist() == [1, 2, 3, 4, 5]


def planted(seed=0):
    """Tiles of 12 slides in two cohorts: the type shows in one embedding, under an offset of each slide."""
    rng = np.random.default_rng(seed)
    slide = np.repeat(np.arange(12), 16)
    y = np.tile(np.arange(16) % 4 == 0, 12)
    offset = rng.normal(0, 6, (12, 3))[slide]
    good = offset + rng.normal(size=(192, 3)) + 4.0 * y[:, None]
    return {"good": good, "noise": rng.normal(size=(192, 3))}, y, slide, np.where(slide < 6, "lung", "colon")


def test_the_best_of_the_candidates_is_found_and_its_accuracy_is_honest():
    features, y, slide, cohort = planted()
    model = fit_rare_type(features, y, slide=slide, cohort=cohort, hidden=((16,),), rng=0)
    assert len(model.accuracy) == 2 * 1 * 3
    assert (model.choice.features, model.choice.scaling) == ("good", "slide")  # what takes the offsets away
    assert model.nested_accuracy > 0.85
    assert max(v for c, v in model.accuracy.items() if c.features == "noise") < 0.7
    new, truth, slides, cohorts = planted(seed=1)
    p = model.probability(new, slide=slides, cohort=cohorts)
    assert p[truth].mean() > p[~truth].mean() + 0.5
    assert truth[top_tiles(p, slides)].mean() > 0.9
    with pytest.raises(KeyError, match="'good' not found in `features`"):
        model.probability({"noise": new["noise"]}, slide=slides, cohort=cohorts)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: diverse_tiles(np.ones((3, 2)), [0, 1]), r"`slide` \(N,\)"),
        (lambda: diverse_tiles([[np.nan]], [0]), "`features` must be finite"),
        (lambda: diverse_tiles(np.ones((3, 2)), [0, 1, 2], n=4), "`n` must be from 1 to 3"),
        (lambda: uncertainty([[1.2]]), "values from 0 to 1"),
        (lambda: uncertain_tiles([[0.5]], np.ones((2, 1)), slide=[0, 1]), "a column for each of 2 tiles"),
        (lambda: top_tiles([0.5], [0], n=0), "`n` must be at least 1"),
        (
            lambda: fit_rare_type({"f": np.ones((4, 1))}, [1, 0, 0, 0], slide=range(4), cohort=["a"] * 4),
            "with the type in at least 4 slides, got 1",
        ),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
