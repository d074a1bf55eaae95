import numpy as np
import pandas as pd
import pytest

from lemon_sc import pl
from lemon_sc.pl._probe import probe_rows


@pytest.fixture
def record():
    genes = ["weak", "strong", "constant"]
    scores = pd.DataFrame(
        {
            "group": ["s1"] * 3 + ["s2"] * 3,
            "gene": genes * 2,
            "pcc": [0.1, 0.7, np.nan, 0.3, 0.9, np.nan],
        }
    )
    summary = pd.DataFrame(
        {"pcc": [0.2, 0.8, np.nan], "null_mean": [0.01, -0.02, np.nan], "null_sd": [0.05, 0.03, np.nan]}, index=genes
    )
    groups = pd.DataFrame({"n": [10, 12]}, index=["s1", "s2"])
    tables = {"scores": scores, "summary": summary, "groups": groups}
    return tables | {"kind": "genes", "score": 0.5, "score_sd": 0.1414}


def test_genes_fall_and_folds_stand_beside_their_gene(record):
    shown = probe_rows(record, n_top=5)
    assert list(shown.summary.index) == ["strong", "weak"]
    pairs = set(zip(shown.scores["at"], shown.scores["score"], strict=True))
    assert pairs == {(0, 0.7), (0, 0.9), (1, 0.1), (1, 0.3)}
    assert shown.title == "mean PCC 0.500 (sd 0.141, 2 folds)"
    assert (shown.counts, shown.x_label, shown.n_metrics) == ("2 of 2 genes, 1 undefined", "PCC on held-out cells", 0)


def test_only_the_best_genes_are_kept(record):
    shown = probe_rows(record, n_top=1)
    assert list(shown.summary.index) == ["strong"]
    assert sorted(shown.scores["score"]) == [0.7, 0.9]


def test_picture_shows_scores_and_null(adata, record, unchanged):
    adata.uns["lemon_sc"]["probe"] = {"probe": record}
    before = unchanged(adata)
    ax = pl.probe(adata)
    null, folds, mean = ax.collections
    assert np.allclose(mean.get_offsets(), [[0.8, 0], [0.2, 1]])
    assert len(folds.get_offsets()) == 4
    assert np.allclose([s[:, 0] for s in null.get_segments()], [[-0.08, 0.04], [-0.09, 0.11]])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["strong", "weak"]
    assert "1 undefined" in ax.get_title("left")
    assert unchanged(adata) == before


def test_reads_what_the_verb_stores(adata):
    from lemon_sc.tl._probe import probe

    rng = np.random.default_rng(0)
    adata.obsm["X_lemon"] = rng.normal(size=(300, 4)).astype(np.float32)
    adata.X = np.column_stack([adata.obsm["X_lemon"][:, 0], rng.normal(size=300), np.ones(300)]).astype(np.float32)
    adata.obs["slide"] = np.arange(300) % 3
    probe(adata, target=["CD3E", "EPCAM", "ACTB"], groups="slide", key_added="mine")
    ax = pl.probe(adata, key="mine")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["EPCAM", "CD3E"]
    assert ax.collections[-1].get_offsets()[0, 0] > 0.95
    assert len(ax.collections[1].get_offsets()) == 6


def test_missing_probe_says_what_to_run(adata, record):
    with pytest.raises(KeyError, match="'probe' not found in `adata.uns.*Run `lm.tl.probe` first"):
        pl.probe(adata)
    adata.uns["lemon_sc"]["probe"] = {"probe": record}
    with pytest.raises(KeyError, match="'prob' not found.*Did you mean 'probe'"):
        pl.probe(adata, key="prob")


def test_no_score_at_all_is_an_error(adata, record):
    record["summary"]["pcc"] = np.nan
    adata.uns["lemon_sc"]["probe"] = {"probe": record}
    with pytest.raises(ValueError, match="no score for any gene"):
        pl.probe(adata)


def test_classes_stand_below_their_metrics(adata):
    from lemon_sc.tl._probe import probe

    rng = np.random.default_rng(0)
    kind = adata.obs["cell_type"].astype(str).to_numpy()
    known = np.column_stack([kind == "tumour", kind == "stroma"]) + 0.3 * rng.normal(size=(300, 2))
    adata.obsm["X_lemon"] = np.column_stack([known, rng.normal(size=(300, 2))]).astype(np.float32)
    adata.obs["slide"] = np.arange(300) % 3
    probe(adata, target="cell_type", groups="slide", key_added="types")
    made = adata.uns["lemon_sc"]["probe"]["types"]
    ax = pl.probe(adata, key="types")
    null, separator, folds, mean = ax.collections[0], ax.lines[0], ax.collections[1], ax.collections[2]
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[:5] == ["AUC", "AUPR", "balanced accuracy", "F1 macro", "F1 weighted"]
    assert sorted(labels[5:]) == ["rare (AUC)", "stroma (AUC)", "tumour (AUC)"]
    assert separator.get_ydata()[0] == 4.5
    at = dict(zip(labels, mean.get_offsets()[:, 0], strict=True))
    assert at["balanced accuracy"] == pytest.approx(made["score"])
    assert at["tumour (AUC)"] == pytest.approx(made["summary"].loc["tumour", "auc"])
    assert at["tumour (AUC)"] > 0.95
    assert len(null.get_segments()) == 8
    of_balanced = folds.get_offsets()[folds.get_offsets()[:, 1] == 2, 0]
    assert np.allclose(np.sort(of_balanced), np.sort(made["groups"]["balanced_accuracy"]))
    assert f"mean balanced accuracy {made['score']:.3f}" in ax.get_title("left")
    assert "3 of 3 classes" in ax.get_title("left")
