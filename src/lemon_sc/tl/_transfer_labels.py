"""`lm.tl.transfer_labels`: types of nuclei, from labelled ones in the same embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, listing, one_of
from lemon_sc._core.log import logger
from lemon_sc._core.record import record_id, write_record
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc._core.table import as_table, check_free, check_key
from lemon_sc.analysis.label_transfer import STANDARDIZE, fit_labels, predict_labels
from lemon_sc.analysis.splits import leave_one_group_out, stratified
from lemon_sc.tl._expression import embedded_rows
from lemon_sc.tl._label_references import check_same_encoder, encoder_of, of_table, shipped, table_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from lemon_sc.analysis.label_transfer import LabelModel
    from lemon_sc.tl._label_references import LabelReference

DECIDES = ("use_rep", "reference_sha256", "standardize", "c")
ENOUGH = 100
"""Cells whose own mean and sd stand for a slide."""


@doc
def transfer_labels(
    adata: AnnData | SpatialData,
    *,
    reference: str | AnnData | SpatialData = "nucls",
    groupby: str = "type",
    slides: str | None = None,
    table_key: str = "table",
    use_rep: str = keys.X_LEMON,
    standardize: str | None = None,
    rng: RNG = 0,
    key_added: str = keys.NUCLEUS_TYPE,
) -> None:
    """Give nuclei the types of labelled ones in the same embedding.

    A multinomial logistic regression learns the labels of the reference from its embedding. Each type counts alike,
    whatever its number of nuclei: how often one is there says nothing of another slide. The L2 penalty (C, 10^-4 to 10)
    is the one with the least cross-entropy on nuclei of the reference that are held out, mean over types; the scores of
    these are recorded, and are what to expect of a slide like those of the reference. Of a slide from another scanner
    or laboratory, expect less.

    Every nucleus is given one of the types of the reference, whatever it is. The probability is that among nuclei that
    are of all types equally often.

    Parameters
    ----------
    adata
        Annotated table, one row per cell, or a SpatialData that holds it.
    reference
        Labelled nuclei: a table with the same embedding, made by the same encoder with the same weights; or the name of
        a reference that ships with the package. ``"nucls"``: 370 nuclei of 15 tiles of breast carcinomas (TCGA)
        with the super-classes of NuCLS (Amgad et al. 2022, CC0): ``tumor_any``, ``sTIL`` (lymphocytes and plasma
        cells), ``nonTIL_stromal``.
    groupby
        Column of ``reference.obs`` with the labels. Cells without one, or with an empty one, are left out. A slash in
        a label becomes ``_``, because no file can hold a column with one.
    slides
        Column of ``reference.obs`` with the slide or patient. Each is held out once to choose the penalty; without it,
        five random folds are, and nuclei of one slide on both sides make the recorded scores too good.
    table_key
        The table in ``sdata.tables``, and that of a `reference` that is a SpatialData.
    %(use_rep)s
    standardize
        ``"reference"``: features are standardised with mean and standard deviation of the reference. ``"query"``: those
        of the table with its own, which takes off what another stain or scanner adds. But a table that holds one type
        alone would then be given all of them: only for many nuclei of mixed tissue. ``None``: ``"query"`` for a
        reference that ships, which is of other laboratories, and ``"reference"`` for a table.
    %(rng)s
    %(key_added)s

    Returns
    -------
    Nothing. Adds to the table:

    ``.obs[key_added]``
        The most probable type, categorical, categories sorted; missing for cells without an embedding.
    ``.obs[key_added + "_probability"]``
        Its probability, float32; NaN likewise.
    ``.obsm[key_added]``
        DataFrame, float32, (n_obs, types): probability of each type.
    ``.uns["lemon_sc"]["transfer_labels"][key_added]``
        The settings, the encoder, size and digest of the reference, the penalty `c`, the held-out scores within the
        reference, ``held_out_balanced_accuracy`` and ``held_out_auc``, and ``types``: how many cells were given each
        type (``n``), and how many of the reference were held out for these scores (``n_held_out``). They are means over
        the types that could be held out; a type on one slide alone cannot, and a warning names it.

    An earlier result under this name is replaced, unless types were changed by hand since, and so is a ``nucleus_type``
    of `lm.pp.segment_nuclei` that tells no types apart.

    Raises
    ------
    MissingKeyError
        If the table, the embedding or a column is not there.
    ValueError
        If there is no such reference, it was embedded by another encoder, has fewer than two types, labels that files
        cannot hold or tell apart, a slide for each type alone, or another width; if no cell has an embedding; or if
        `key_added` or ``key_added + "_probability"`` holds something else.

    References
    ----------
    M. Amgad et al., NuCLS, GigaScience 2022.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.extract_nuclei(sdata)
    >>> lm.tl.embed(sdata, model="morphometry")
    >>> known, adata = sdata["table"][:100], sdata["table"][100:].copy()
    >>> lm.tl.transfer_labels(adata, reference=known, groupby="truth_type")
    >>> typed = adata[adata.obs["nucleus_type"].notna()].obs
    >>> bool((typed["nucleus_type"].astype(str) == typed["truth_type"].astype(str)).mean() > 0.5)
    True
    """
    adata = as_table(adata, table_key=table_key)
    if standardize is not None:
        one_of("standardize", standardize, STANDARDIZE)
    _check_place(adata, check_key(key_added), use_rep)
    rep, rows = embedded_rows(adata, use_rep)
    known = _resolve(adata, reference, groupby=groupby, slides=slides, table_key=table_key, use_rep=use_rep)
    how = standardize or ("reference" if known.name == "table" else "query")
    if known.x.shape[1] != rep.shape[1]:
        must = f"have {rep.shape[1]} columns in obsm[{use_rep!r}], as the table has"
        raise bad_value("reference", must=must, got=known.x.shape)
    folds = (
        stratified(known.labels, rng=as_generator(rng)) if known.slides is None else leave_one_group_out(known.slides)
    )
    model = fit_labels(known.x, known.labels, folds)
    if model.held_out.n_missing:
        alone = listing(name for name, n in zip(model.classes, model.held_out.n, strict=True) if n == 0)
        why = "has one cell" if known.slides is None else "is on one slide alone"
        logger.warning("the held-out scores say nothing of %s, which cells are given: each %s", alone, why)
    if how == "query" and rows.sum() < ENOUGH:
        logger.warning("standardised with mean and sd of %d cells: too few to stand for a slide", int(rows.sum()))
    made = np.full((adata.n_obs, len(model.classes)), np.nan, dtype=np.float32)
    made[rows] = predict_labels(model, rep if rows.all() else rep[rows], standardize=how)
    names = pd.Index(model.classes, dtype=object)
    code = np.full(adata.n_obs, -1)
    code[rows] = made[rows].argmax(axis=1)
    adata.obsm[key_added] = pd.DataFrame(made, index=adata.obs_names, columns=names)
    adata.obs[key_added] = pd.Categorical.from_codes(code, categories=names)
    adata.obs[key_added + keys.PROBABILITY] = made.max(axis=1)
    record = {
        "use_rep": use_rep,
        "standardize": how,
        **_record_of(known, model),
        "groupby": groupby if known.name == "table" else "",
        "slides": slides or "",
        "types": pd.DataFrame(
            {"n": np.bincount(code[rows], minlength=len(names)), "n_held_out": model.held_out.n}, index=names
        ),
        "n_cells": int(rows.sum()),
        "n_no_embedding": int((~rows).sum()),
    }
    made_from = record_id(adata, keys.EMBED, use_rep)
    write_record(adata, keys.TRANSFER, record, key=key_added, decides=DECIDES, made_from=made_from)
    logger.info(
        "%s: %d cells typed (%s), %d without embedding; held out in the reference: balanced accuracy %.2f, AUC %.2f",
        key_added,
        record["n_cells"],
        ", ".join(f"{name} {n}" for name, n in record["types"]["n"].items()),
        record["n_no_embedding"],
        record["held_out_balanced_accuracy"],
        record["held_out_auc"],
    )


def _check_place(adata: AnnData, key_added: str, use_rep: str) -> None:
    """Raise if the result would take the place of something that is not an earlier one."""
    if key_added == use_rep:
        raise bad_value("key_added", must="not be the key of the embedding", got=key_added)
    check_free(adata, key_added, verb=keys.TRANSFER)
    made = adata.uns.get(keys.UNS, {})
    taken = [f"adata.obs[{name!r}]" for name in (key_added, key_added + keys.PROBABILITY) if name in adata.obs]
    if key_added in adata.obsm:
        taken.append(f"adata.obsm[{key_added!r}]")
    types = f"adata.obs[{key_added!r}]"
    if key_added in made.get(keys.TRANSFER, {}):
        taken = [types] if _is_changed(adata, key_added) else []
    elif (
        types in taken
        and key_added == keys.NUCLEUS_TYPE
        and keys.SEGMENT in made
        and adata.obs[key_added].nunique() == 1
    ):
        taken.remove(types)  # a segmenter that knows no types calls all nuclei the same
    if taken:
        fix = "Give the new labels another name, or delete what is there."
        raise bad_value(
            "key_added", must=f"not name what is there already ({', '.join(taken)})", got=key_added, fix=fix
        )


def _is_changed(adata: AnnData, key: str) -> bool:
    """Whether a column of types is not that of the most probable ones, as where it was corrected by hand."""
    of_each = adata.obsm.get(key)
    if key not in adata.obs or not isinstance(of_each, pd.DataFrame):
        return key in adata.obs
    probability, types = of_each.to_numpy(dtype=np.float32), adata.obs[key].astype(object)
    has = np.isfinite(probability).all(axis=1)
    most = of_each.columns.to_numpy(dtype=object)[probability[has].argmax(axis=1)]
    return bool((types.notna() != has).any() or (types[has] != most).any())


def _resolve(
    adata: AnnData, reference: Any, *, groupby: str, slides: str | None, table_key: str, use_rep: str
) -> LabelReference:
    """The reference, of the same encoder as the table."""
    words = encoder_of(adata, use_rep)
    if isinstance(reference, str):
        if slides is not None:
            raise bad_value("slides", must="be None for a reference that ships, which knows its own", got=slides)
        known = shipped(reference, words, use_rep=use_rep)
    else:
        known = of_table(table_of(reference, table_key=table_key), use_rep=use_rep, groupby=groupby, slides=slides)
    if check_same_encoder(known, words, use_rep=use_rep):
        logger.warning("the stain of reference and table was treated differently: %r and %r", known.encoder, words)
    return known


def _record_of(known: LabelReference, model: LabelModel) -> dict[str, Any]:
    """What the record says of the reference and of what was learned from it."""
    return {
        "reference": known.name,
        "reference_sha256": known.sha256,
        "encoder": known.encoder,
        "n_reference": len(known.labels),
        "n_reference_left_out": known.n_left_out,
        "facts": known.facts,
        "classes": np.array(model.classes, dtype=object),
        "c": model.c,
        "held_out_balanced_accuracy": model.held_out.balanced_accuracy,
        "held_out_auc": model.held_out.auc,
    }
