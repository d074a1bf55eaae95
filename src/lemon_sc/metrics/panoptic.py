"""Panoptic quality: how many nuclei are found, times how well their outlines fit (Kirillov et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.metrics.matching import Matches, Matching, Scene
from lemon_sc.metrics.means import nanmean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

EmptyTruth: TypeAlias = Literal["zero", "nan"]
EMPTY_TRUTH = ("zero", "nan")


@dataclass(frozen=True, eq=False, kw_only=True)
class PanopticQuality:
    """Panoptic quality of one image. NaN where there is nothing to find and nothing was found."""

    pq: float
    """``dq * sq``."""
    dq: float
    """Detection quality: the F1 of the matches."""
    sq: float
    """Segmentation quality: mean intersection over union of the matches, 0 without any."""
    tp: int
    """Matches."""
    fp: int
    """Predictions without a match."""
    fn: int
    """True nuclei without one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TypedPanopticQuality:
    """Panoptic quality of K classes in one image, each by itself."""

    classes: tuple[str, ...]
    """Their names."""
    pq: Array
    """(K,) NaN for a class that is neither in the truth nor predicted."""
    dq: Array
    """(K,)"""
    sq: Array
    """(K,)"""

    @property
    def mean(self) -> float:
        """Mean PQ over the classes that have one."""
        return float(nanmean(self.pq, axis=0))


def panoptic_quality(
    truth: ArrayLike, prediction: ArrayLike, *, matching: Matching = "iou", empty_truth: EmptyTruth = "zero"
) -> PanopticQuality:
    """Panoptic quality of the nuclei of one image, whatever their type.

    A data set is scored by the mean over its images, not by pooled counts: ``mean(pq)`` is not
    ``mean(dq) * mean(sq)``. Intervals come from `bootstrap` over images or slides, never over nuclei.

    Parameters
    ----------
    truth, prediction
        (H, W) integers, 0 for background.
    matching
        ``"iou"`` or ``"centroid"``: see `match_nuclei`.
    empty_truth
        Score of an image without true nuclei in which some are predicted: ``"zero"``, or ``"nan"``, which leaves such
        images out, as the reference implementations do.

    Returns
    -------
    `PanopticQuality`.

    Raises
    ------
    ValueError
        If shapes differ, an array holds no labels, or an option is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import lemon_sc as lm
    >>> truth = np.array([[1, 1, 1, 0, 2]])
    >>> found = lm.metrics.panoptic_quality(truth, np.array([[1, 1, 0, 0, 0]]))
    >>> round(found.dq, 3), round(found.sq, 3), round(found.pq, 3)
    (0.667, 0.667, 0.444)
    """
    one_of("empty_truth", empty_truth, EMPTY_TRUTH)
    return quality(Scene.of(truth, prediction, matching=matching).matches(), empty_truth=empty_truth)


def quality(matches: Matches, *, empty_truth: EmptyTruth = "zero") -> PanopticQuality:
    """Panoptic quality from matches.

    Parameters
    ----------
    matches
        Of label images.
    empty_truth
        Score without true nuclei, where some are predicted.

    Returns
    -------
    `PanopticQuality`.
    """
    tp = len(matches.truth)
    fp, fn = matches.n_prediction - tp, matches.n_truth - tp
    if not matches.n_truth:
        none = float("nan") if empty_truth == "nan" or not fp else 0.0
        return PanopticQuality(pq=none, dq=none, sq=none, tp=0, fp=fp, fn=0)
    dq = tp / (tp + 0.5 * fp + 0.5 * fn)
    sq = float(matches.iou.mean()) if tp else 0.0
    return PanopticQuality(pq=dq * sq, dq=dq, sq=sq, tp=tp, fp=fp, fn=fn)


def typed_panoptic_quality(
    truth: ArrayLike,
    prediction: ArrayLike,
    *,
    truth_types: Sequence[str],
    predicted_types: Sequence[str],
    classes: Sequence[str],
    matching: Matching = "iou",
    empty_truth: EmptyTruth = "zero",
) -> TypedPanopticQuality:
    """Panoptic quality of each class, nuclei of other classes taken away from truth and prediction.

    Parameters
    ----------
    truth, prediction
        (H, W) integers, 0 for background.
    truth_types, predicted_types
        One class per label, in the order of the ids.
    classes
        Names of the K classes. A nucleus of a class that is not named is of no class.
    matching
        ``"iou"`` or ``"centroid"``: see `match_nuclei`.
    empty_truth
        Score of a class that is not in the truth but predicted.

    Returns
    -------
    `TypedPanopticQuality`.

    Raises
    ------
    ValueError
        If shapes differ, or there is not one type per label.
    """
    one_of("empty_truth", empty_truth, EMPTY_TRUTH)
    scene = Scene.of(truth, prediction, matching=matching)
    true = type_names("truth_types", truth_types, len(scene.shared.first_ids))
    predicted = type_names("predicted_types", predicted_types, len(scene.shared.second_ids))
    each = [
        quality(scene.matches(truth=true == name, prediction=predicted == name), empty_truth=empty_truth)
        for name in classes
    ]
    return TypedPanopticQuality(
        classes=tuple(classes),
        pq=np.array([q.pq for q in each]),
        dq=np.array([q.dq for q in each]),
        sq=np.array([q.sq for q in each]),
    )


def type_names(name: str, types: Sequence[str], n: int) -> NDArray[np.object_]:
    """Check that there is one type per nucleus.

    Parameters
    ----------
    name
        Of the parameter, for the message.
    types
        Names.
    n
        How many nuclei there are.

    Returns
    -------
    (n,) of text.

    Raises
    ------
    ValueError
        If the number differs, or a nucleus has several.
    """
    if len(types) != n:
        raise bad_value(name, must=f"hold one type for each of {n} labels, in the order of their ids", got=len(types))
    if several := [t for t in types if not isinstance(t, str)]:
        raise bad_value(name, must="be one name per nucleus", got=several[0])
    return np.array([*types, ""], dtype=object)[:-1]
