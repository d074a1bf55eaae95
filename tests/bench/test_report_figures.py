import matplotlib.pyplot as plt
import numpy as np
import pytest
from bench_runs import ENCODERS, whole
from matplotlib.colors import to_hex

import lemon_sc as lm
from lemon_sc.bench import report_cost, report_figures
from lemon_sc.bench.report_page import scored
from lemon_sc.bench.report_words import PAGES

PAGE = {page.name: page for page in PAGES}
COLORS = report_figures.colors_of(list(ENCODERS))


@pytest.fixture(scope="module")
def run():
    """A planted run, its summary, and the published values."""
    return whole(), scored(whole()), lm.bench.reference()


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_panels_of_a_page(run):
    _, summary, reference = run
    amibr, atnorm, midog25 = report_figures.panels_of(summary, reference, PAGE["mitosis"])
    assert [amibr.published, atnorm.published, midog25.published] == [False, False, True]
    assert list(amibr.order) == list(atnorm.order) == ["ours", "morphometry", "random_vit_s8"]
    assert amibr.chance == pytest.approx(0.5)
    assert set(amibr.rows["protocol"]) == {"stratified", "slide"}
    assert midog25.order[0] == "lemon"
    assert "other data" in midog25.title
    lemon = midog25.rows.set_index("encoder").loc["lemon"]
    assert (lemon["low"], lemon["mean"], lemon["high"]) == pytest.approx((0.731, 0.746, 0.761))


def test_published_values_are_hollow_and_measured_ones_filled(run):
    _, summary, reference = run
    figure = report_figures.dots(report_figures.panels_of(summary, reference, PAGE["mitosis"]), COLORS)
    measured, _, published = figure.axes
    at = {round(float(y)): to_hex(c) for dots in _dots(measured) for (_, y), c in zip(*dots, strict=True)}
    assert at == {k: to_hex(COLORS[name]) for k, name in enumerate(["ours", "morphometry", "random_vit_s8"])}
    assert {to_hex(c) for _, faces in _dots(published) for c in faces} == {"#ffffff"}
    ((xy, _),) = _dots(published)
    assert sorted(xy[:, 0])[-1] == pytest.approx(0.746)


def _dots(ax):
    """Places and face colours of every scatter, a colour for each place."""
    for found in ax.collections:
        faces, xy = found.get_facecolor(), np.asarray(found.get_offsets())
        if len(xy) and len(faces) and found.get_sizes().size:
            yield xy, np.broadcast_to(faces, (len(xy), 4)) if len(faces) == 1 else faces


def test_cost_against_score(run):
    _, summary, reference = run
    figure = report_cost.cost(summary, reference, COLORS)
    published, measured = figure.axes[:2]
    assert published.get_xscale() == measured.get_xscale() == "log"
    places = {tuple(np.round(xy, 3)) for found in measured.collections for xy in np.asarray(found.get_offsets())}
    assert {(0.55, 0.55), (0.15, 0.72)} <= places  # multiply-accumulates, balanced accuracy
    assert any("no network" in text.get_text() for text in measured.texts)  # morphometry
    uni = [text for text in published.texts if text.get_text() == "UNI l/16"]
    assert uni[0].xy == pytest.approx((59.65, 0.619))
    steps = np.diff([report_cost.area(m) for m in (0, 100, 200)])
    assert steps[0] == pytest.approx(steps[1])


def test_bars_of_robustness(run):
    _, summary, reference = run
    figure = report_figures.bars(summary, reference, PAGE["robustness"], COLORS)
    rmse = figure.axes[0]
    widths = [bar.get_width() for bar in rmse.patches]
    assert widths[:3] == pytest.approx([0.745, 0.625, 0.575])  # mean over six references, best overlap first
    assert widths[3:] == pytest.approx([0.777, 0.879, 1.311])
    assert [to_hex(bar.get_facecolor()) for bar in rmse.patches[3:]] == ["#ffffff"] * 3
    heights = [bar.get_y() for bar in rmse.patches]
    assert heights[3] - heights[2] > 1.5 * (heights[1] - heights[0])  # a gap between them


def test_genes_that_are_no_smoother_than_chance_are_crossed(run):
    table, _, _ = run
    ax = report_figures.moran(table, "xenium_markers", COLORS).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["EPCAM", "CD3E"]
    places = [np.asarray(found.get_offsets()) for found in ax.collections]
    dots, crosses = np.concatenate(places[::2]), np.concatenate(places[1::2])
    assert sorted(dots[:, 0]) == sorted(ENCODERS.values())
    assert (crosses[:, 0] == 0).all()
    assert len(crosses) == 3


def test_curves_of_size_and_slides(run):
    table, _, _ = run
    left, right = report_cost.curves(table[table["task"] == "composition"], COLORS).axes
    assert list(left.lines[0].get_xdata()) == [1000, 10_000, 100_000]
    assert list(right.lines[0].get_xdata()) == [10, 100, 1000]
