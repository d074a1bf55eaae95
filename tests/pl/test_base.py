"""Shared parts, and the plots on crops from wherever `pp.extract_nuclei` left them."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
import spatialdata as sd

from lemon_sc import pl
from lemon_sc.pl._base import round_length


@pytest.mark.parametrize(("um", "length"), [(1, 1), (4.99, 2), (5, 5), (62.5, 50), (0.3, 0.2), (1999, 1000)])
def test_scale_bars_have_round_lengths(um, length):
    assert round_length(um) == pytest.approx(length)


@pytest.mark.parametrize("name", pl.__all__)
def test_every_plot_takes_one_positional_argument_and_documents_all(name):
    function = getattr(pl, name)
    first, *others = inspect.signature(function).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY for p in others)
    assert "%(" not in function.__doc__
    for p in (first, *others):
        assert f"\n{p.name}\n" in function.__doc__


def test_given_axes_are_drawn_into(adata, asked):
    _, ax = plt.subplots()
    assert pl.morphology_map(adata, grid=4, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def crops_in(ax):
    return np.stack([np.asarray(image.get_array()) for image in ax.images])


def test_streamed_kept_and_stored_crops_give_the_same_gallery(sdata, tmp_path):
    from lemon_sc.pp._extract_nuclei import extract_nuclei

    own = sd.SpatialData(
        images={"he_image": sdata["he_image"]},
        shapes={"nucleus_boundaries": sdata["nucleus_boundaries"]},
        tables={"table": sdata["table"].copy()},
    )
    pictures = []
    for store in ("memory", tmp_path / "crops.zarr", None):
        extract_nuclei(own, store=store)
        pictures.append(crops_in(pl.nuclei(own, by="kind", n=5)))
        if store == "memory":
            rows = [int(np.flatnonzero((own["table"].obsm["nuclei"] == c).all((1, 2, 3)))[0]) for c in pictures[0]]
            kinds = own["table"].obs["kind"].iloc[rows].tolist()
            assert kinds == ["even"] * 5 + ["odd"] * 5
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])
    with pytest.raises(ValueError, match='Pass the SpatialData with the image, or keep crops.*store="memory"'):
        pl.nuclei(own["table"])
    figure = pl.markers(own, genes=["NUMBER"], basis="nucleus_xy")
    assert sum(bool(ax.images) for ax in figure.axes) == 1
    figure = pl.markers(own["table"], genes=["NUMBER"], basis="nucleus_xy")
    assert sum(bool(ax.images) for ax in figure.axes) == 0


def test_without_extraction_a_gallery_says_what_to_do(sdata):
    with pytest.raises(KeyError, match="Run `lm.pp.extract_nuclei` first"):
        pl.nuclei(sdata)
