"""Linear probe of gene expression from an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.log import logger
from lemon_sc._core.record import write_record
from lemon_sc._core.rng import RNG, spawn
from lemon_sc._core.table import as_table, check_key
from lemon_sc.analysis.panel import looks_like_counts, mean_by_group, top_genes
from lemon_sc.analysis.probe import ProbeResult, nanmean, nanstd, ridge_probe
from lemon_sc.analysis.ridge import ALPHAS
from lemon_sc.analysis.splits import Folds, leave_one_group_out, spatial_blocks
from lemon_sc.tl._expression import all_genes, check_genes, dense, embedded_rows, expression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

N_TOP_GENES = 50


@doc
def probe(
    adata: AnnData,
    *,
    target: str | Sequence[str] = "genes",
    use_rep: str = keys.X_LEMON,
    groups: str | None = None,
    layer: str | None = None,
    rng: RNG = 0,
    key_added: str = "probe",
    predictions: str | None = None,
    n_null: int = 20,
) -> None:
    """Predict gene expression from the embedding with ridge regression, on cells the model has not seen.

    Each group (slide, patient) is held out once and predicted from the others; with ``groups=None`` five folds of
    square blocks of the one slide take the place of groups, each block about a fifth of the field wide. A random split
    would leak: cells of one slide share its stain and focus, neighbours share their surroundings, and both would sit on
    either side of it. Slides of one patient leak too; give the patient as group if there are several slides of one.

    Features are standardised with the training cells' statistics, the intercept is free, and the penalty (one for all
    genes and each held-out group, 10^-2 to 10^6) is chosen by leaving out each training group in turn. The score is the
    Pearson correlation of each gene over the cells of a held-out group; correlations over pooled groups stand beside it
    and are inflated by differences between groups. The null repeats the fits, with the penalties found, on expression
    shuffled among the cells of each group.

    Parameters
    ----------
    %(adata)s
    target
        ``"genes"``: the 50 genes of highest mean expression, by rank within each group, ranks summed over groups
        (held-out ones included; the choice does not see the embedding), controls left out. Else one gene name or a
        list of them.
    %(use_rep)s
    groups
        Column of ``adata.obs`` with the slide or patient. Cells without a value are left out and counted. ``None``
        takes spatial blocks from ``adata.obsm["spatial"]``; do not use it where several slides share coordinates.
    %(layer)s
        Whole numbers are taken for counts and become ``log1p(counts)``; anything else is used as it is. The record says
        which.
    %(rng)s
    %(key_added)s
    predictions
        Key in ``adata.obsm`` for the out-of-fold predictions; ``None`` does not keep them.
    n_null
        Shuffles for the null; the smallest p-value is ``1 / (1 + n_null)``.

    Returns
    -------
    Nothing. Adds to the table:

    ``.uns["lemon_sc"]["probe"][key_added]``
        ``scores``: DataFrame, one row per group and gene: ``group``, ``gene``, ``n`` (cells), ``pcc``, ``null_mean``,
        ``null_sd``. ``summary``: DataFrame indexed by gene: ``pcc`` (mean over groups), ``pcc_sd``, ``pcc_pooled``,
        ``null_mean``, ``null_sd``, ``pvalue``, ``n_undefined``. ``groups``: DataFrame indexed by group: ``n``,
        ``alpha``, ``pcc`` (mean over genes), ``n_undefined``. ``score`` and ``score_sd``: mean and sd over groups. The
        rest is the protocol: genes, folds, transform, penalties, cells left out. Where the truth or the prediction is
        constant in a group, ``pcc`` is NaN, is left out of means and counted in ``n_undefined``.
    ``.obsm[predictions]``
        Float32, (n_obs, n_genes), columns in the order of the record's ``genes``; NaN for cells that were left out.

    Raises
    ------
    MissingKeyError
        If the embedding, the column, the layer, the coordinates or a gene is not there.
    ValueError
        If there are fewer than two groups, no cell with an embedding, or values that are not finite.

    References
    ----------
    HEST-1k (Jaume et al., NeurIPS 2024) for the protocol.
    """
    adata = as_table(adata)
    _check_names(adata, use_rep=use_rep, key_added=key_added, predictions=predictions)
    fold_rng, probe_rng = spawn(rng, 2)
    rep, embedded = embedded_rows(adata, use_rep)
    placed = _has_group(adata, groups)
    rows = embedded & placed
    folds = _folds(adata, groups, rows, rng=fold_rng)
    genes = _targets(adata, target, layer=layer, rows=rows, folds=folds)
    y, transform = _log_expression(adata, genes, layer=layer, rows=rows)

    result = ridge_probe(rep if rows.all() else rep[rows], y, folds, rng=probe_rng, n_null=n_null)

    made = _tables(result, folds, genes) | {
        "use_rep": use_rep,
        "layer": "X" if layer is None else layer,
        "transform": transform,
        "target": "genes" if target == "genes" else "list",
        "groups_key": "spatial" if groups is None else groups,
        "n_cells": int(rows.sum()),
        "n_no_embedding": int((~embedded).sum()),
        "n_no_group": int((embedded & ~placed).sum()),
        "n_null": n_null,
        "rng": "generator" if isinstance(rng, np.random.Generator) else int(rng),
    }
    if predictions is not None:
        out = np.full((adata.n_obs, len(genes)), np.nan, dtype=np.float32)
        out[rows] = result.predictions
        adata.obsm[predictions] = out
        made["predictions"] = predictions
    write_record(adata, keys.PROBE, made, key=key_added)
    _report(made)


def _check_names(adata: AnnData, *, use_rep: str, key_added: str, predictions: str | None) -> None:
    check_key(key_added)
    if predictions is not None:
        check_key(predictions, parameter="predictions")
        if predictions in {use_rep, "spatial"}:
            raise bad_value("predictions", must="not be the key of an input", got=predictions)


def _has_group(adata: AnnData, groups: str | None) -> NDArray[np.bool_]:
    """Which cells have a group, or coordinates where blocks are wanted."""
    if groups is not None:
        if groups not in adata.obs:
            raise missing_key(groups, where="adata.obs", have=adata.obs.columns)
        return adata.obs[groups].notna().to_numpy()
    if "spatial" not in adata.obsm:
        raise missing_key(
            "spatial",
            where="adata.obsm",
            have=adata.obsm,
            fix="Pass `groups=` (a column of adata.obs with the slide), or store the cells' coordinates there.",
        )
    xy = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2:
        msg = f"`adata.obsm['spatial']` must hold x and y in two columns, got shape {xy.shape}."
        raise ValueError(msg)
    return np.asarray(np.isfinite(xy[:, :2]).all(axis=1))


def _folds(adata: AnnData, groups: str | None, rows: NDArray[np.bool_], *, rng: np.random.Generator) -> Folds:
    if groups is not None:
        return leave_one_group_out(adata.obs[groups].to_numpy()[rows])
    return spatial_blocks(np.asarray(adata.obsm["spatial"])[rows, :2], rng=rng)


def _targets(
    adata: AnnData, target: str | Sequence[str], *, layer: str | None, rows: NDArray[np.bool_], folds: Folds
) -> list[str]:
    """Names of the genes to predict."""
    if not (isinstance(target, str) and target == "genes"):
        return check_genes(adata, target)
    genes = all_genes(adata)
    # Blocks of one slide are not slides: there the rank is that of the mean over all cells.
    codes, n_groups = (folds.codes, len(folds.names)) if folds.kind == "groups" else (np.zeros_like(folds.codes), 1)
    mean = mean_by_group(expression(adata, check_genes(adata, genes), layer=layer, rows=rows), codes, n_groups)
    return top_genes(mean, genes, n=N_TOP_GENES)


def _log_expression(
    adata: AnnData, genes: list[str], *, layer: str | None, rows: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], str]:
    y = dense(expression(adata, genes, layer=layer, rows=rows))
    if looks_like_counts(y):
        return np.log1p(y, dtype=np.float64), "log1p"
    return y, "none"


def _tables(result: ProbeResult, folds: Folds, genes: list[str]) -> dict[str, Any]:
    n_folds = len(folds.names)
    undefined = ~np.isfinite(result.pcc)
    scores = pd.DataFrame(
        {
            "group": np.repeat(np.array(folds.names, dtype=object), len(genes)),
            "gene": np.tile(np.array(genes, dtype=object), n_folds),
            "n": np.repeat(folds.sizes, len(genes)),
            "pcc": result.pcc.ravel(),
            "null_mean": nanmean(result.null, axis=0).ravel(),
            "null_sd": nanstd(result.null, axis=0).ravel(),
        }
    )
    scores.index = scores.index.astype(str)
    summary = pd.DataFrame(
        {
            "pcc": result.gene_score,
            "pcc_sd": nanstd(result.pcc, axis=0),
            "pcc_pooled": result.pooled,
            "null_mean": nanmean(result.null_score, axis=0),
            "null_sd": nanstd(result.null_score, axis=0),
            "pvalue": result.pvalue,
            "n_undefined": undefined.sum(axis=0),
        },
        index=pd.Index(genes, dtype=object),
    )
    by_group = pd.DataFrame(
        {
            "n": folds.sizes,
            "alpha": result.alpha,
            "pcc": result.fold_score,
            "n_undefined": undefined.sum(axis=1),
        },
        index=pd.Index(folds.names, dtype=object),
    )
    return {
        "scores": scores,
        "summary": summary,
        "groups": by_group,
        "score": float(nanmean(result.fold_score, axis=0)),
        "score_sd": float(nanstd(result.fold_score, axis=0)),
        "genes": np.array(genes, dtype=object),
        "n_undefined": int(undefined.sum()),
        "folds": folds.kind,
        "block_side": folds.block_side,
        "alphas": np.array(ALPHAS),
        "alpha_choice": result.inner,
        "standardisation": "mean and sd of the training cells",
    }


def _report(made: dict[str, Any]) -> None:
    logger.info(
        "probe: PCC %.3f (sd %.3f over %d folds), %d genes, %d cells; left out: %d without embedding, "
        "%d without group; %d undefined correlations",
        made["score"],
        made["score_sd"],
        len(made["groups"]),
        len(made["genes"]),
        made["n_cells"],
        made["n_no_embedding"],
        made["n_no_group"],
        made["n_undefined"],
    )
