import numpy as np
import pytest

from lemon_sc.datasets._expression import LOG_SD, MARKERS, STRENGTHS, plant_expression

N = 6000


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    kinds = np.array(list(MARKERS))
    cell = {
        "cell_type": kinds[rng.integers(0, len(kinds), N)],
        "xy": rng.uniform(0, 1000, (N, 2)),
        "log_area": rng.normal(3.5, 0.4, N),
        "chromatin": rng.normal(1.2, 0.3, N),
    }
    cell["log_area"][:50] = np.nan
    return cell, plant_expression(np.random.default_rng(1), **cell)


def pearson(counts, z):
    ok = np.isfinite(z) & (counts.sum(axis=1) > 0)
    return np.array([np.corrcoef(column, z[ok])[0, 1] for column in np.log1p(counts[ok]).T])


def rows(made, truth):
    return np.flatnonzero(made.var["truth"] == truth)


@pytest.mark.parametrize("of", ["log_area", "chromatin"])
def test_planted_strengths_survive_counting_as_theory_says(scene, of):
    cell, made = scene
    genes = np.flatnonzero(made.var["truth_of"] == of)
    assert made.var["truth_r"].iloc[genes].tolist() == list(STRENGTHS)
    # log counts add about 1/mean + dispersion + library variance to the planted variance of the log rate
    ceiling = LOG_SD / np.sqrt(LOG_SD**2 + 1 / 8 + 0.05 + 0.04)
    r = pearson(made.counts[:, genes], cell[of])
    np.testing.assert_allclose(r, np.array(STRENGTHS) * ceiling, atol=0.05)
    assert r[0] > 0.7


def test_noise_and_controls_are_independent_of_everything(scene):
    cell, made = scene
    genes = np.concatenate([rows(made, "noise"), rows(made, "control")])
    others = [cell["log_area"], cell["chromatin"], *cell["xy"].T]
    r = np.concatenate([pearson(made.counts[:, genes], z) for z in others])
    assert np.abs(r).max() < 4 / np.sqrt(N)
    assert np.std(r) == pytest.approx(1 / np.sqrt(N), rel=0.3)


def test_dividing_by_the_total_carries_no_morphology_into_noise(scene):
    cell, made = scene
    total = np.maximum(made.counts.sum(axis=1, keepdims=True), 1)
    share = made.counts / total * np.median(total)
    r = np.concatenate([pearson(share[:, rows(made, "noise")], cell[of]) for of in ("log_area", "chromatin")])
    assert np.abs(r).max() < 0.05


def test_position_genes_are_smooth_and_follow_no_morphology(scene):
    cell, made = scene
    genes = np.flatnonzero(made.var["truth_of"] == "position")
    for of in ("log_area", "chromatin"):
        assert np.abs(pearson(made.counts[:, genes], cell[of])).max() < 4 / np.sqrt(N)
    square = (cell["xy"] // 100).astype(int) @ [10, 1]
    first = np.log1p(made.counts[:, genes[0]])
    means = np.bincount(square, first) / np.bincount(square)
    assert np.var(means[square]) > 0.4 * np.var(first)


def test_markers_mark_their_type(scene):
    cell, made = scene
    for kind, genes in MARKERS.items():
        columns = made.var.index.get_indexer(genes)
        assert (made.var["truth_of"].iloc[columns] == kind).all()
        on, off = (
            made.counts[mask][:, columns].mean() for mask in (cell["cell_type"] == kind, cell["cell_type"] != kind)
        )
        assert on > 20 * off


def test_a_few_cells_are_silent(scene):
    assert np.sum(scene[1].counts.sum(axis=1) == 0) == 60


def test_controls_say_what_they_are(scene):
    var = scene[1].var
    control = var["feature_types"] == "Negative Control Probe"
    assert control.tolist() == (var["truth"] == "control").tolist()
    assert control.sum() == 5
    assert var.index[control].str.startswith("NegControlProbe_").all()
    assert var["gene_ids"].is_unique
