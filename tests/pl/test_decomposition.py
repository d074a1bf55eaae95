"""Maps of predicted and true compositions."""

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError


@pytest.fixture(scope="module")
def adata():
    rng = np.random.default_rng(0)
    xy = np.stack(np.meshgrid(np.arange(6), np.arange(6)), axis=-1).reshape(-1, 2) * 100.0
    made = ad.AnnData(obs=pd.DataFrame({"patient": np.repeat(["a", "b"], 36)}, index=map(str, range(72))))
    made.obsm["spatial"] = np.tile(xy, (2, 1))
    made.obsm["X_lemon"] = rng.normal(size=(72, 3)).astype(np.float32)
    made.obsm["X_lemon"][0] = np.nan
    made.obsm["proportions"] = pd.DataFrame(rng.dirichlet([1, 2, 3], 72), index=made.obs_names, columns=list("TBS"))
    short = lm.tl.DecompositionProtocol(widths=(8,), epochs=2)
    lm.tl.decompose(made, groups="patient", target="proportion", protocol=short)
    return made


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_both_maps_of_a_type_show_its_values_on_one_scale(adata):
    figure = lm.pl.decomposition(adata, types=["S", "T"])
    axes = [ax for ax in figure.axes if ax.collections and hasattr(ax.collections[0], "get_offsets")]
    axes = [ax for ax in axes if len(ax.collections[0].get_offsets()) == 36]
    assert len(axes) == 4
    upper, lower = axes[0].collections[0], axes[2].collections[0]
    truth = adata.obsm["proportions"]["S"].to_numpy()[:36]
    np.testing.assert_allclose(upper.get_array(), truth)
    guess = adata.obsm["decomposition"]["S"].to_numpy()[:36]
    np.testing.assert_allclose(lower.get_array()[1:], guess[1:])
    assert lower.get_array().mask[0]
    assert upper.get_clim() == lower.get_clim() == (0.0, pytest.approx(max(truth.max(), np.nanmax(guess))))
    assert axes[0].get_title() == "S"
    cc = (
        adata.uns["lemon_sc"]["decompose"]["decomposition"]["scores"].set_index(["slide", "type"]).loc[("a", "S"), "cc"]
    )
    assert axes[2].get_title(loc="left").startswith(f"CC {cc:.2f}")
    assert axes[0].yaxis_inverted()


def test_the_composition_of_the_key_that_is_named_is_shown(adata):
    short = lm.tl.DecompositionProtocol(widths=(4,), epochs=1)
    other = adata.copy()
    lm.tl.decompose(other, groups="patient", target="proportion", protocol=short, key_added="second")
    shown = []
    for key in ("decomposition", "second"):
        figure = lm.pl.decomposition(other, key=key, types=["S"])
        axes = [ax for ax in figure.axes if ax.collections and hasattr(ax.collections[0], "get_offsets")]
        shown.append([ax for ax in axes if len(ax.collections[0].get_offsets()) == 36][1].collections[0].get_array())
        np.testing.assert_allclose(shown[-1][1:], other.obsm[key]["S"].to_numpy()[1:36])
    assert np.abs(shown[0] - shown[1]).max() > 1e-3


def test_the_best_types_of_the_first_slide_are_shown_by_default(adata):
    summary = adata.uns["lemon_sc"]["decompose"]["decomposition"]["summary"]
    figure = lm.pl.decomposition(adata)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == summary["cc"].sort_values(ascending=False).index.tolist()
    assert figure.get_suptitle() == "a, proportion"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"key": "none"}, "lm.tl.decompose"),
        ({"types": ["X"]}, "'X' not found"),
        ({"slide": "c"}, "`slide` must be one of"),
    ],
)
def test_bad_input(adata, how, says):
    with pytest.raises((MissingKeyError, ValueError), match=says):
        lm.pl.decomposition(adata, **how)


def test_maps_need_coordinates(adata):
    bare = adata.copy()
    del bare.obsm["spatial"]
    with pytest.raises(MissingKeyError, match="centres of the spots"):
        lm.pl.decomposition(bare)


def test_many_types_take_several_rows_and_none_is_refused(adata):
    made = adata.copy()
    made.obsm["proportions"] = pd.DataFrame(np.eye(72)[:, :10] + 0.1, index=made.obs_names, columns=list("ABCDEFGHIJ"))
    short = lm.tl.DecompositionProtocol(widths=(8,), epochs=2)
    lm.tl.decompose(made, groups="patient", protocol=short)
    figure = lm.pl.decomposition(made, types=list("ABCDEFGHIJ"))
    named = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in named] == list("ABCDEFGHIJ")
    assert len({ax.get_subplotspec().rowspan.start for ax in named}) == 2
    with pytest.raises(ValueError, match="`types` must name one of"):
        lm.pl.decomposition(made, types=[])


def test_a_slide_without_a_deconvolution_is_shown_as_predicted(adata):
    made = adata.copy()
    made.obs["patient"] = np.repeat(["a", "b", "plain"], 24)
    made.obsm["proportions"].iloc[48:] = np.nan
    lm.tl.decompose(made, groups="patient", protocol=lm.tl.DecompositionProtocol(widths=(8,), epochs=2))
    figure = lm.pl.decomposition(made, slide="plain", types="S")
    upper, lower = (ax.collections[0].get_array() for ax in figure.axes[:2])
    assert upper.mask.all()
    assert lower.tolist() == pytest.approx(made.obsm["decomposition"]["S"].iloc[48:].tolist())
    assert figure.axes[1].get_title(loc="left") == "not scored"


def test_a_table_that_lost_something_says_what(adata):
    only_b = adata[adata.obs["patient"] == "b"].copy()
    assert lm.pl.decomposition(only_b).get_suptitle() == "b, proportion"
    with pytest.raises(ValueError, match="No spot with coordinates is of 'a'"):
        lm.pl.decomposition(only_b, slide="a")
    for where, name in (("obsm", "proportions"), ("obsm", "decomposition"), ("obs", "patient")):
        made = adata.copy()
        del getattr(made, where)[name]
        with pytest.raises(MissingKeyError, match=f"'{name}' not found in `adata.{where}`"):
            lm.pl.decomposition(made)
    made = adata.copy()
    made.obsm["proportions"] = made.obsm["proportions"][["T", "B"]]
    with pytest.raises(ValueError, match="has lost cell types"):
        lm.pl.decomposition(made)
