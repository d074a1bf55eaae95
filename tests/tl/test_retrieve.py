"""Retrieval where the answer was planted."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy.sparse import csr_matrix

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc._core.record import write_record

N, D, GENES = 400, 12, [f"G{i}" for i in range(6)]


class Ideal:
    """An encoder of expression that knows in which direction of the images each gene was planted."""

    encoder_sha256 = ""

    def __init__(self, directions, noise=0.0):
        self.directions, self.noise = directions, noise

    def encode_genes(self, genes):
        return self.directions[[GENES.index(g) for g in genes]].astype(np.float32)

    def encode_expression(self, counts, genes):
        assert list(genes) == GENES
        x = counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)
        z = np.log1p(x) @ self.directions
        return z + self.noise * np.random.default_rng(0).normal(size=z.shape)


@pytest.fixture
def planted():
    """Genes whose log rate is a coordinate of the embedding; the last is noise. Every ninth cell has no embedding."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(D, D)))[0][: len(GENES)]
    z = rng.normal(size=(N, D))
    rate = np.exp(1.0 + 0.8 * z @ directions.T)
    rate[:, -1] = 3.0
    adata = ad.AnnData(
        csr_matrix(rng.poisson(rate).astype(np.float32)), obs=pd.DataFrame(index=[f"c{i}" for i in range(N)])
    )
    adata.var_names = GENES
    adata.obsm["X_lemon"] = z.astype(np.float32)
    adata.obsm["X_lemon"][::9] = np.nan
    return adata, Ideal(directions)


def result(adata, key="retrieve"):
    record = adata.uns["lemon_sc"]["retrieve"][key]
    return record, record["hits"], record["metrics"].pivot(index="query", columns="metric", values="value")


def test_a_planted_gene_is_found_and_noise_is_not(planted):
    adata, model = planted
    lm.tl.retrieve(adata, query=GENES, by="gene", model=model, k=20)
    record, hits, metrics = result(adata)
    assert (metrics.loc[GENES[:-1], "fold"] > 2).all()
    assert (metrics.loc[GENES[:-1], "pvalue"] == 0.001).all()
    assert metrics.loc["G5", "pvalue"] > 0.01
    assert metrics.loc["G5", "low"] < metrics.loc["G5", "mean"] < metrics.loc["G5", "high"]
    for gene, found in hits.groupby("query"):
        assert found["rank"].tolist() == list(range(1, 21))
        np.testing.assert_array_equal(found["expression"], adata[found["obs_name"], gene].X.toarray().ravel())
        np.testing.assert_allclose(found["expression"].mean(), metrics.loc[gene, "mean"])
        assert found["score"].is_monotonic_decreasing
    assert record["n_rows_without"] == 45
    assert np.isfinite(adata[hits["obs_name"].unique()].obsm["X_lemon"]).all()
    assert np.isfinite(adata[record["random"]].obsm["X_lemon"]).all()


def test_a_vector_per_gene_needs_no_model(planted):
    adata, model = planted
    lm.tl.retrieve(adata, query=["G1", "G0"], by="gene", model=model, k=5)
    lm.tl.retrieve(adata, query={g: model.encode_genes([g])[0] for g in ("G1", "G0")}, by="gene", k=5, key_added="own")
    pd.testing.assert_frame_equal(result(adata)[1], result(adata, "own")[1])


def test_a_table_in_a_file_is_asked_like_one_in_memory(planted, tmp_path):
    adata, model = planted
    for name in ("sparse", "dense"):
        adata.X = adata.X if name == "sparse" else adata.X.toarray()
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        backed = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        for by, query in {"gene": ["G3", "G0"], "profile": ["c200", "c4"]}.items():
            for table in (adata, backed):
                lm.tl.retrieve(table, query=query, by=by, model=model, k=5)
            pd.testing.assert_frame_equal(result(backed)[1], result(adata)[1])


def test_a_table_of_another_name_is_passed_itself(planted):
    sdata = sd.SpatialData(tables={"nuclei": planted[0]})
    with pytest.raises(MissingKeyError, match=r"'table' not found in `sdata.tables`.*Pass the table itself"):
        lm.tl.retrieve(sdata, query=["c1"])
    lm.tl.retrieve(sdata.tables["nuclei"], query=["c1"], k=5)
    assert len(result(sdata["nuclei"])[1]) == 5


def test_a_profile_finds_its_own_image(planted):
    adata, model = planted
    names = adata.obs_names[np.isfinite(adata.obsm["X_lemon"]).all(axis=1)][::-1][:150]
    adata.obsm["X_lemon"] = np.where(
        np.isfinite(adata.obsm["X_lemon"]), model.encode_expression(adata.X, GENES), np.nan
    ).astype(np.float32)
    lm.tl.retrieve(adata, query=names, by="profile", model=model)
    values = result(adata)[0]["metrics"].set_index("metric")
    assert values.loc["recall@1", "value"] > 0.9  # cells of equal expression share the first places
    assert values.loc["median_rank", "value"] == 1
    np.testing.assert_allclose(values.loc["recall@10", "chance"], 10 / 355)
    counts = pd.DataFrame(adata[names[:3]].X.toarray(), index=["a", "b", "c"], columns=GENES)
    lm.tl.retrieve(adata, query=counts, by="profile", model=model, key_added="frame")
    by_row, by_frame = result(adata)[1], result(adata, "frame")[1]
    np.testing.assert_array_equal(by_row.loc[by_row["query"].isin(names[:3]), "obs_name"], by_frame["obs_name"])


def test_random_queries_do_no_better_than_chance(planted):
    adata, model = planted
    rows = np.isfinite(adata.obsm["X_lemon"]).all(axis=1)
    model.noise = 1e6
    lm.tl.retrieve(adata, query=adata.obs_names[rows], by="profile", model=model)
    table = result(adata)[0]["metrics"].set_index("metric")
    n = rows.sum()
    for k in (1, 5, 10, 50):
        value, chance = table.loc[f"recall@{k}"][["value", "chance"]]
        assert abs(value - chance) < 3.5 * np.sqrt(chance * (1 - chance) / n)
    assert abs(table.loc["median_rank", "value"] - (n + 1) / 2) < 40


def test_images_like_a_given_one_are_its_nearest_and_not_itself(planted):
    adata, _ = planted
    z = adata.obsm["X_lemon"] / np.linalg.norm(adata.obsm["X_lemon"], axis=1, keepdims=True)
    lm.tl.retrieve(adata, query=["c5", "c2"], k=7)
    _, hits, _ = result(adata)
    for name, found in hits.groupby("query"):
        score = z @ z[int(name[1:])]
        score[[int(name[1:])]] = -2
        expected = np.argsort(-np.nan_to_num(score, nan=-2))[:7]
        assert found["obs_name"].tolist() == [f"c{i}" for i in expected]
    lm.tl.retrieve(adata, query=adata.obsm["X_lemon"][[5, 2]], k=8, key_added="vectors")
    found = result(adata, "vectors")[1]
    assert found.loc[found["rank"] == 1, "obs_name"].tolist() == ["c5", "c2"]


def test_results_survive_a_file_and_know_what_they_were_made_from(planted, tmp_path, caplog):
    adata, model = planted
    made = {"weights_sha256": "", "model": "planted"}
    write_record(adata, "embed", made, key="X_lemon", decides=["model"])
    lm.tl.retrieve(adata, query=["G0"], by="gene", model=model, k=5)
    lm.tl.retrieve(adata, query=["c1"], k=5, key_added="image")
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(result(back)[1], result(adata)[1], check_dtype=False)
    assert [s["step"] for s in lm.tl.provenance(back)] == ["embed", "retrieve", "retrieve"]
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        write_record(back, "embed", {**made, "model": "another"}, key="X_lemon", decides=["model"])
    assert "out of date" in caplog.text


def test_the_space_of_another_encoder_is_refused(planted):
    adata, model = planted
    model.encoder_sha256 = "b" * 64
    lm.tl.retrieve(adata, query=["G0"], by="gene", model=model, k=5)  # rows that nothing is known of
    write_record(adata, "embed", {"weights_sha256": "a" * 64, "model": "base"}, key="X_lemon")
    with pytest.raises(
        ValueError, match="was made by 'base' .weights aaaaaaaaaaaa., but .* bbbbbbbbbbbb: their spaces"
    ):
        lm.tl.retrieve(adata, query=["G0"], by="gene", model=model, k=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": np.ones((2, 5))}, r"`query` must have 12 columns, as `adata.obsm\['X_lemon'\]` has, got \(2, 5\)"),
        ({"query": np.zeros((1, D))}, "queries are zero or not finite"),
        ({"query": ["c1", "d7"]}, "'d7' not found in `adata.obs_names`"),
        ({"query": ["c9"]}, "`query` must name rows that have an embedding"),
        ({"query": []}, "`query` must"),
        ({"query": ["c1"], "k": 356}, "`k` must be an int between 1 and 354"),
        ({"query": {"G0": np.ones(D)}}, "`query` must be names of rows or vectors to retrieve by image"),
        ({"query": ["c1"], "by": "images"}, "`by` must be one of .* Did you mean 'image'"),
        ({"query": ["G9"], "by": "gene"}, "'G9' not found in `adata.var_names`"),
        ({"query": {"G9": np.ones(D)}, "by": "gene"}, "'G9' not found in `adata.var_names`"),
        ({"query": {"G1": np.ones(3)}, "by": "gene"}, "`query` must have 12 columns"),
        ({"query": ["G1"], "by": "gene", "model": "seal.safetensors"}, "seal.safetensors"),
        ({"query": ["G1"], "by": "gene", "model": 3}, "`model` must be an encoder of expression, or its path"),
        ({"query": ["c1"], "by": "profile", "model": None}, "`model` must be an encoder of expression"),
        ({"query": np.ones((1, 6)), "by": "profile"}, "`query` must be names of rows or a data frame"),
        ({"query": ["c1"], "use_rep": "X_seal"}, "'X_seal' not found in `adata.obsm`"),
        ({"query": ["c1"], "key_added": "a/b"}, "`key_added` must hold only letters"),
        ({"query": []}, "`query` must name at least one row"),
        ({"query": None}, "`query` must be names of rows, got None"),
        ({"query": list(range(D))}, "`query` must be names of rows, or vectors of floats.*Rows are asked by name"),
        ({"query": pd.DataFrame({"G0": ["x"]}), "by": "profile"}, "`query` must hold counts, numbers alone"),
        ({"query": pd.Series(np.arange(N) < 3)}, r"must be names of rows, got 'Series \(400,\)'. A mask becomes names"),
        ({"query": csr_matrix(np.eye(2, D))}, r"names, or dense vectors, got 'csr_matrix \(2, 12\)'.*`query.toarray"),
        ({"query": "g3", "by": "gene"}, r"'g3' not found in `adata.var_names`.*Did you mean 'G3'"),
        ({"query": {"G0": np.ones(D), "G1": np.ones(3)}, "by": "gene"}, "must hold one vector .* for each gene"),
        ({"query": {"G0": np.ones((2, D // 2))}, "by": "gene"}, "must hold one vector .* for each gene"),
        ({"query": np.diag([1.0] * (D - 1) + [0.0])}, r"1 of 12 queries are zero or not finite: \['query_11'\]"),
    ],
)
def test_bad_queries(planted, options, message):
    adata, model = planted
    with pytest.raises((ValueError, MissingKeyError, FileNotFoundError), match=message):
        lm.tl.retrieve(adata, **({"model": model} | options))


def test_the_seed_decides_what_is_drawn_and_not_what_is_found(planted):
    adata, model = planted
    for key, rng in {"one": 1, "again": 1, "two": 2}.items():
        lm.tl.retrieve(adata, query=GENES, by="gene", model=model, k=20, rng=rng, key_added=key)
    one, again, two = (result(adata, key) for key in ("one", "again", "two"))
    pd.testing.assert_frame_equal(one[2], again[2])
    assert list(one[0]["random"]) == list(again[0]["random"]) != list(two[0]["random"])
    assert one[2].loc["G5", "pvalue"] != two[2].loc["G5", "pvalue"]
    pd.testing.assert_frame_equal(one[1], two[1])
