"""Tables and embeddings under other names than the usual ones; SpatialData where a table would do."""

import anndata as ad
import numpy as np
import pytest

import lemon_sc as lm
from lemon_sc.models import ModelCard

MEAN = (lambda crops: crops.mean(axis=(1, 2)), ModelCard(name="mean", dim=3))


@pytest.fixture(scope="module")
def made():
    """The whole line on a table called ``cells``, with spots in ``discs``."""
    sdata = lm.datasets.phantom(n_cells=150, spots=25.0)
    sdata.tables["cells"] = sdata.tables.pop("table")
    sdata.tables["discs"] = sdata.tables.pop("spots_table")
    lm.pp.extract_nuclei(sdata, table_key="cells", store="memory")
    lm.pp.normalize_stain(sdata, reference="xenium", table_key="cells")
    lm.tl.embed(sdata, model=MEAN, table_key="cells", key_added="X_mean")
    lm.tl.pool_nuclei(sdata, use_rep="X_mean", table_key="cells", units_key="discs")
    table = sdata["cells"]
    names = table.obs_names[table.obs["nucleus_qc"] == "ok"]
    lm.tl.retrieve(table, query=names[:2], use_rep="X_mean", k=5)
    table.obsm["X_umap"] = np.random.default_rng(0).normal(size=(table.n_obs, 2))
    table.layers["twice"] = table.X * 2
    return sdata


def test_results_land_in_the_table_that_was_named(made):
    assert made["cells"].uns["lemon_sc"]["nuclei"]["stain"] == "macenko to xenium"
    pooled = made["discs"].obsm["X_mean"]
    assert pooled.shape == (made["discs"].n_obs, 3)
    assert np.isfinite(pooled).all(axis=1).sum() == (made["discs"].obs["X_mean_n"] > 0).sum() > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nuclei", {"dim": 0, "use_rep": "X_mean"}),
        ("nucleus_qc", {}),
        ("retrieved", {}),
        ("morphology_map", {"grid": 5}),
        ("markers", {"n_nuclei": 2}),
        ("outlines", {"color": "truth_type"}),
    ],
)
def test_figures_read_the_table_that_is_named(made, name, options):
    draw, table = getattr(lm.pl, name), made["cells"]
    if name == "markers":
        options = options | {"genes": list(table.var_names[:1]), "layer": "twice"}
    with pytest.raises(KeyError, match="'table' not found in `sdata.tables`"):
        draw(made, **options)
    figure = draw(made, table_key="cells", **options)
    assert figure.axes if name == "markers" else figure.has_data()
    if name not in {"outlines", "markers"}:
        assert [t.get_text() for t in draw(table, **options).texts] == [t.get_text() for t in figure.texts]


@pytest.mark.parametrize("name", ["probe", "morans_i", "stain_robustness", "decomposition"])
def test_figures_of_a_table_take_the_object_that_holds_it(made, name):
    """What is missing is said of its table, not of the object."""
    sdata = lm.datasets.phantom(n_cells=50)
    with pytest.raises(KeyError, match=r"not found in `adata.uns"):
        getattr(lm.pl, name)(sdata)
    with pytest.raises(TypeError, match="must be an AnnData or a SpatialData, got ndarray"):
        getattr(lm.pl, name)(np.zeros(3))
    with pytest.raises(KeyError, match=r"not found in `adata.uns"):
        getattr(lm.pl, name)(ad.AnnData(np.zeros((3, 1))))
