import numpy as np
import pytest

from lemon_sc import pl, tl
from lemon_sc._core.errors import MissingKeyError


@pytest.fixture
def found(adata):
    """Two genes asked for by vectors, and two images by name."""
    ok = np.flatnonzero(np.isfinite(adata.obsm["X_lemon"]).all(axis=1))
    vectors = {"EPCAM": np.array([1, 0, 0, 0.0]), "CD3E": np.array([0, 1, 0, 0.0])}
    tl.retrieve(adata, query=vectors, by="gene", layer="double", k=12)
    tl.retrieve(adata, query=adata.obs_names[ok[:2]], k=12, key_added="images")
    return adata


def labels(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def test_a_row_per_gene_and_one_at_random(found, asked):
    ax = pl.retrieved(found, n=5)
    record = found.uns["lemon_sc"]["retrieve"]["retrieve"]
    hits = record["hits"].groupby("query", sort=False)["obs_name"].apply(lambda names: list(names[:5]))
    expected = [*hits["EPCAM"], *hits["CD3E"], *record["random"][:5]]
    assert found.obs_names[asked[0]].tolist() == expected
    metrics = record["metrics"].pivot(index="query", columns="metric", values="value")
    assert labels(ax)[-1] == "random"
    assert labels(ax)[0].startswith(f"EPCAM\n{metrics.loc['EPCAM', 'fold']:.2g} x the mean\np = ")
    values = found[hits["EPCAM"], "EPCAM"].layers["double"].toarray().ravel()
    assert [float(t.get_text()) for t in ax.texts[:5]] == pytest.approx(values, rel=0.01)
    assert len(ax.texts) == 10  # of two genes, none is written on what is random


def test_one_gene_is_compared_with_what_is_random(found, asked):
    ax = pl.retrieved(found, queries="CD3E", n=4)
    random = found.uns["lemon_sc"]["retrieve"]["retrieve"]["random"][:4]
    values = found[random, "CD3E"].layers["double"].toarray().ravel()
    assert [float(t.get_text()) for t in ax.texts[4:]] == pytest.approx(values, rel=0.01)


def test_a_query_that_is_an_image_comes_first_in_a_frame(found, asked):
    ax = pl.retrieved(found, key="images", n=3)
    hits = found.uns["lemon_sc"]["retrieve"]["images"]["hits"]
    first, second = hits["query"].unique()
    names = found.obs_names[asked[0]].tolist()
    assert names[:4] == [first, *hits.loc[hits["query"] == first, "obs_name"][:3]]
    assert names[4] == second
    assert len(ax.patches) == 2
    assert labels(ax) == [first, second, "random"]


def test_no_room_is_kept_for_more_than_was_found(found, asked):
    ax = pl.retrieved(found, n=100)
    assert ax.get_xlim()[1] == 12


def test_what_cannot_be_shown_is_refused(found, asked):
    with pytest.raises(MissingKeyError, match="'other' not found"):
        pl.retrieved(found, key="other")
    with pytest.raises(ValueError, match="`queries` must be one of"):
        pl.retrieved(found, queries="ACTB")
    with pytest.raises(ValueError, match=r"`queries` must name one of \['EPCAM', 'CD3E'\]"):
        pl.retrieved(found, queries=[])
    with pytest.raises(ValueError, match="`n` must be an int >= 1"):
        pl.retrieved(found, n=0)
    part = found[:20].copy()
    with pytest.raises(ValueError, match="of the retrieved rows are not in the table"):
        pl.retrieved(part)
