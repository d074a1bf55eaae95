"""The tables of a probe: scores by fold and target, a summary by target, one by fold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc.analysis.probe import ProbeResult, pvalues
from lemon_sc.metrics.classification import METRICS
from lemon_sc.metrics.means import nanmean, nanstd

if TYPE_CHECKING:
    from lemon_sc.analysis.logistic import LogisticResult
    from lemon_sc.analysis.splits import Folds

HEADLINE = "balanced_accuracy"
"""The metric that stands for a probe of classes."""


def gene_tables(result: ProbeResult, folds: Folds, genes: list[str]) -> dict[str, Any]:
    """Scores, summary and folds of a ridge probe.

    Parameters
    ----------
    result
        Of the ridge probe.
    folds
        Its folds.
    genes
        Names of the targets.

    Returns
    -------
    What the record holds, by name.
    """
    undefined = result.used & ~np.isfinite(result.pcc)
    scores = _long(folds, "gene", genes)
    scores["n"] = np.repeat(folds.sizes, len(genes))
    scores["pcc"] = result.pcc.ravel()
    scores["null_mean"] = nanmean(result.null, axis=0).ravel()
    scores["null_sd"] = nanstd(result.null, axis=0).ravel()
    scores = scores[result.used.ravel()].reset_index(drop=True)
    scores.index = scores.index.astype(str)
    summary = pd.DataFrame(
        {
            "pcc": result.gene_score,
            "pcc_sd": nanstd(result.pcc, axis=0),
            "pcc_pooled": result.pooled,
            "null_mean": nanmean(result.null_score, axis=0),
            "null_sd": nanstd(result.null_score, axis=0),
            "pvalue": result.pvalue,
            "n_folds": result.used.sum(axis=0),
            "n_undefined": undefined.sum(axis=0),
        },
        index=pd.Index(genes, dtype=object),
    )
    by_group = pd.DataFrame(
        {
            "n": folds.sizes,
            "alpha": result.alpha,
            "n_features": result.n_features,
            "pcc": result.fold_score,
            "n_undefined": undefined.sum(axis=1),
        },
        index=pd.Index(folds.names, dtype=object),
    )
    return {
        "kind": "genes",
        "scores": scores,
        "summary": summary,
        "groups": by_group,
        "score_metric": "pcc",
        "score": float(nanmean(result.fold_score, axis=0)),
        "score_sd": float(nanstd(result.fold_score, axis=0)),
        "genes": np.array(genes, dtype=object),
        "n_undefined": int(undefined.sum()),
    }


def class_tables(result: LogisticResult, folds: Folds) -> dict[str, Any]:
    """Scores, summary, metrics and folds of a logistic probe.

    Parameters
    ----------
    result
        Of the logistic probe.
    folds
        Its folds.

    Returns
    -------
    What the record holds, by name.
    """
    classes = list(result.classes)
    n, auc = result.by_class("n"), result.by_class("class_auc")
    by_class = {name: result.by_class(f"class_{name}") for name in ("aupr", "recall", "f1")}
    scores = _long(folds, "class", classes)
    scores["n"] = n.astype(np.int64).ravel()
    scores["auc"] = auc.ravel()
    for name, values in by_class.items():
        scores[name] = values.ravel()
    scores["null_mean"] = nanmean(result.null_auc, axis=0).ravel()
    scores["null_sd"] = nanstd(result.null_auc, axis=0).ravel()
    null_auc = nanmean(result.null_auc, axis=1)
    summary = pd.DataFrame(
        {
            "n": n.sum(axis=0).astype(np.int64),
            "auc": nanmean(auc, axis=0),
            "auc_sd": nanstd(auc, axis=0),
            **{name: nanmean(values, axis=0) for name, values in by_class.items()},
            "null_mean": nanmean(null_auc, axis=0),
            "null_sd": nanstd(null_auc, axis=0),
            "pvalue": pvalues(nanmean(auc, axis=0), null_auc),
            "n_undefined": (n == 0).sum(axis=0),
        },
        index=pd.Index(classes, dtype=object),
    )
    by_group = pd.DataFrame(result.metrics, columns=list(METRICS), index=pd.Index(folds.names, dtype=object))
    by_group.insert(0, "n", folds.sizes)
    by_group["n_undefined"] = (n == 0).sum(axis=1)
    by_group["n_untrained"] = result.n_untrained
    by_group["c"] = result.c
    metrics = _metrics(result)
    return {
        "kind": "classes",
        "scores": scores,
        "summary": summary,
        "groups": by_group,
        "metrics": metrics,
        "score_metric": HEADLINE,
        "score": float(metrics.loc[HEADLINE, "mean"]),
        "score_sd": float(metrics.loc[HEADLINE, "sd"]),
        "classes": np.array(classes, dtype=object),
        "n_undefined": int((n == 0).sum()),
    }


def _metrics(result: LogisticResult) -> pd.DataFrame:
    mean, null = nanmean(result.metrics, axis=0), nanmean(result.null, axis=1)
    return pd.DataFrame(
        {
            "mean": mean,
            "sd": nanstd(result.metrics, axis=0),
            "null_mean": nanmean(null, axis=0),
            "null_sd": nanstd(null, axis=0),
            "pvalue": pvalues(mean, null),
        },
        index=pd.Index(METRICS, dtype=object),
    )


def _long(folds: Folds, name: str, targets: list[str]) -> pd.DataFrame:
    """One row per fold and target."""
    table = pd.DataFrame(
        {
            "group": np.repeat(np.array(folds.names, dtype=object), len(targets)),
            name: np.tile(np.array(targets, dtype=object), len(folds.names)),
        }
    )
    table.index = table.index.astype(str)
    return table
