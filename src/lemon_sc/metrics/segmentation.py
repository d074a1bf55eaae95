"""All scores of a segmentation of many images in one table, with intervals over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lemon_sc._core.errors import bad_value
from lemon_sc.geometry.labels import as_labels
from lemon_sc.geometry.outlines import label_centres
from lemon_sc.metrics.matching import Matches, Matching, match_centroids, match_nuclei
from lemon_sc.metrics.means import nanmean
from lemon_sc.metrics.panoptic import quality, typed_panoptic_quality
from lemon_sc.metrics.typed import detection, typed_counts, typed_f1
from lemon_sc.metrics.uncertainty import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import ArrayLike, NDArray

    from lemon_sc._core.rng import RNG

    Array = NDArray[np.float64]

COLUMNS = ["metric", "class", "value", "low", "high", "n"]


def segmentation(
    truths: Sequence[ArrayLike],
    predictions: Sequence[ArrayLike],
    *,
    truth_types: Sequence[Sequence[str | Collection[str]]] | None = None,
    predicted_types: Sequence[Sequence[str]] | None = None,
    classes: Sequence[str] = (),
    units: ArrayLike | None = None,
    matching: Matching = "iou",
    radius_px: float | None = None,
    rng: RNG = 0,
) -> pd.DataFrame:
    """Scores of the nuclei found in several images.

    PQ, DQ and SQ are means over images; F1 is that of the counts of all images together, anew in every draw of the
    bootstrap, which draws images.

    Parameters
    ----------
    truths, predictions
        Label images, one pair per image, 0 for background.
    truth_types
        For each image one type per label, in the order of the ids; or a collection of admissible types where
        annotators did not agree, in which case there is no PQ per type.
    predicted_types
        For each image one type per label.
    classes
        Names of the types to be scored; needed with types.
    units
        What is drawn whole: the slide or patient of each image. ``None`` draws images.
    matching
        ``"iou"`` or ``"centroid"``: see `match_nuclei`.
    radius_px
        Match nuclei for detection and types by centroids within this radius instead, as HoVer-Net does: 12 at 0.25 um
        per px.
    rng
        Seed or generator of the bootstrap.

    Returns
    -------
    One row per ``metric`` and ``class``: ``value``, ends of its 95 % interval ``low`` and ``high`` (NaN with a single
    unit), ``n`` true nuclei. Metrics are pq, dq, sq, detection_f1; with types also f1 and pq of each, and class "mean".

    Raises
    ------
    ValueError
        If lengths or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import lemon_sc as lm
    >>> truth = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((4, 4), dtype=int))
    >>> lm.metrics.segmentation([truth, truth], [truth, truth])["value"].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    _check(truths, predictions, truth_types, predicted_types, classes)
    found = [match_nuclei(t, p, matching=matching) for t, p in zip(truths, predictions, strict=True)]
    each = [quality(m) for m in found]
    paired = found if radius_px is None else [_near(t, p, radius_px) for t, p in zip(truths, predictions, strict=True)]
    spots = np.array([[d.tp, d.fp, d.fn] for d in map(detection, paired)])
    n_truth = sum(m.n_truth for m in found)

    def row(metric: str, name: str, n: int, data: NDArray[np.generic], score: Callable[..., float]) -> list[object]:
        return [metric, name, *_interval(data, score, units, rng), n]

    rows = [row(m, "", n_truth, np.array([getattr(q, m) for q in each]), _mean) for m in ("pq", "dq", "sq")]
    rows.append(row("detection_f1", "", n_truth, spots, _f1))
    if truth_types is None or predicted_types is None:
        return pd.DataFrame(rows, columns=COLUMNS)
    counts = np.stack(
        [
            typed_counts(m, truth_types=t, predicted_types=p, classes=classes)
            for m, t, p in zip(paired, truth_types, predicted_types, strict=True)
        ]
    )
    for k, name in enumerate(classes):
        rows.append(row("f1", name, _n_of(name, truth_types), counts[:, [k]], _pooled_f1))
    rows.append(row("f1", "mean", n_truth, counts, _pooled_f1))
    if all(isinstance(one, str) for image in truth_types for one in image):
        options = {"classes": classes, "matching": matching}
        pq = np.stack(
            [
                typed_panoptic_quality(t, p, truth_types=a, predicted_types=b, **options).pq  # type: ignore[arg-type]
                for t, p, a, b in zip(truths, predictions, truth_types, predicted_types, strict=True)
            ]
        )
        for k, name in enumerate(classes):
            rows.append(row("pq", name, _n_of(name, truth_types), pq[:, k], _mean))
        rows.append(row("pq", "mean", n_truth, pq, lambda x: _mean(nanmean(x, axis=0))))
    return pd.DataFrame(rows, columns=COLUMNS)


def _mean(values: Array) -> float:
    return float(nanmean(values, axis=0))


def _n_of(name: str, types: Sequence[Sequence[str | Collection[str]]]) -> int:
    """True nuclei that may be of a type."""
    return sum(name == one if isinstance(one, str) else name in one for image in types for one in image)


def _pooled_f1(counts: NDArray[np.int64]) -> float:
    """Mean over types of the F1 of the counts of all images."""
    return _mean(typed_f1(counts.sum(axis=0)))


def _f1(counts: NDArray[np.int64]) -> float:
    tp, fp, fn = counts.sum(axis=0)
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else float("nan")


def _near(truth: ArrayLike, prediction: ArrayLike, radius: float) -> Matches:
    """Matches by the centroids of two label images."""
    at = [label_centres([(0, 0, as_labels("labels", image))])[1].xy for image in (truth, prediction)]
    return match_centroids(*at, radius=radius)


def _interval(
    data: NDArray[np.generic], score: Callable[..., float], units: ArrayLike | None, rng: RNG
) -> tuple[float, float, float]:
    """Value and ends of the interval; a single unit has none."""
    if len(np.unique(np.arange(len(data)) if units is None else np.asarray(units))) < 2:
        return score(data), float("nan"), float("nan")
    made = bootstrap(data, score=score, units=units, rng=rng)
    return made.value, made.low, made.high


def _check(
    truths: Sequence[ArrayLike],
    predictions: Sequence[ArrayLike],
    truth_types: Sequence[Sequence[str | Collection[str]]] | None,
    predicted_types: Sequence[Sequence[str]] | None,
    classes: Sequence[str],
) -> None:
    given = {"predictions": predictions, "truth_types": truth_types, "predicted_types": predicted_types}
    if not len(truths):
        raise bad_value("truths", must="hold at least one image", got=0)
    for name, values in given.items():
        if values is not None and len(values) != len(truths):
            raise bad_value(name, must=f"hold one entry for each of {len(truths)} images", got=len(values))
    if (truth_types is None) != (predicted_types is None):
        msg = "`truth_types` and `predicted_types` are needed both, or neither."
        raise ValueError(msg)
    if truth_types is not None and not len(classes):
        raise bad_value("classes", must="name the types to be scored", got=classes)
