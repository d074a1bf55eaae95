"""Spots of the phantom against a search by brute force."""

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

from lemon_sc.datasets import phantom
from lemon_sc.datasets._spots import spot_lattice


@pytest.fixture(scope="module")
def spotted():
    return phantom(n_cells=150, rng=1, spots=20.0)


def test_a_spot_holds_the_sums_and_types_of_its_cells(spotted):
    cells, spots, circles = spotted["table"], spotted["spots_table"], spotted["spots"]
    counts, kinds = cells.X.toarray(), cells.obs["truth_type"].to_numpy()
    assert (spots.obs["n_cells"] == 0).any()
    assert (spots.obs["n_cells"] > 2).any()
    for at, circle in enumerate(circles.itertuples()):
        x, y = circle.geometry.x, circle.geometry.y
        inside = np.hypot(cells.obsm["spatial"][:, 0] - x, cells.obsm["spatial"][:, 1] - y) <= circle.radius
        np.testing.assert_array_equal(spots.obsm["spatial"][at], [x, y])
        np.testing.assert_array_equal(spots.X[at].toarray()[0], counts[inside].sum(axis=0))
        assert spots.obs["n_cells"].iloc[at] == inside.sum()
        share = spots.obsm["cell_types"].iloc[at]
        if inside.any():
            expected = pd.Series(kinds[inside]).value_counts(normalize=True).reindex(share.index, fill_value=0)
            np.testing.assert_allclose(share, expected, atol=1e-12)
        else:
            assert share.isna().all()


def test_the_lattice_is_visiums():
    centre, place = spot_lattice(1000.0, diameter=55.0)
    distance = np.hypot(*(centre[:, None] - centre[None]).T) + np.diag(np.full(len(centre), np.inf))
    np.testing.assert_allclose(distance.min(axis=0), 100.0)
    inner = (centre > 150).all(axis=1) & (centre < 850).all(axis=1)
    assert set((np.abs(distance - 100.0) < 1e-6).sum(axis=0)[inner]) == {6}
    assert (place.sum(axis=1) % 2 == 0).all()  # as Visium's tissue positions: columns 0, 2, ... then 1, 3, ...
    assert centre.min() >= 27.5
    assert centre.max() <= 1000 - 27.5


def test_spots_lie_with_the_cells_and_change_nothing_else(spotted):
    plain = phantom(n_cells=150, rng=1)
    assert set(spotted.tables) == {"table", "spots_table"}
    assert "spots" not in plain.shapes
    np.testing.assert_array_equal(spotted["table"].X.toarray(), plain["table"].X.toarray())
    np.testing.assert_array_equal(
        spotted["he_image"]["scale0"]["image"].values, plain["he_image"]["scale0"]["image"].values
    )
    matrices = [
        sd.transformations.get_transformation(spotted[name]).to_affine_matrix(("x", "y"), ("x", "y"))
        for name in ("spots", "cell_boundaries")
    ]
    np.testing.assert_array_equal(*matrices)
    assert sd.match_table_to_element(spotted, "spots", "spots_table").n_obs == len(spotted["spots"])


@pytest.mark.parametrize("spots", [True, 2.0, 200, "55", np.nan])
def test_a_diameter_that_no_spot_has_is_refused(spots):
    with pytest.raises(ValueError, match="`spots` must be None or a diameter between 5 and 100 um"):
        phantom(n_cells=50, spots=spots)
