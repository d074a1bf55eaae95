"""One annotation out of those of several people.

The rule of HistoPLUS: each annotator's points are made masks, masks of different annotators that overlap are one
nucleus, and a nucleus that at least two have marked is kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lemon_sc._core.errors import bad_value
from lemon_sc.geometry.labels import as_labels, overlaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.intp]

MIN_IOU = 0.4
"""Masks of two annotators that share more of their union are one nucleus."""
MIN_ANNOTATORS = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotation:
    """What one person marked in a region: n nuclei."""

    xy: NDArray[np.float64]
    """(n, 2) points, in px."""
    types: Sequence[str]
    """(n,) names."""
    labels: NDArray[np.integer]
    """(H, W) masks, as `click_masks` makes them of the points: label k + 1 is that of point k, 0 the background."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Consensus:
    """The m nuclei on which annotators agree, and how they came about."""

    xy: NDArray[np.float64]
    """(m, 2) mean of the points, in px. Masks of the consensus are those that `click_masks` makes of these."""
    types: tuple[tuple[str, ...], ...]
    """(m,) the type that more than half of its annotators chose, or all that were chosen, in alphabetical order."""
    n_annotators: NDArray[np.intp]
    """(m,) who marked it."""
    members: tuple[tuple[tuple[int, int], ...], ...]
    """(m,) the (annotator, point) pairs it was made of."""
    n_alone: int
    """Nuclei left out because too few had marked them."""
    n_repeated: int
    """Points left out because the same annotator had marked the nucleus twice."""

    def __len__(self) -> int:
        return len(self.xy)


def consensus(
    annotations: Sequence[Annotation], *, min_iou: float = MIN_IOU, min_annotators: int = MIN_ANNOTATORS
) -> Consensus:
    """Merge the annotations of one region.

    Masks are matched one to one between each two annotators, so that the sum of overlaps is largest; matches hang
    together in groups, and a group is a nucleus. Where a group holds two masks of one annotator, the one with the best
    overlap with the others stays.

    Parameters
    ----------
    annotations
        One per annotator, of the same region.
    min_iou
        Masks that share more than this of their union match.
    min_annotators
        Nuclei that fewer people marked are left out, and counted.

    Returns
    -------
    `Consensus`, nuclei in the order of their first member.

    Raises
    ------
    ValueError
        If there are fewer annotators than needed, an annotation does not hold as many points as types, or holds a
        label without a point, or label images differ in shape.
    """
    if not 1 <= min_annotators <= len(annotations):
        raise bad_value(
            "min_annotators", must=f"be from 1 to the number of annotators, {len(annotations)}", got=min_annotators
        )
    if not 0 <= min_iou < 1:
        raise bad_value("min_iou", must="be from 0 to below 1", got=min_iou)
    for k, given in enumerate(annotations):
        _check(given, k)
    owner = np.repeat(np.arange(len(annotations)), [len(a.xy) for a in annotations])
    first_of = np.concatenate([[0], np.cumsum([len(a.xy) for a in annotations])])
    group, best = _groups(annotations, first_of, min_iou=min_iou)
    xy = np.concatenate([np.asarray(a.xy, dtype=np.float64).reshape(-1, 2) for a in annotations])
    types = [t for a in annotations for t in a.types]
    kept: list[Rows] = []
    n_alone = n_repeated = 0
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []:
        ranked = members[np.lexsort((members, -best[members]))]
        once = np.sort(ranked[np.unique(owner[ranked], return_index=True)[1]])
        n_repeated += len(members) - len(once)
        if len(once) < min_annotators:
            n_alone += 1
        else:
            kept.append(once)
    kept.sort(key=lambda rows: int(rows[0]))
    return Consensus(
        xy=np.array([xy[rows].mean(axis=0) for rows in kept]).reshape(-1, 2),
        types=tuple(_agreed([types[i] for i in rows]) for rows in kept),
        n_annotators=np.array([len(rows) for rows in kept], dtype=np.intp),
        members=tuple(tuple((int(owner[i]), int(i - first_of[owner[i]])) for i in rows) for rows in kept),
        n_alone=n_alone,
        n_repeated=n_repeated,
    )


def _check(annotation: Annotation, k: int) -> None:
    n = len(annotation.xy)
    labels = as_labels(f"annotations[{k}].labels", annotation.labels)
    if len(annotation.types) != n or labels.max(initial=0) > n:
        msg = (
            f"`annotations[{k}]` must have one type per point and no label beyond the last point, got {n} points, "
            f"{len(annotation.types)} types and label {labels.max(initial=0)}."
        )
        raise ValueError(msg)


def _groups(annotations: Sequence[Annotation], first_of: Rows, *, min_iou: float) -> tuple[Rows, NDArray[np.float64]]:
    """Group of every point, and its best overlap with a mask that it was matched to."""
    total = int(first_of[-1])
    ends: list[tuple[Rows, Rows]] = []
    best = np.zeros(total)
    for a, b in combinations(range(len(annotations)), 2):
        shared = overlaps(annotations[a].labels, annotations[b].labels)
        iou = np.zeros((len(shared.first_ids), len(shared.second_ids)))
        iou[shared.first, shared.second] = shared.iou
        i, j = linear_sum_assignment(1 - iou)
        same = iou[i, j] > min_iou
        i, j = i[same], j[same]
        left, right = first_of[a] + shared.first_ids[i] - 1, first_of[b] + shared.second_ids[j] - 1
        np.maximum.at(best, left, iou[i, j])
        np.maximum.at(best, right, iou[i, j])
        ends.append((left, right))
    left, right = (np.concatenate([e[side] for e in ends] or [np.zeros(0, dtype=np.intp)]) for side in (0, 1))
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(total, total))
    if not total:
        return np.zeros(0, dtype=np.intp), best
    return connected_components(graph, directed=False)[1], best


def _agreed(types: list[str]) -> tuple[str, ...]:
    """The type of more than half, or all of them."""
    name, count = Counter(types).most_common(1)[0]
    return (name,) if 2 * count > len(types) else tuple(sorted(set(types)))
