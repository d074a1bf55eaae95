"""`lm.tl.decompose`: cell-type composition of spots from frozen features of their image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, listing, missing_key, one_of
from lemon_sc._core.log import logger
from lemon_sc._core.record import record_id, write_record
from lemon_sc._core.rng import RNG, spawn
from lemon_sc._core.table import as_table, check_free, check_key, get_rep
from lemon_sc.analysis.decomposition import TARGETS, DecompositionProtocol
from lemon_sc.analysis.decomposition_folds import decompose_held_out
from lemon_sc.tl._compositions import find_compositions, usable_compositions
from lemon_sc.tl._decompose_tables import decomposition_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from lemon_sc.tl._compositions import Compositions

SPATIAL, IN_TISSUE = "spatial", "in_tissue"


@dataclass(frozen=True, eq=False, kw_only=True)
class Spots:
    """The spots that are predicted."""

    rows: NDArray[np.bool_]
    """(n_obs,) which rows of the table."""
    x: NDArray[np.float32]
    """(N, D) their features, side by side."""
    groups: NDArray[np.str_]
    slides: NDArray[np.str_]
    """(N,) names of the slides, made unique over groups."""
    sections: NDArray[np.str_]
    """(N,) the same as the table names them."""
    xy: NDArray[np.float64] | None
    counts: dict[str, int]
    """Spots taken, and left out for each reason."""


@doc
def decompose(
    adata: AnnData,
    *,
    groups: str,
    use_rep: str | Sequence[str] = keys.X_LEMON,
    truth: str | None = None,
    target: str = "abundance",
    slides: str | None = None,
    protocol: DecompositionProtocol | None = None,
    rng: RNG = 0,
    key_added: str = keys.DECOMPOSITION,
) -> None:
    """Predict how much of each cell type a spot (bin, tile) holds from frozen features of its image.

    A light network (seven layers, SiLU) learns the result of a deconvolution of the spots' expression: each patient is
    predicted by a network that has learned from the other patients alone. Features are standardised with the training
    spots. Training stops on a patient drawn from the training patients; with two patients in all, on one slide of the
    training patient, and where that has one slide, on blocks of it. Only cell types that every group has are predicted.

    A deconvolution is an estimate from expression, not a count of cells: a good score says that the image tells what
    the deconvolution tells.

    Parameters
    ----------
    %(spots)s
    groups
        Column of ``adata.obs`` with the patient. A column with the cohort predicts each cohort from the others; give
        the patient as `slides` then. A group without any composition is predicted, too.
    use_rep
        Features in ``adata.obsm``: one key or several, whose columns are put side by side (embeddings of the patch,
        nuclei pooled within the spot). Spots with NaN in one of them are left out and counted.
    truth
        Compositions in ``adata.obsm``, a DataFrame with a column per cell type, or an array. ``None`` takes the one
        that cell2location (``q05_cell_abundance_w_sf``), stereoscope or RCTD left there. Rows of NaN are predicted, but
        neither learned from nor scored; rows of zeros likewise, with a warning.
    target
        ``"abundance"``: as they are. ``"proportion"``: divided by the sum of the row, through a softmax.
    slides
        Column of ``adata.obs`` with the section, where patients have several. Scores are those within a slide.
    protocol
        A `DecompositionProtocol` with other layers, losses or lengths of training.
    %(rng)s
    %(key_added)s

    Returns
    -------
    Nothing. Adds to the table:

    ``.obsm[key_added]``
        DataFrame, float32, (n_obs, cell types): held-out predictions; NaN for spots that were left out.
    ``.uns["lemon_sc"]["decompose"][key_added]``
        ``summary``: DataFrame indexed by cell type: ``cc`` (Pearson correlation within a slide, mean over slides),
        ``cc_sd``, ``cc_pooled`` (over the spots of all slides: larger, as slides differ in their means), ``l1`` (mean
        absolute error), ``l1_mean`` (that of a guess without an image, the mean of the training spots),
        ``n_undefined``. ``scores``: the same by slide and type. ``slides``: DataFrame indexed by slide (where it
        has no composition, `n` is 0 and scores are NaN): ``group``, ``section``, ``n``, ``cc``, ``l1``, ``l1_mean``,
        ``n_undefined``, and how alike co-localisation is in prediction and truth, ``colocalization_cosine`` and
        ``colocalization_correlation``. ``groups``: DataFrame indexed by group:
        ``n_train``, ``epochs``, ``best_epoch``, ``stopped_on``. ``colocalization`` and ``colocalization_predicted``:
        cell types by cell types, bivariate Moran's R, mean over slides (with ``obsm["spatial"]``). ``intervals``:
        DataFrame indexed by score, with ``low`` and ``high`` (95 %, bootstrap over slides) and ``n_units``; NaN with
        one slide. ``cc``, ``cc_pooled``, ``l1``, ``l1_mean`` and the two of co-localisation: means. A correlation that
        is not defined, as a type is constant in a slide, is left out of means and counted in ``n_undefined``. The rest
        is the protocol.

    Raises
    ------
    MissingKeyError
        If features, compositions or a column are not there.
    ValueError
        If there are fewer than two groups, spots of a slide that lie on one another, fewer than two cell types that all
        groups have, proportions that do not sum to one, or no spot with both features and a composition, or `key_added`
        holds what `lm.tl.embed` or `lm.tl.pool_nuclei` made.

    References
    ----------
    S.-I. Lee, Journal of Geographical Systems 2001, for bivariate Moran's R.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import lemon_sc as lm
    >>> draw = np.random.default_rng(0)
    >>> z = draw.normal(size=(300, 8)).astype("float32")
    >>> adata = ad.AnnData(obs=pd.DataFrame({"patient": np.repeat(list("abc"), 100)}, index=map(str, range(300))))
    >>> adata.obsm["X_lemon"] = z
    >>> adata.obsm["proportions"] = pd.DataFrame(np.exp(z[:, :3]), index=adata.obs_names, columns=["T", "B", "tumour"])
    >>> lm.tl.decompose(adata, groups="patient", protocol=lm.tl.DecompositionProtocol(widths=(32,), lr=0.01))
    >>> adata.uns["lemon_sc"]["decompose"]["decomposition"]["cc"] > 0.5
    True
    """
    adata, plan = as_table(adata), DecompositionProtocol() if protocol is None else protocol
    if not isinstance(plan, DecompositionProtocol):
        raise bad_value("protocol", must="be a `lm.tl.DecompositionProtocol`", got=protocol)
    names = [use_rep] if isinstance(use_rep, str) else list(use_rep)
    one_of("target", target, TARGETS)
    key, table = find_compositions(adata, truth)
    _check_names(names, key, check_key(key_added))
    check_free(adata, key_added, verb=keys.DECOMPOSE)
    groups_column = _column(adata, "groups", groups)
    truths = usable_compositions(table, key=key, target=target, groups=groups_column)
    spots = _take_spots(
        adata, names, groups_column, groups_column if slides is None else _column(adata, "slides", slides)
    )
    y = _known(truths, spots)
    fit_rng, score_rng = spawn(rng, 2)
    made = decompose_held_out(
        spots.x, y, groups=spots.groups, slides=spots.slides, xy=spots.xy, target=target, protocol=plan, rng=fit_rng
    )
    record = decomposition_tables(made, y, spots, types=truths.types, rng=score_rng)
    whole = np.full((adata.n_obs, y.shape[1]), np.nan, dtype=np.float32)
    whole[spots.rows] = made.predictions
    adata.obsm[key_added] = pd.DataFrame(whole, index=adata.obs_names, columns=pd.Index(truths.types, dtype=object))
    record |= {
        "use_rep": np.array(names, dtype=object),
        "truth": key,
        "columns": truths.columns,
        "target": target,
        "groups_key": groups,
        "slides_key": slides or groups,
        "types_left_out": np.array(truths.left_out, dtype=object),
        "protocol": {n: np.array(v) if isinstance(v, tuple) else v for n, v in asdict(plan).items()},
        "rng": "generator" if isinstance(rng, np.random.Generator) else int(rng),
        **spots.counts,
        **truths.counts,
    }
    parents = [record_id(adata, keys.EMBED, name) for name in names]  # pooled features and own arrays have none
    write_record(adata, keys.DECOMPOSE, record, key=key_added, made_from=next(filter(None, parents), ""))
    _report(record)


def _check_names(names: list[str], truth: str, key_added: str) -> None:
    if not names or not all(isinstance(name, str) for name in names):
        raise bad_value("use_rep", must="be a key of adata.obsm or a list of them", got=names)
    if truth in names:
        raise bad_value("use_rep", must="not hold the composition that is to be predicted", got=names)
    if key_added in {*names, truth}:
        raise bad_value("key_added", must="not be the key of an input", got=key_added)


def _column(adata: AnnData, parameter: str, name: str) -> pd.Series:
    if not isinstance(name, str):
        raise bad_value(parameter, must="be the name of a column of `adata.obs`", got=name)
    if name not in adata.obs:
        raise missing_key(name, where="adata.obs", have=adata.obs.columns)
    return adata.obs[name]


def _take_spots(adata: AnnData, names: list[str], groups: pd.Series, slides: pd.Series) -> Spots:
    """Spots with all features, a group and tissue."""
    reps = {name: get_rep(adata, name) for name in names}
    whole = {name: np.isfinite(rep).all(axis=1) for name, rep in reps.items()}
    featured = np.logical_and.reduce(list(whole.values()))
    placed = (groups.notna() & slides.notna()).to_numpy()
    tissue = _in_tissue(adata)
    rows = featured & placed & tissue
    if not rows.any():
        each = ", ".join(f"{int(there.sum())} obsm[{name!r}]" for name, there in whole.items())
        msg = (
            f"No spot has all that is needed: of {adata.n_obs} rows {each}, {int(placed.sum())} a group, "
            f"{int(tissue.sum())} tissue."
        )
        raise ValueError(msg)
    of = groups[rows].astype(str).to_numpy(dtype=str)
    if len(np.unique(of)) < 2:
        raise bad_value(
            "groups",
            must="name at least two patients, one to predict and one to learn from",
            got=np.unique(of).tolist(),
            fix="With several sections of one patient, their column can stand in; scores then hold for that patient.",
        )
    section = slides[rows].astype(str).to_numpy(dtype=str)
    xy = None
    if SPATIAL in adata.obsm:
        xy = np.asarray(adata.obsm[SPATIAL], dtype=np.float64)[rows, :2]
        lost = np.asarray(~np.isfinite(xy).all(axis=1))
        if lost.any():
            logger.warning(
                "decompose: %d of %d spots have no coordinates in obsm[%r]: co-localisation is left out, and training "
                "cannot be stopped on blocks of a slide",
                int(lost.sum()),
                len(lost),
                SPATIAL,
            )
            xy = None
    named = _slide_names(of, section)
    if xy is not None:
        _check_places(xy, named)
    return Spots(
        rows=rows,
        x=np.concatenate([np.asarray(rep[rows], dtype=np.float32) for rep in reps.values()], axis=1),
        groups=of,
        slides=named,
        sections=section,
        xy=xy,
        counts={
            "n_spots": int(rows.sum()),
            "n_no_features": int((~featured).sum()),
            "n_no_group": int((featured & ~placed).sum()),
            "n_no_tissue": int((featured & placed & ~tissue).sum()),
        },
    )


def _check_places(xy: NDArray[np.float64], slides: NDArray[np.str_]) -> None:
    """Raise where spots of a slide lie on one another: they are of several sections, which would be mixed."""
    for name in np.unique(slides):
        _, place, times = np.unique(xy[slides == name], axis=0, return_inverse=True, return_counts=True)
        if len(times) > 2 and (times[place.ravel()] > 1).mean() >= 0.5:
            msg = (
                f"Most spots of {str(name)!r} share their place in `adata.obsm[{SPATIAL!r}]` with another: they seem "
                "to be of several sections. Pass the column with the section as `slides=`."
            )
            raise ValueError(msg)


def _in_tissue(adata: AnnData) -> NDArray[np.bool_]:
    """(n_obs,) spots that Space Ranger, or whoever wrote the column, found on tissue; all without the column."""
    if IN_TISSUE not in adata.obs:
        return np.ones(adata.n_obs, dtype=bool)
    try:
        return np.asarray(adata.obs[IN_TISSUE].astype(float).to_numpy() > 0)
    except (TypeError, ValueError):
        found = listing(adata.obs[IN_TISSUE].unique(), most=5)
        msg = f"`adata.obs[{IN_TISSUE!r}]` must hold 1 for spots on tissue and 0 for others, got {found}."
        raise ValueError(msg) from None


def _slide_names(groups: NDArray[np.str_], slides: NDArray[np.str_]) -> NDArray[np.str_]:
    """Slides of different groups keep apart, whatever they are called."""
    pairs = np.unique(np.stack([slides, groups], axis=1), axis=0)
    names, times = np.unique(pairs[:, 0], return_counts=True)
    shared = np.isin(slides, names[times > 1])
    if shared.any():
        apart = [f"{g}: {s}" if both else s for g, s, both in zip(groups, slides, shared, strict=True)]
        slides = np.array(apart, dtype=str)
    return slides


def _known(truths: Compositions, spots: Spots) -> NDArray[np.float64]:
    y = truths.values[spots.rows]
    known = np.isfinite(y).all(axis=1)
    if len(np.unique(spots.groups[known])) < 2:
        msg = (
            f"Learning and scoring need spots of at least two groups with features and a composition: "
            f"{int(known.sum())} of {len(y)} spots with features have one in `adata.obsm[{truths.key!r}]`, of groups "
            f"{listing(np.unique(spots.groups[known]))}."
        )
        raise ValueError(msg)
    return y


def _report(record: dict[str, Any]) -> None:
    logger.info(
        "decompose: CC %.3f (pooled %.3f), L1 %.3f (a guess without an image: %.3f), %d cell types, %d spots; left "
        "out: %d without features, %d without group, %d without tissue; predicted, but not scored: %d without "
        "composition, %d of zeros; %d undefined correlations; stopped on %s",
        record["cc"],
        record["cc_pooled"],
        record["l1"],
        record["l1_mean"],
        len(record["summary"]),
        record["n_spots"],
        record["n_no_features"],
        record["n_no_group"],
        record["n_no_tissue"],
        record["n_no_truth"],
        record["n_zero_truth"],
        record["n_undefined"],
        listing(record["groups"]["stopped_on"], most=3),
    )
