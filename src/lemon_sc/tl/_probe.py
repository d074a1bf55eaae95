"""Linear probe of gene expression or of classes from an embedding."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import logger
from lemon_sc._core.record import record_id, write_record
from lemon_sc._core.rng import RNG, spawn
from lemon_sc._core.table import as_table, check_free, check_key
from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.analysis.panel import looks_like_counts, mean_by_group, top_genes
from lemon_sc.analysis.probe import ridge_probe
from lemon_sc.analysis.protocol import ProbeProtocol, as_protocol
from lemon_sc.analysis.ridge import ALPHAS
from lemon_sc.tl._expression import all_genes, check_genes, dense, expression
from lemon_sc.tl._probe_cells import Cells, class_column, leakage, take_cells
from lemon_sc.tl._probe_tables import HEADLINE, class_tables, gene_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from lemon_sc.analysis.splits import Folds

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
    protocol: str | ProbeProtocol = "default",
) -> None:
    """Predict gene expression, or the class of a cell, linearly from the embedding, on cells the model has not seen.

    Each group (slide, patient) is held out once and predicted from the others; with ``groups=None`` five folds of
    square blocks of the one slide take the place of groups, each block about a fifth of the field wide. A random split
    would leak: cells of one slide share its stain and focus, neighbours share their surroundings, and both would sit on
    either side of it. Slides of one patient leak too: name the patient in the protocol if there are several slides of
    one, or give it as group.

    Genes are predicted with ridge regression. Features are standardised with the training cells' statistics, the
    intercept is free, and the penalty (one for all genes and each held-out group, 10^-2 to 10^6) is chosen by leaving
    out each training group in turn. The score is the Pearson correlation of each gene over the cells of a held-out
    group; correlations over pooled groups stand beside it and are inflated by differences between groups. The null
    repeats the fits, with the penalties found, on expression shuffled among the cells of each group.

    Shuffling treats cells as independent, and neighbours in tissue are not: the p-values say that a prediction is
    better than none, not that it is better than what smoothness over the section alone would give.

    Classes are predicted with multinomial logistic regression (L2, C = 1 unless the protocol says otherwise, solved to
    its optimum) on features standardised likewise. The null scores the predictions against labels shuffled among the
    cells of each held-out group.

    Parameters
    ----------
    %(adata)s
    target
        ``"genes"``: the 50 genes of highest mean expression, by rank within each group, ranks summed over groups
        (held-out ones included; the choice does not see the embedding), controls left out. A gene name or a list of
        them. Or a column of ``adata.obs`` with classes (categorical, text or bool); cells without one are left out.
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
    protocol
        ``"default"``, ``"hest"`` (256 principal components, penalty ``100 / (F * G)``, no intercept), or a
        `ProbeProtocol` with the kind of folds, the distance between blocks, the patient, penalties, components, the
        choice of genes, the positive class and the number of shuffles.

    Returns
    -------
    Nothing. Adds to the table:

    ``.uns["lemon_sc"]["probe"][key_added]`` for genes
        ``scores``: DataFrame, one row per group and gene: ``group``, ``gene``, ``n`` (cells), ``pcc``, ``null_mean``,
        ``null_sd``. ``summary``: DataFrame indexed by gene: ``pcc`` (mean over groups), ``pcc_sd``, ``pcc_pooled``,
        ``null_mean``, ``null_sd``, ``pvalue``, ``n_folds``, ``n_undefined``. ``groups``: DataFrame indexed by group:
        ``n``, ``alpha``, ``n_features``, ``pcc`` (mean over genes), ``n_undefined``. ``score`` and ``score_sd``: mean
        and sd over groups. Where the truth or the prediction is constant in a group, ``pcc`` is NaN, is left out of
        means and counted in ``n_undefined``.
    ``.uns["lemon_sc"]["probe"][key_added]`` for classes
        ``scores`` by group and class: ``n``, ``auc`` (class against rest), ``aupr``, ``recall``, ``f1``. ``summary``
        indexed by class: their means over groups, the null of ``auc`` and its p-value. ``metrics`` indexed by ``auc``,
        ``aupr``, ``balanced_accuracy``, ``f1_macro``, ``f1_weighted``: ``mean`` and ``sd`` over groups, ``null_mean``,
        ``null_sd``, ``pvalue``. ``groups``: the five by group, and the inverse penalty ``c``. ``score`` is the balanced
        accuracy. A class that is not in a group is left out of that group's means and counted in ``n_undefined``;
        ``n_untrained`` counts classes that a group's model has not seen.
    the same, for both
        Controls: ``group_identity``, the balanced accuracy with which the group is read from the embedding, and its
        chance level; ``score_group_only``, the score of a probe that sees only the group (stratified folds with
        `groups`, else NaN); ``n_shared_rows``, cells whose embedding is, bit for bit, that of a cell in another fold;
        ``n_overlapping``, cells whose crop overlaps with one in another fold (``obsm["nucleus_xy"]``, else
        ``obsm["spatial"]`` in um), within what ``overlap_within`` says; ``n_duplicates`` and ``n_near_duplicates``,
        cells whose crop in ``obsm["nuclei"]`` is, pixel for pixel or nearly, that of a cell in another fold, of
        ``n_crops_compared`` crops (NaN without crops in memory); ``n_in_buffer``, cells between blocks that were left
        out. The rest is the protocol.
    ``.obsm[predictions]``
        Float32, (n_obs, n_targets), expression or class probabilities, columns in the order of the record's ``genes``
        or ``classes``; NaN for cells that were left out.

    Raises
    ------
    MissingKeyError
        If the embedding, the column, the layer, the coordinates or a gene is not there.
    ValueError
        If there are fewer than two groups or classes, no cell with an embedding, values that are not finite, negative
        counts, or choices in the protocol that do not go together.

    References
    ----------
    HEST-1k (Jaume et al., NeurIPS 2024) for the protocol of genes.
    """
    adata, plan = as_table(adata), as_protocol(protocol)
    _check_names(adata, use_rep=use_rep, key_added=key_added, predictions=predictions)
    fold_rng, probe_rng, control_rng = spawn(rng, 3)
    label = class_column(adata, target)
    cells = take_cells(adata, use_rep=use_rep, groups=groups, label=label, protocol=plan, rng=fold_rng)
    if cells.labels is not None:
        made, out = _probe_classes(cells, cells.labels, plan, probe_rng)
    else:
        made, out = _probe_genes(adata, cells, target, layer, plan, probe_rng)
    made |= (
        leakage(adata, cells, rng=control_rng)
        | _protocol(plan, cells, use_rep, groups, rng)
        | {"target_key": label or ""}
    )
    if predictions is not None:
        whole = np.full((adata.n_obs, out.shape[1]), np.nan, dtype=np.float32)
        whole[cells.rows] = out
        adata.obsm[predictions] = whole
        made["predictions"] = predictions
    write_record(adata, keys.PROBE, made, key=key_added, made_from=record_id(adata, keys.EMBED, use_rep))
    _report(made)


def _check_names(adata: AnnData, *, use_rep: str, key_added: str, predictions: str | None) -> None:
    check_key(key_added)
    if predictions is not None:
        check_key(predictions, parameter="predictions")
        if predictions in {use_rep, "spatial", keys.NUCLEUS_XY}:
            raise bad_value("predictions", must="not be the key of an input", got=predictions)
        check_free(adata, predictions, verb=keys.PROBE, parameter="predictions")


def _protocol(plan: ProbeProtocol, cells: Cells, use_rep: str, groups: str | None, rng: RNG) -> dict[str, Any]:
    """What the record says of how the probe was run; text in place of None, which files cannot hold."""
    return {
        "use_rep": use_rep,
        "groups_key": groups or ("spatial" if cells.folds.kind == "spatial_blocks" else ""),
        "folds": cells.folds.kind,
        "block_side": cells.folds.block_side,
        "protocol": {name: "none" if value is None else value for name, value in asdict(plan).items()},
        "n_null": plan.n_null,
        "standardisation": "mean and sd of the training cells",
        "rng": "generator" if isinstance(rng, np.random.Generator) else int(rng),
        **cells.counts,
    }


def _probe_genes(
    adata: AnnData,
    cells: Cells,
    target: str | Sequence[str],
    layer: str | None,
    plan: ProbeProtocol,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    genes, used = targets_of(adata, target, layer=layer, cells=cells, train_only=plan.train_only)
    y, transform = log_expression(adata, genes, layer=layer, rows=cells.rows)
    result = ridge_probe(
        cells.x, y, cells.folds, rng=rng, n_null=plan.n_null, alpha=plan.alpha, n_pcs=plan.n_pcs, used_FG=used
    )
    made = gene_tables(result, cells.folds, genes) | {
        "layer": "X" if layer is None else layer,
        "transform": transform,
        "target": "genes" if isinstance(target, str) and target == "genes" else "list",
        "alphas": np.array(ALPHAS),
        "alpha_choice": result.inner,
        "score_group_only": float("nan"),
    }
    return made, result.predictions


def _probe_classes(
    cells: Cells, labels: NDArray[np.str_], plan: ProbeProtocol, rng: np.random.Generator
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    result = logistic_probe(
        cells.x, labels, cells.folds, rng=rng, n_null=plan.n_null, c=plan.c, n_pcs=plan.n_pcs, pos_label=plan.pos_label
    )
    made = class_tables(result, cells.folds) | {"target": "obs", "score_group_only": float("nan")}
    if cells.groups is not None and cells.folds.kind == "stratified":
        one_hot = (cells.groups[:, None] == np.unique(cells.groups)).astype(np.float64)
        only = class_tables(logistic_probe(one_hot, labels, cells.folds, rng=rng, n_null=0, c=plan.c), cells.folds)
        made["score_group_only"] = only["score"]
    return made, result.probability


def targets_of(
    adata: AnnData, target: str | Sequence[str], *, layer: str | None, cells: Cells, train_only: bool
) -> tuple[list[str], NDArray[np.bool_] | None]:
    """Names of the genes to predict, and in which folds (F, G), if not in all."""
    if not (isinstance(target, str) and target == "genes"):
        if train_only:
            raise bad_value("train_only", must='be False unless target="genes"', got=train_only)
        return check_genes(adata, target), None
    genes = all_genes(adata)
    if not genes:
        msg = (
            f"None of the {adata.n_vars} features is a gene (controls left out). Do the panels of all slides intersect?"
        )
        raise ValueError(msg)
    folds = cells.folds
    x = expression(adata, check_genes(adata, genes), layer=layer, rows=cells.rows)
    mean_FG = mean_by_group(x, folds.codes, len(folds.names))
    if not train_only:
        return _top(mean_FG, genes, folds, np.arange(len(folds.names))), None
    of_fold = [_top(mean_FG, genes, folds, folds.training(f)) for f in range(len(folds.names))]
    chosen = sorted(set().union(*of_fold), key=lambda gene: (-sum(gene in names for names in of_fold), gene))
    return chosen, np.array([[gene in set(names) for gene in chosen] for names in of_fold])


def _top(mean_FG: NDArray[np.float64], genes: list[str], folds: Folds, of: NDArray[np.intp]) -> list[str]:
    """The top genes of the folds `of`."""
    mean = mean_FG[of]
    if folds.kind != "groups":  # parts of one slide are not slides: there the rank is that of the mean over all cells
        mean = np.average(mean, axis=0, weights=folds.sizes[of])[None]
    return top_genes(mean, genes, n=N_TOP_GENES)


def log_expression(
    adata: AnnData, genes: list[str], *, layer: str | None, rows: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], str]:
    y = dense(expression(adata, genes, layer=layer, rows=rows))
    if looks_like_counts(y):
        return np.log1p(y, dtype=np.float64), "log1p"
    if (y == np.floor(y)).all():
        bad = [gene for gene, column in zip(genes, y.T, strict=True) if (column < 0).any()]
        msg = f"Counts must not be negative, found negative whole numbers in {len(bad)} genes: {bad[:12]}."
        raise ValueError(msg)
    return y, "none"


def _report(made: dict[str, Any]) -> None:
    n_targets = len(made["summary"])
    logger.info(
        "probe: %s %.3f (sd %.3f over %d folds), %d %s, %d cells; left out: %d without embedding, "
        "%d without group, %d without class; %d undefined %s",
        {"pcc": "PCC", HEADLINE: "balanced accuracy"}[made["score_metric"]],
        made["score"],
        made["score_sd"],
        len(made["groups"]),
        n_targets,
        made["kind"],
        made["n_cells"],
        made["n_no_embedding"],
        made["n_no_group"],
        made["n_no_label"],
        made["n_undefined"],
        "correlations" if made["kind"] == "genes" else "class scores",
    )
    if made["kind"] == "genes" and not np.isfinite(made["score"]):
        logger.warning("probe: every correlation is undefined: expression or prediction is constant in every fold")
    if made["kind"] == "classes" and made["n_undefined"]:
        logger.warning(
            "probe: in %d of %d pairs of fold and class the fold has no cell of the class; left out of its means",
            made["n_undefined"],
            n_targets * len(made["groups"]),
        )
    if np.isfinite(made["group_identity"]):
        logger.info(
            "probe: the group is read from the embedding with balanced accuracy %.3f (chance %.3f)",
            made["group_identity"],
            made["group_identity_chance"],
        )
