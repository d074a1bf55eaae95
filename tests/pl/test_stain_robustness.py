import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError


def table(*, score):
    made = pd.DataFrame(
        {"rmse": [0.8, 1.1, 0.1], "cosine": [0.7, -0.2, 0.99], "knn_overlap": [0.4, 0.2, 0.9]},
        index=["tnbc", "tcga", "own"],
    )
    record = {"references": made, "chance": 0.05}
    if score:
        made["score"] = [0.5, 0.6, 0.7]
        record["score_original"] = 0.72
    adata = ad.AnnData(np.zeros((3, 1)))
    adata.uns["lemon_sc"] = {"stain_robustness": {"stain_robustness": record}}
    return adata, made


@pytest.mark.parametrize("score", [False, True])
def test_bars_show_the_table(score):
    adata, made = table(score=score)
    axes = lm.pl.stain_robustness(adata).axes
    assert len(axes) == 3 + score
    for ax, metric in zip(axes, made, strict=True):
        assert [bar.get_width() for bar in ax.patches] == made[metric].tolist()
        assert len({to_hex(bar.get_facecolor()) for bar in ax.patches[:2]}) == 1
        assert to_hex(ax.patches[2].get_facecolor()) != to_hex(ax.patches[0].get_facecolor())
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["tnbc", "tcga", "own"]
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]
    assert axes[2].lines[0].get_xdata()[0] == 0.05
    assert axes[1].get_xlim() == (-0.2, 1)
    if score:
        assert axes[3].lines[0].get_xdata()[0] == 0.72


def test_missing():
    with pytest.raises(MissingKeyError, match=r"Run `lm.tl.stain_robustness` first\."):
        lm.pl.stain_robustness(ad.AnnData(np.zeros((3, 1))))
