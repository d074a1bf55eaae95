"""Measurements on embeddings: classes, expression, Moran's I. Rows in, `lemon_sc.bench.rows` out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from lemon_sc import tl
from lemon_sc._core import keys
from lemon_sc.analysis.leakage import group_identity, overlapping_windows, shared_rows
from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.analysis.panel import mean_by_group, top_genes
from lemon_sc.analysis.probe import ridge_probe
from lemon_sc.analysis.threads import threads
from lemon_sc.bench.encoders import N_PCS
from lemon_sc.bench.features import WINDOW_MPP
from lemon_sc.bench.folds import class_folds, expression_folds
from lemon_sc.bench.rows import HIGH, LOW, POOLED, POOLED_SCORE, UNITS, Rows
from lemon_sc.geometry.windows import window_side
from lemon_sc.metrics.classification import METRICS, classification_intervals
from lemon_sc.metrics.means import nanmean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lemon_sc.analysis.logistic import LogisticResult
    from lemon_sc.analysis.splits import Folds
    from lemon_sc.bench.features import Features
    from lemon_sc.bench.kinds import Labelled, Task

    Row = dict[str, Any]

N_NULL = 5
"""Shuffles of the null."""

N_GENES = 50
"""Genes of an expression task, by the rank of their mean in each slide."""

N_PERMS = 199
"""Permutations of Moran's I."""

CONTROL = "control"
"""What the column ``protocol`` says of rows about what an embedding knows beside the answer."""


def n_pcs_of(encoder: str) -> int | None:
    """Principal components that a probe takes of an encoder's features.

    Parameters
    ----------
    encoder
        Its name.

    Returns
    -------
    Their number; None for the features as they are.
    """
    return N_PCS.get(encoder)


def rows_of(task: Task, encoder: str, width: int) -> Rows:
    """A maker of rows for what a probe sees of an encoder.

    Parameters
    ----------
    task
        The task.
    encoder
        Name of the encoder.
    width
        Of its embedding.

    Returns
    -------
    The maker.
    """
    n_pcs = n_pcs_of(encoder)
    return Rows(task=task, encoder=encoder, dim=width if n_pcs is None else min(n_pcs, width))


def n_train(folds: Folds) -> NDArray[np.intp]:
    """Nuclei that each fold is predicted from.

    Parameters
    ----------
    folds
        The folds.

    Returns
    -------
    (F,).
    """
    return np.array([folds.sizes[folds.training(f)].sum() for f in range(len(folds.names))])


def logistic(
    z: NDArray[np.float32], labels: NDArray[np.str_], folds: Folds, encoder: str, *, seed: int, **options: Any
) -> LogisticResult:
    """A logistic probe on one thread: several that wait for one another are slower where processors are shared.

    Parameters
    ----------
    z, labels, folds
        Embedding, classes and folds.
    encoder
        Name of the encoder, which may ask for principal components.
    seed
        Of the shuffles.
    **options
        Of `logistic_probe`.

    Returns
    -------
    The result.
    """
    with threads():
        return logistic_probe(z, labels, folds, rng=np.random.default_rng(seed), n_pcs=n_pcs_of(encoder), **options)


def classification(
    task: Task, labelled: Labelled, made: Features, encoder: str, *, protocols: tuple[str, ...], seed: int
) -> Iterator[Row]:
    """Scores of a logistic probe in the folds of each protocol, those of shuffled labels, and controls.

    Parameters
    ----------
    task, labelled
        The task and its nuclei.
    made
        Embedding of some of them.
    encoder
        Its name.
    protocols
        Kinds of folds.
    seed
        Of folds and shuffles.

    Yields
    ------
    Rows.
    """
    nuclei, rows = labelled.nuclei.loc[made.rows], rows_of(task, encoder, made.z.shape[1])
    labels = nuclei["label"].to_numpy(str)
    for protocol in protocols:
        folds, start = class_folds(nuclei, protocol, seed=seed), time.perf_counter()
        result = logistic(made.z, labels, folds, encoder, seed=seed, n_null=N_NULL, pos_label=task.pos_label)
        seconds, trained = time.perf_counter() - start, n_train(folds)
        for f, fold in enumerate(folds.names):
            size = {"n": folds.sizes[f], "n_train": trained[f], "seconds": seconds}
            null = nanmean(result.null[:, f], axis=0)
            for m, metric in enumerate(METRICS):
                yield rows.row(protocol, fold, metric, result.metrics[f, m], **size)
                yield rows.row(protocol, fold, f"null_{metric}", null[m], **size)
            yield rows.row(protocol, fold, "n_undefined", result.folds[f].n_missing, **size)
        yield from _over_slides(rows, task, result, nuclei, protocol, seed=seed)
        yield from _leaks(rows, labelled, nuclei, made, folds, protocol, window_px=task.window_px)
    yield from _knows_slide(rows, nuclei, made.z, seed=seed)


def _over_slides(
    rows: Rows, task: Task, result: LogisticResult, nuclei: pd.DataFrame, protocol: str, *, seed: int
) -> Iterator[Row]:
    """Scores over the nuclei of all folds together, with intervals from drawing what is independent.

    Patients are drawn where they are known, else slides; nuclei where there is one slide.
    """
    known = np.isfinite(result.probability).all(axis=1)
    units = nuclei["patient" if "patient" in nuclei else "slide"].astype(str).to_numpy(str)[known]
    found = classification_intervals(
        nuclei["label"].to_numpy(str)[known],
        result.probability[known],
        classes=result.classes,
        units=units if len(np.unique(units)) > 1 else None,
        pos_label=task.pos_label,
        rng=seed,
    )
    n = int(known.sum())
    for metric, made in found.items():
        name = POOLED_SCORE + metric
        for column, value in ((name, made.value), (name + LOW, made.low), (name + HIGH, made.high)):
            yield rows.row(protocol, POOLED, column, value, n=n)
    yield rows.row(protocol, POOLED, UNITS, found[METRICS[0]].n_units, n=n)


def _leaks(
    rows: Rows,
    labelled: Labelled,
    nuclei: pd.DataFrame,
    made: Features,
    folds: Folds,
    protocol: str,
    *,
    window_px: int,
) -> Iterator[Row]:
    """Nuclei whose embedding, or some of whose pixels, are on both sides of the split."""
    apart = folds.apart[folds.codes]
    yield rows.row(protocol, POOLED, "n_shared_rows", shared_rows(made.z, apart).sum(), n=len(nuclei))
    image, code = np.unique(nuclei["image"].to_numpy(str), return_inverse=True)
    sides = np.stack([window_side(window_px, labelled.mpp[name], WINDOW_MPP) for name in image])
    unit = nuclei[["x", "y"]].to_numpy(np.float64) / sides[code]
    overlap = overlapping_windows(unit, code, apart, side=np.ones(2))
    yield rows.row(protocol, POOLED, "n_overlapping", overlap.sum(), n=len(nuclei))


def _knows_slide(rows: Rows, nuclei: pd.DataFrame, z: NDArray[np.float32], *, seed: int) -> Iterator[Row]:
    """How well the slide is read from the embedding; none where each image is a slide of its own."""
    if nuclei["slide"].nunique() < 2 or (nuclei["slide"] == nuclei["image"]).all() and nuclei["image"].is_unique:
        return
    codes = np.unique(nuclei["slide"].to_numpy(str), return_inverse=True)[1]
    found = group_identity(z, codes, rng=np.random.default_rng(seed))
    yield rows.row(CONTROL, POOLED, "slide_identity", found.balanced_accuracy, n=len(nuclei))
    yield rows.row(CONTROL, POOLED, "slide_identity_chance", found.chance, n=len(nuclei))


def by_item(labelled: Labelled, made: Features) -> tuple[NDArray[np.intp], NDArray[np.float32], pd.DataFrame]:
    """Mean embedding of the windows of each item, and one row of the table for each.

    Parameters
    ----------
    labelled
        The nuclei.
    made
        Embedding of some of them.

    Returns
    -------
    Items (m,), means (m, D), and the first row of each.
    """
    item = labelled.items()[made.rows]
    items, first, code, count = np.unique(item, return_index=True, return_inverse=True, return_counts=True)
    if len(items) == len(item):
        order = np.argsort(item)
        return item[order], made.z[order], labelled.nuclei.loc[made.rows[order]]
    mean = sparse.csr_matrix((1.0 / count[code], (code.reshape(-1), np.arange(len(code))))) @ made.z.astype(np.float64)
    return items, mean.astype(np.float32), labelled.nuclei.loc[made.rows[first]]


def expression(
    task: Task, labelled: Labelled, made: Features, encoder: str, *, protocols: tuple[str, ...], seed: int
) -> Iterator[Row]:
    """Pearson correlation of each held-out slide, mean over genes, of a ridge probe of log counts.

    Parameters
    ----------
    task, labelled, made, encoder, protocols, seed
        As for `classification`.

    Yields
    ------
    Rows: ``pcc`` by slide, genes without a correlation left out and counted in ``n_undefined``; ``pcc_pooled``.
    """
    items, z, nuclei = by_item(labelled, made)
    rows = rows_of(task, encoder, z.shape[1])
    counts = sparse.csr_matrix(labelled.expression)[items]
    slide = np.unique(nuclei["slide"].to_numpy(str), return_inverse=True)[1].astype(np.intp)
    names = list(labelled.genes)
    genes = top_genes(mean_by_group(counts, slide, int(slide.max()) + 1), names, n=N_GENES)
    y = np.log1p(counts[:, [names.index(gene) for gene in genes]].toarray().astype(np.float64))
    for protocol in protocols:
        folds, start = expression_folds(nuclei, protocol, seed=seed), time.perf_counter()
        result = ridge_probe(z, y, folds, rng=np.random.default_rng(seed), n_null=N_NULL, n_pcs=n_pcs_of(encoder))
        seconds, trained = time.perf_counter() - start, n_train(folds)
        for f, fold in enumerate(folds.names):
            size = {"n": folds.sizes[f], "n_train": trained[f], "seconds": seconds}
            yield rows.row(protocol, fold, "pcc", result.fold_score[f], **size)
            yield rows.row(protocol, fold, "null_pcc", float(nanmean(result.null[:, f].ravel(), axis=0)), **size)
            yield rows.row(protocol, fold, "n_undefined", np.isnan(result.pcc[f]).sum(), **size)
        pooled = float(nanmean(result.pooled, axis=0))
        yield rows.row(protocol, POOLED, "pcc_pooled", pooled, n=len(z), seconds=seconds)
        yield from _leaks(rows, labelled, nuclei, _of_items(nuclei, z), folds, protocol, window_px=task.window_px)
    yield from _knows_slide(rows, nuclei, z, seed=seed)


def _of_items(nuclei: pd.DataFrame, z: NDArray[np.float32]) -> Features:
    from lemon_sc.bench.features import Features

    return Features(rows=nuclei.index.to_numpy(np.intp), z=z)


def morans_i(task: Task, labelled: Labelled, made: Features, encoder: str, *, seed: int) -> Iterator[Row]:
    """Moran's I of the task's markers, as far as the panel has them, on the graph of the embedding.

    Parameters
    ----------
    task, labelled, made, encoder, seed
        As for `classification`; ``task.options["markers"]`` names the genes.

    Yields
    ------
    Rows: ``I`` and ``pval_sim`` by gene.

    Raises
    ------
    ValueError
        If none of the markers is in the panel.
    """
    items, z, nuclei = by_item(labelled, made)
    markers = [gene for gene in task.options["markers"] if gene in labelled.genes]
    if not markers:
        msg = f"None of the markers {list(task.options['markers'])} is in the panel of {task.name!r}."
        raise ValueError(msg)
    counts = sparse.csr_matrix(labelled.expression)[items].astype(np.float64)
    total = np.asarray(counts.sum(axis=1)).ravel()
    x = sparse.diags(1e4 / np.maximum(total, 1.0)) @ counts
    adata = ad.AnnData(
        sparse.csr_matrix(x.log1p()),
        obs=pd.DataFrame(index=[str(i) for i in items]),
        var=pd.DataFrame(index=list(labelled.genes)),
        obsm={keys.X_LEMON: z},
    )
    start = time.perf_counter()
    tl.morans_i(adata, use_rep=keys.X_LEMON, genes=markers, n_perms=N_PERMS, rng=seed)
    seconds, rows = time.perf_counter() - start, Rows(task=task, encoder=encoder, dim=z.shape[1])
    table = adata.uns[keys.MORAN]
    for gene in markers:
        for metric in ("I", "pval_sim"):
            yield rows.row("graph", gene, metric, table.loc[gene, metric], n=len(nuclei), seconds=seconds)
