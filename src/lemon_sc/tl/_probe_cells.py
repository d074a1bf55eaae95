"""Which cells a probe takes, how it splits them, and what could leak across the split."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.log import logger
from lemon_sc.analysis.duplicates import SIDE, duplicate_crops
from lemon_sc.analysis.leakage import group_identity, overlapping_windows, shared_rows
from lemon_sc.analysis.splits import Folds, leave_one_group_out, spatial_blocks, stratified
from lemon_sc.tl._expression import embedded_rows

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from lemon_sc.analysis.protocol import ProbeProtocol

SPATIAL = "spatial"
WINDOW_UM = 10.0
"""Side of a crop where the table does not say: 40 px of 0.25 um."""
MOST_COMPARED = 20_000
"""Crops that are searched for duplicates; the time grows with their square."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """The cells of a probe."""

    rows: NDArray[np.bool_]
    """(n_obs,) which cells of the table."""
    x: NDArray[np.floating]
    """(N, D) their embedding."""
    labels: NDArray[np.str_] | None
    """(N,) their class, if classes are the target."""
    folds: Folds
    groups: NDArray[np.str_] | None
    """(N,) their group, if a column was given."""
    counts: dict[str, int]
    """Cells taken, and left out for each reason."""


def class_column(adata: AnnData, target: object) -> str | None:
    """The column of ``adata.obs`` that `target` names; ``None`` if it names genes.

    Parameters
    ----------
    adata
        The table.
    target
        As `lm.tl.probe` takes it.

    Returns
    -------
    Name of the column, or None.
    """
    if not isinstance(target, str) and not _is_list_of_names(target):
        raise bad_value(
            "target", must='be "genes", a gene, a list of genes, or a column of `adata.obs` with classes', got=target
        )
    if not isinstance(target, str) or target == "genes" or (target in adata.var_names and target not in adata.obs):
        return None
    if target not in adata.obs:
        have = [*adata.var_names, *adata.obs.columns]
        raise missing_key(target, where="adata.var_names or adata.obs", have=have)
    if target in adata.var_names:
        msg = f"`target` {target!r} is a gene and a column of `adata.obs`. Write [{target!r}] for the gene."
        raise ValueError(msg)
    dtype = adata.obs[target].dtype
    if dtype.kind in "iufc":
        raise bad_value(
            "target",
            must="be a column of classes (categorical, text or bool)",
            got=f"{target} ({dtype})",
            fix="If its numbers stand for classes: `adata.obs[target] = adata.obs[target].astype('category')`.",
        )
    return target


def _is_list_of_names(target: object) -> bool:
    """Whether these are texts in an order, which those of a set have not."""
    return (
        isinstance(target, Iterable)
        and not isinstance(target, Set | Mapping)
        and all(isinstance(name, str) for name in target)
    )


def take_cells(
    adata: AnnData,
    *,
    use_rep: str,
    groups: str | None,
    label: str | None,
    protocol: ProbeProtocol,
    rng: np.random.Generator,
) -> Cells:
    """Cells that have an embedding, a place in the split and, for classes, a class.

    Parameters
    ----------
    adata
        The table.
    use_rep
        Name of the embedding in ``obsm``.
    groups
        Column of the slides or patients, or None.
    label
        Column of the classes, or None.
    protocol
        How cells are split.
    rng
        Draws the split.

    Returns
    -------
    The cells, their embedding and their folds.
    """
    kind = fold_kind(protocol, groups=groups, label=label)
    rep, embedded = embedded_rows(adata, use_rep)
    has_label = np.ones(adata.n_obs, dtype=bool) if label is None else adata.obs[label].notna().to_numpy()
    placed = _placed(adata, kind, groups, protocol.patient_key)
    rows = embedded & placed & has_label
    if not rows.any():
        msg = (
            f"No cell has all that the probe needs: of {adata.n_obs} cells {int(embedded.sum())} have an embedding, "
            f"{int(placed.sum())} a group or coordinates, {int(has_label.sum())} a class."
        )
        raise ValueError(msg)
    labels = None if label is None else _text(adata.obs[label], rows)
    of_group = None if groups is None else _text(adata.obs[groups], rows)
    folds = _folds(adata, kind, rows, labels=labels, of_group=of_group, protocol=protocol, rng=rng)
    kept = folds.codes >= 0
    if not kept.all():
        rows = rows.copy()
        rows[rows] = kept
        labels, folds = None if labels is None else labels[kept], replace(folds, codes=folds.codes[kept])
    return Cells(
        rows=rows,
        x=rep if rows.all() else rep[rows],
        labels=labels,
        folds=folds,
        groups=of_group,
        counts={
            "n_cells": int(rows.sum()),
            "n_in_buffer": int((~kept).sum()),
            "n_no_embedding": int((~embedded).sum()),
            "n_no_group": int((embedded & ~placed).sum()),
            "n_no_label": int((embedded & placed & ~has_label).sum()),
        },
    )


def fold_kind(protocol: ProbeProtocol, *, groups: str | None, label: str | None) -> str:
    """The kind of folds, with ``"auto"`` decided; an error for what does not go together."""
    kind = protocol.folds
    if kind == "auto":
        kind = "blocks" if groups is None else "groups"
    if kind == "groups" and groups is None:
        raise bad_value("groups", must="name a column of adata.obs for folds by group", got=groups)
    if kind == "blocks" and groups is not None:
        raise bad_value(
            "groups", must="be None for blocks, which divide one slide", got=groups, fix="Probe one slide at a time."
        )
    if protocol.buffer and kind != "blocks":
        raise bad_value("buffer", must="be 0 unless folds are blocks of one slide (`groups=None`)", got=protocol.buffer)
    if kind == "stratified" and label is None:
        raise bad_value("folds", must='be "groups" or "blocks" for genes', got=kind)
    if protocol.patient_key is not None and kind != "groups":
        raise bad_value(
            "patient_key", must="stand beside `groups=`, the column with the slide", got=protocol.patient_key
        )
    genes_only = protocol.train_only or protocol.alpha != "inner"
    if label is not None and genes_only:
        raise bad_value("protocol", must="not set `alpha` or `train_only` for classes", got=protocol, fix="Set `c`.")
    if label is None and protocol.pos_label is not None:
        raise bad_value("pos_label", must="be None for genes", got=protocol.pos_label)
    return kind


def _text(column: pd.Series, rows: NDArray[np.bool_]) -> NDArray[np.str_]:
    return np.array([str(v) for v in column.to_numpy()[rows]], dtype=str)


def _placed(adata: AnnData, kind: str, groups: str | None, patient_key: str | None) -> NDArray[np.bool_]:
    """Which cells have a group, and coordinates where blocks are wanted."""
    placed = np.ones(adata.n_obs, dtype=bool)
    for name, column in (("groups", groups), ("patient_key", patient_key)):
        if column is not None:
            if not isinstance(column, str):
                raise bad_value(name, must="be the name of a column of `adata.obs`", got=column)
            if column not in adata.obs:
                raise missing_key(column, where="adata.obs", have=adata.obs.columns)
            placed &= adata.obs[column].notna().to_numpy()
    if kind != "blocks":
        return placed
    if SPATIAL not in adata.obsm:
        raise missing_key(
            SPATIAL,
            where="adata.obsm",
            have=adata.obsm,
            fix="Pass `groups=` (a column of adata.obs with the slide), or store the cells' coordinates there.",
        )
    xy = np.asarray(adata.obsm[SPATIAL], dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2:
        msg = f"`adata.obsm['spatial']` must hold x and y in two columns, got shape {xy.shape}."
        raise ValueError(msg)
    return np.asarray(np.isfinite(xy[:, :2]).all(axis=1))


def _folds(
    adata: AnnData,
    kind: str,
    rows: NDArray[np.bool_],
    *,
    labels: NDArray[np.str_] | None,
    of_group: NDArray[np.str_] | None,
    protocol: ProbeProtocol,
    rng: np.random.Generator,
) -> Folds:
    if kind == "groups" and of_group is not None:
        patient = protocol.patient_key
        return leave_one_group_out(of_group, None if patient is None else _text(adata.obs[patient], rows))
    if kind == "stratified" and labels is not None:
        return stratified(labels, rng=rng)
    return spatial_blocks(np.asarray(adata.obsm[SPATIAL])[rows, :2], rng=rng, buffer=float(protocol.buffer))


def leakage(adata: AnnData, cells: Cells, *, rng: np.random.Generator) -> dict[str, Any]:
    """What the record says of leaks: shared rows, overlapping crops, and whether the embedding knows the group.

    Parameters
    ----------
    adata
        The table.
    cells
        What was split.
    rng
        Draws cells to tell groups by.

    Returns
    -------
    Entries of the record.
    """
    folds = cells.folds
    apart = folds.apart[folds.codes]
    made: dict[str, Any] = {"n_shared_rows": int(shared_rows(cells.x, apart).sum())} | _overlap(adata, cells, apart)
    made |= {"group_identity": float("nan"), "group_identity_chance": float("nan")}
    if cells.groups is not None:
        _, code = np.unique(cells.groups, return_inverse=True)
        identity = group_identity(cells.x, code.reshape(-1), rng=rng)
        made |= {"group_identity": identity.balanced_accuracy, "group_identity_chance": identity.chance}
    made |= _duplicates(adata, cells, apart, rng=rng)
    if made["n_duplicates"] > 0 or made["n_near_duplicates"] > 0:
        logger.warning(
            "probe: of %d crops %d are, pixel for pixel, that of a cell in another fold; %d look the same",
            made["n_crops_compared"],
            made["n_duplicates"],
            made["n_near_duplicates"],
        )
    if made["n_shared_rows"]:
        logger.warning(
            "probe: %d cells share their embedding, bit for bit, with a held-out cell", made["n_shared_rows"]
        )
    if made["n_overlapping"] > 0:
        at_seams = folds.kind == "spatial_blocks"  # of one slide; along their borders there is no other way
        logger.log(
            logging.INFO if at_seams else logging.WARNING,
            "probe: the crops of %d of %d cells overlap with the crop of a cell in another fold (%s)",
            made["n_overlapping"],
            len(apart),
            made["overlap_from"],
        )
    return made


def _duplicates(adata: AnnData, cells: Cells, apart: NDArray[np.intp], *, rng: np.random.Generator) -> dict[str, Any]:
    """Cells whose crop is, or looks like, that of a cell in another fold; NaN where crops are not in memory."""
    crops = adata.obsm.get(keys.NUCLEI)
    if crops is None or min(crops.shape[1:3]) < SIDE:
        return {"n_duplicates": float("nan"), "n_near_duplicates": float("nan"), "n_crops_compared": 0}
    at = np.flatnonzero(cells.rows)
    some = np.sort(rng.choice(len(at), MOST_COMPARED, replace=False)) if len(at) > MOST_COMPARED else np.arange(len(at))
    found = duplicate_crops(np.asarray(crops[at[some]]), apart[some])
    return {
        "n_duplicates": float(found.exact.sum()),
        "n_near_duplicates": float(found.near.sum()),
        "n_crops_compared": len(some),
    }


def _overlap(adata: AnnData, cells: Cells, apart: NDArray[np.intp]) -> dict[str, Any]:
    """Cells whose crop overlaps with one in another fold, and how that was found; NaN without coordinates."""
    nuclei = adata.uns.get(keys.UNS, {}).get(keys.NUCLEI)
    several = keys.EXTRACTION in adata.obs and adata.obs[keys.EXTRACTION].nunique() > 1
    if several:  # each slide has px of its own
        nuclei = None
    if nuclei is not None and keys.NUCLEUS_XY in adata.obsm:
        source, side = keys.NUCLEUS_XY, nuclei["size_px"] * nuclei["target_mpp"] / np.asarray(nuclei["mpp"])
    elif SPATIAL in adata.obsm:
        source, side = SPATIAL, np.full(2, WINDOW_UM)
    else:
        return {"n_overlapping": float("nan"), "overlap_from": "no coordinates", "overlap_within": "none"}
    xy = np.asarray(adata.obsm[source], dtype=np.float64)[cells.rows, :2]
    slide, within = _slides(adata, cells, one_image=nuclei is not None, several=several)
    there = np.isfinite(xy).all(axis=1)
    hit = overlapping_windows(xy[there], slide[there], apart[there], side=side)
    return {"n_overlapping": float(hit.sum()), "overlap_from": source, "overlap_within": within}


def _slides(adata: AnnData, cells: Cells, *, one_image: bool, several: bool) -> tuple[NDArray[np.intp], str]:
    """(N,) the slide of each cell, as far as the table tells, and what told it."""
    if several:
        _, code = np.unique(_text(adata.obs[keys.EXTRACTION], cells.rows), return_inverse=True)
        return code.reshape(-1), f"adata.obs[{keys.EXTRACTION!r}]"
    region = adata.uns.get("spatialdata_attrs", {}).get("region_key")
    if region in adata.obs:
        _, code = np.unique(_text(adata.obs[region], cells.rows), return_inverse=True)
        return code.reshape(-1), f"adata.obs[{region!r}]"
    if one_image or cells.groups is None:
        return np.zeros(len(cells.x), dtype=np.intp), "all cells"
    _, code = np.unique(cells.groups, return_inverse=True)
    return code.reshape(-1), "groups"
