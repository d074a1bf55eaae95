"""`lm.tl.stain_robustness`: how much of an embedding is the nucleus, and how much the laboratory's stain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import logger
from lemon_sc._core.record import read_record, record_id, write_record
from lemon_sc._core.rng import RNG, spawn
from lemon_sc._core.table import as_table, check_key
from lemon_sc._objects.nuclei import crop_batches, nuclei_of
from lemon_sc._objects.stain import reference_of, restained, slide_stain, values_of
from lemon_sc.analysis.stability import Original
from lemon_sc.crops.stain_references import REFERENCES
from lemon_sc.embed.run import embed_batches
from lemon_sc.models.encoder import fit_crops
from lemon_sc.models.registry import as_encoder
from lemon_sc.tl._embed_table import per_cell
from lemon_sc.tl._expression import embedded_rows
from lemon_sc.tl._probe_cells import class_column
from lemon_sc.tl._probe_shift import ShiftedProbe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from lemon_sc._objects.nuclei import Nuclei
    from lemon_sc._objects.stain import Estimate
    from lemon_sc.models.encoder import Encoder

OWN = "own"
"""Row of the slide's own stains: what the model of two stains loses by itself."""

MOST_NEIGHBOURS, NEIGHBOUR_SHARE = 100, 10
"""Neighbours compared, and at most this fraction of the cells."""

MIN_CELLS = 20
_SAME = ("weights_sha256", "revision", "pooling", "input_px", "mpp")


@doc
def stain_robustness(
    data: AnnData | SpatialData,
    *,
    use_rep: str = keys.X_LEMON,
    model: Any = None,
    references: Sequence[str] | Mapping[str, AnnData | SpatialData] | None = None,
    target: str | Sequence[str] | None = None,
    n_cells: int = 2000,
    rng: RNG = 0,
    key_added: str = keys.STAIN_ROBUSTNESS,
    table_key: str = "table",
) -> None:
    """Show the user's own nuclei in other slides' stains, embed them again, and measure how far they moved.

    The stains of the slide are estimated once (Macenko), on 2,000 of its crops; of fewer than 1,000 nuclei, on patches
    of its tissue, where `data` has the image. Crops are then shown in the stains of each reference; nothing else of
    them changes. Embeddings are standardised by the originals. A row of the slide's own stains says how much is lost
    by taking a crop for two stains at all.

    Parameters
    ----------
    %(data)s
        The SpatialData is needed where crops were not kept.
    %(use_rep)s
    model
        ``None`` loads the one that the record of the embedding names; a model without a name, or one that was loaded
        with options, must be given as it was to `lm.tl.embed`.
    references
        Names of reference slides: ``"tnbc"``, ``"nuinsseg"``, ``"brecahad"``, ``"midog21"``, ``"tcga"``, ``"xenium"``
        (typical slides of these sets), ``"published"``. ``None`` takes the first six. A dict of names and slides of
        your own, with extracted nuclei, takes theirs.
    target
        Genes or a column of classes, as in `lm.tl.probe`: how well are they predicted from nuclei in another stain by
        a probe that has learned from the originals? Folds are blocks of the slide. ``None`` asks for no probe.
    n_cells
        Cells at most, drawn at random.
    %(rng)s
    %(key_added)s
    %(table_key)s

    Returns
    -------
    Nothing. Adds to the table ``.uns["lemon_sc"]["stain_robustness"][key_added]``:

    ``references``
        DataFrame indexed by reference, the last row ``"own"``: ``rmse`` (in standard deviations of the originals; 0
        is no change), ``cosine`` (mean of each cell with itself; 1 is no change), ``knn_overlap`` (share of the nearest
        neighbours that stay; 1 is no change), and with a target ``score`` (mean Pearson correlation or balanced
        accuracy on held-out cells in that stain).
    ``rmse``, ``cosine``, ``knn_overlap``, ``score``
        Means over the references, the own one left out. ``score_original``: of held-out cells as they are.
    ``chance``, ``k``, ``n_cells``
        The overlap that chance gives, the neighbours (100, or a tenth of the cells), the cells.
    the rest
        The slide's own stains, what they were estimated on, and the choices.

    Raises
    ------
    MissingKeyError
        If nothing has been embedded under `use_rep`.
    ValueError
        If the model is not the one that was used, no stain can be estimated, or there are too few cells.

    References
    ----------
    M. Macenko et al., ISBI 2009.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.extract_nuclei(sdata)
    >>> lm.tl.embed(sdata, model="morphometry")
    >>> lm.tl.stain_robustness(sdata, references=["tnbc", "tcga"])
    >>> made = sdata["table"].uns["lemon_sc"]["stain_robustness"]["stain_robustness"]
    >>> list(made["references"].index)
    ['tnbc', 'tcga', 'own']
    """
    check_key(key_added)
    adata = as_table(data, table_key=table_key)
    record = read_record(adata, keys.EMBED, key=use_rep, fix="Run `lm.tl.embed` first.")
    targets = _references(references, table_key)
    encoder = _encoder(model, record)
    draw_rng, probe_rng = spawn(rng, 2)
    rep, embedded = embedded_rows(adata, use_rep)
    rows = _draw(np.flatnonzero(embedded), n_cells, draw_rng)
    shift = None
    if target is not None:
        label = class_column(adata, target)
        shift = ShiftedProbe.of(adata[rows], target, label=label, use_rep=use_rep, rng=probe_rng)
    own = slide_stain(data, method="macenko", table_key=table_key)
    nuclei, crops = _crops(data, adata, rows, encoder, record)
    k = min(MOST_NEIGHBOURS, len(rows) // NEIGHBOUR_SHARE)
    original = Original.of(np.asarray(rep[rows], dtype=np.float32), k=k)
    scores = []
    for reference in [*targets.values(), own.estimate]:
        z = _embedded(restained(crops, own.estimate, reference), nuclei, encoder, record, n_obs=adata.n_obs)[rows]
        made = original.against(z)
        row = {"rmse": made.rmse, "cosine": made.cosine, "knn_overlap": made.knn_overlap}
        scores.append(row | ({} if shift is None else {"score": shift.score(z)}))
    table = pd.DataFrame(scores, index=pd.Index([*targets, OWN], dtype=object))
    result: dict[str, Any] = {
        "references": table,
        **{name: float(table.drop(index=OWN)[name].mean()) for name in table},
        "chance": k / (len(rows) - 1),
        "k": k,
        "n_cells": len(rows),
        "use_rep": use_rep,
        "model": encoder.card.name,
        "fitted_on": own.fitted_on,
        "n_crops_fitted": own.n_crops,
        **{f"stain_{name}": value for name, value in values_of(own.estimate).items()},
        "rng": "generator" if isinstance(rng, np.random.Generator) else int(rng),
    }
    if shift is not None:
        result |= {"score_original": shift.score(None), **shift.settings}
    write_record(adata, keys.STAIN_ROBUSTNESS, result, key=key_added, made_from=record_id(adata, keys.EMBED, use_rep))
    _report(result)


def _references(references: object, table_key: str) -> dict[str, Estimate]:
    """Stains to show crops in, by name."""
    find = {"method": "macenko", "table_key": table_key}
    if references is None:
        return dict(REFERENCES)
    if isinstance(references, str) or not isinstance(references, Iterable) or not list(references):
        raise bad_value("references", must="be a list of names, or a dict of slides", got=references)
    slides = references if isinstance(references, Mapping) else {name: name for name in references}
    if OWN in slides:
        raise bad_value("references", must=f"not hold the name {OWN!r}, which the slide itself has", got=list(slides))
    return {str(name): reference_of(slide, **find)[1] for name, slide in slides.items()}


def _encoder(model: Any, record: dict[str, Any]) -> Encoder:
    """The encoder that made the embedding."""
    name = record["model"]
    try:
        encoder = as_encoder(name if model is None else model)
    except (ValueError, OSError) as error:
        if model is not None:
            raise
        msg = f"The model {name!r} of the embedding cannot be loaded by its name ({error}) Pass it as `model=`."
        raise ValueError(msg) from error
    card = encoder.card
    has = {"model": card.name, "weights_sha256": card.sha256} | {n: getattr(card, n) for n in _SAME[1:]}
    other = [f"{n} {record[n]!r}, not {value!r}" for n, value in has.items() if record[n] != value]
    if other:
        msg = f"`model` is not the one that made the embedding ({'; '.join(other)}). Pass that one, or embed again."
        raise ValueError(msg)
    return encoder


def _draw(rows: NDArray[np.int64], n_cells: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if isinstance(n_cells, bool) or not isinstance(n_cells, int | np.integer) or n_cells < MIN_CELLS:
        raise bad_value("n_cells", must=f"be an int >= {MIN_CELLS}", got=n_cells)
    if len(rows) < MIN_CELLS:
        msg = f"Robustness needs at least {MIN_CELLS} cells with an embedding, found {len(rows)}."
        raise ValueError(msg)
    return rows if len(rows) <= n_cells else np.sort(rng.choice(rows, int(n_cells), replace=False))


def _crops(
    data: AnnData | SpatialData, adata: AnnData, rows: NDArray[np.int64], encoder: Encoder, record: dict[str, Any]
) -> tuple[Nuclei, NDArray[np.uint8]]:
    """All nuclei of the cells `rows`, and their crops as the encoder saw them."""
    nuclei = nuclei_of(adata)
    nuclei = nuclei.take(np.isin(nuclei.row, rows))
    card = encoder.card
    nuclei, batches, _ = crop_batches(
        data, adata, nuclei, size_px=card.input_px, target_mpp=card.mpp, mask=record["mask"]
    )
    crops = np.empty((len(nuclei), card.input_px, card.input_px, 3), dtype=np.uint8)
    for at, pixels in batches:
        crops[at] = fit_crops(pixels, card.input_px)
    return nuclei, crops


def _embedded(
    crops: NDArray[np.uint8], nuclei: Nuclei, encoder: Encoder, record: dict[str, Any], *, n_obs: int
) -> NDArray[np.float32]:
    """One vector per cell of the table, NaN for cells that were not drawn."""
    every_row = [(np.arange(len(crops)), crops)]
    return per_cell(
        embed_batches(every_row, encoder, n=len(crops), dtype=record["dtype"], progress=False), nuclei, n_obs=n_obs
    )


def _report(made: dict[str, Any]) -> None:
    logger.info(
        "stain_robustness: RMSE %.3f, cosine %.3f, %.3f of %d neighbours stay (chance %.3f), over %d references and %d "
        "cells",
        made["rmse"],
        made["cosine"],
        made["knn_overlap"],
        made["k"],
        made["chance"],
        len(made["references"]) - 1,
        made["n_cells"],
    )
    if "score" in made:
        logger.info("stain_robustness: score %.3f, %.3f without a shift", made["score"], made["score_original"])
