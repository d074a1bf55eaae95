"""Which predicted nucleus is which true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.geometry.labels import Overlaps, overlaps
from lemon_sc.geometry.outlines import label_centres

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    Rows = NDArray[np.intp]

Matching: TypeAlias = Literal["iou", "centroid"]
MATCHINGS = ("iou", "centroid")
MIN_IOU = 0.5
"""A pair that shares more than half of its union is a match; no nucleus can have two such partners."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Matches:
    """The k pairs of true and predicted nuclei. Rows number nuclei from 0, in the order of the ids of their labels."""

    truth: Rows
    """(k,) rows of true nuclei, ascending."""
    prediction: Rows
    """(k,) rows of predicted nuclei."""
    iou: Array
    """(k,) intersection over union; NaN where points were matched."""
    n_truth: int
    """True nuclei, matched or not."""
    n_prediction: int
    """Predicted nuclei."""


def match_nuclei(truth: ArrayLike, prediction: ArrayLike, *, matching: Matching = "iou") -> Matches:
    """Match the nuclei of two label images of the same pixels.

    Parameters
    ----------
    truth, prediction
        (H, W) integers, 0 for background; ids need not be consecutive.
    matching
        ``"iou"``: all pairs whose intersection is more than half of their union. ``"centroid"``: one partner for each
        such that the sum of distances between centroids is smallest, then only pairs with such an overlap, as
        HistoPLUS counts; a nucleus whose nearest centroid is not that of its own prediction is lost. It holds a matrix
        of all distances.

    Returns
    -------
    `Matches`.

    Raises
    ------
    ValueError
        If shapes differ or an array holds no labels.
    """
    scene = Scene.of(truth, prediction, matching=matching)
    return scene.matches()


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """What two label images share, ready to be matched as a whole or class by class."""

    shared: Overlaps
    """Of truth and prediction."""
    centres: tuple[Array, Array] | None
    """(A, 2) and (B, 2) centroids where they decide."""

    @classmethod
    def of(cls, truth: ArrayLike, prediction: ArrayLike, *, matching: Matching) -> Scene:
        """Compare two label images."""
        one_of("matching", matching, MATCHINGS)
        shared = overlaps(truth, prediction)
        if matching == "iou":
            return cls(shared=shared, centres=None)
        at = tuple(label_centres([(0, 0, np.asarray(image))])[1].xy for image in (truth, prediction))
        return cls(shared=shared, centres=(at[0], at[1]))

    def matches(
        self, *, truth: NDArray[np.bool_] | None = None, prediction: NDArray[np.bool_] | None = None
    ) -> Matches:
        """Match all nuclei, or those of the rows that are True."""
        of_truth = np.ones(len(self.shared.first_ids), dtype=np.bool_) if truth is None else truth
        of_prediction = np.ones(len(self.shared.second_ids), dtype=np.bool_) if prediction is None else prediction
        close = (self.shared.iou > MIN_IOU) & of_truth[self.shared.first] & of_prediction[self.shared.second]
        first, second, iou = self.shared.first[close], self.shared.second[close], self.shared.iou[close]
        if self.centres is not None:
            rows, columns = np.flatnonzero(of_truth), np.flatnonzero(of_prediction)
            i, j = linear_sum_assignment(cdist(self.centres[0][rows], self.centres[1][columns]))
            partner = np.full(len(of_truth), -1, dtype=np.intp)
            partner[rows[i]] = columns[j]
            agreed = partner[first] == second
            first, second, iou = first[agreed], second[agreed], iou[agreed]
        return Matches(
            truth=first,
            prediction=second,
            iou=iou,
            n_truth=int(of_truth.sum()),
            n_prediction=int(of_prediction.sum()),
        )


def match_centroids(truth: ArrayLike, prediction: ArrayLike, *, radius: float) -> Matches:
    """Match points that lie within a radius: as many pairs as possible, and of these ways the shortest.

    Parameters
    ----------
    truth, prediction
        (n, 2) and (m, 2) centres, in the same unit.
    radius
        Largest distance of a pair, in that unit: by convention 3 um, 12 px at 0.25 um per px.

    Returns
    -------
    `Matches`.

    Raises
    ------
    ValueError
        If points are not (n, 2) or not finite, or the radius is not positive.
    """
    a, b = _points("truth", truth), _points("prediction", prediction)
    if not (np.isfinite(radius) and radius > 0):
        raise bad_value("radius", must="be a positive number", got=radius)
    pairs = _within(a, b, radius)
    i, j = pairs[:, 0], pairs[:, 1]
    distance = np.linalg.norm(a[i] - b[j], axis=1)
    graph = coo_array((np.ones(len(i)), (i, len(a) + j)), shape=(len(a) + len(b),) * 2)
    group = connected_components(graph, directed=False)[1][i] if len(i) else np.zeros(0, dtype=np.intp)
    order = np.argsort(group, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    too_far = [radius * (2 * len(members) + 1) for members in groups]  # dearer than all pairs of a group together
    kept = np.concatenate([_assigned(i, j, distance, g, unreachable=u) for g, u in zip(groups, too_far, strict=True)])
    kept = kept[np.argsort(i[kept], kind="stable")]
    return Matches(
        truth=i[kept], prediction=j[kept], iou=np.full(len(kept), np.nan), n_truth=len(a), n_prediction=len(b)
    )


def _points(name: str, points: ArrayLike) -> Array:
    xy = np.asarray(points, dtype=np.float64)
    xy = xy.reshape(0, 2) if not xy.size else xy
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise bad_value(name, must="be (n, 2) finite coordinates", got=f"shape {xy.shape}")
    return xy


def _within(a: Array, b: Array, radius: float) -> NDArray[np.intp]:
    """(P, 2) rows of a and b that lie within the radius."""
    if not len(a) or not len(b):
        return np.zeros((0, 2), dtype=np.intp)
    near: Any = KDTree(a).query_ball_tree(KDTree(b), radius)
    i = np.repeat(np.arange(len(a)), [len(row) for row in near])
    return np.column_stack([i, np.concatenate([np.asarray(row, dtype=np.intp) for row in near])])


def _assigned(i: Rows, j: Rows, distance: Array, members: Rows, *, unreachable: float) -> Rows:
    """Pairs that are chosen of one connected set of them."""
    if len(members) < 2:
        return members
    rows, row = np.unique(i[members], return_inverse=True)
    columns, column = np.unique(j[members], return_inverse=True)
    cost = np.full((len(rows), len(columns)), unreachable, dtype=np.float64)
    pair = np.full(cost.shape, -1, dtype=np.intp)
    cost[row, column], pair[row, column] = distance[members], members
    made = pair[linear_sum_assignment(cost)]
    return made[made >= 0]
