"""What the main line found on the phantom, beside what was planted there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from lemon_sc._core import keys

if TYPE_CHECKING:
    from anndata import AnnData

PLANTED = ("morphology", "marker", "position", "noise")
ALPHA = 0.05


def planted_genes(adata: AnnData) -> list[str]:
    """Genes of the phantom that follow something known, or nothing.

    Parameters
    ----------
    adata
        Table of `lm.datasets.phantom`.

    Returns
    -------
    Names, in the order of the table.
    """
    return adata.var_names[adata.var["truth"].isin(PLANTED)].tolist()


def against_truth(adata: AnnData) -> pd.DataFrame:
    """Found and true values of the phantom's geometry, shapes and genes.

    Parameters
    ----------
    adata
        Table of `lm.datasets.phantom` after `report.analyse` with `planted_genes` as target.

    Returns
    -------
    Columns ``quantity``, ``found``, ``true``.
    """
    made, record = adata.uns[keys.UNS]["phantom"], adata.uns[keys.UNS][keys.NUCLEI]
    ok = (adata.obs[keys.NUCLEUS_QC] == keys.QC_OK).to_numpy()
    off = np.hypot(*(adata.obsm[keys.NUCLEUS_XY] - adata.obsm["truth_xy"])[ok].T)
    rows: list[tuple[str, float, float]] = [
        ("um per px of the H&E", float(np.mean(record["mpp"])), float(made["mpp"])),
        ("nucleus centre, largest error in px", float(off.max()), 0.0),
    ]
    features = list(adata.uns[keys.UNS][keys.EMBED][keys.X_MORPHOMETRY]["features"])
    area = adata.obsm[keys.X_MORPHOMETRY][ok, features.index("area_um2")]
    agreement = spearmanr(area, adata.obs["truth_area_um2"][ok]).statistic
    rows.append(("nuclear area, rank correlation with the true area", float(agreement), 1.0))
    pcc = adata.uns[keys.UNS][keys.PROBE][keys.PROBE]["summary"]["pcc"]
    moran = adata.uns[keys.MORAN]["pval_norm"]
    for kind in PLANTED:
        genes = adata.var_names[adata.var["truth"] == kind]
        rows.append((f"probe: mean PCC of {len(genes)} {kind} genes", float(pcc[genes].mean()), np.nan))
    for kind in PLANTED:
        genes = adata.var_names[adata.var["truth"] == kind]
        expected = {"noise": ALPHA}.get(kind, np.nan)
        share = float((moran[genes] < ALPHA).mean())
        rows.append((f"Moran: share of {kind} genes with p < {ALPHA}", share, expected))
    return pd.DataFrame(rows, columns=["quantity", "found", "true"])
