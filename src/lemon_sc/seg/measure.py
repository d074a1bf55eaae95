"""From a label image to nuclei: centres, areas, boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.geometry.labels import as_labels
from lemon_sc.seg.kernels import measures
from lemon_sc.seg.postprocess import Nuclei

if TYPE_CHECKING:
    from numpy.typing import NDArray


def measured(labels: NDArray[np.integer], *, score: NDArray[np.floating] | None = None, least: float = 1.0) -> Nuclei:
    """Nuclei of a label image, numbered anew without those that are too small.

    Parameters
    ----------
    labels
        (h, w), 0 for background; numbers may have gaps.
    score
        Of each px, (h, w), of which a nucleus gets the mean; None gives every nucleus 1.
    least
        Fewest px of a nucleus.

    Returns
    -------
    The nuclei, all of type 0.

    Raises
    ------
    ValueError
        If it is no label image.
    """
    values, at, count = np.unique(as_labels("labels", labels), return_inverse=True, return_counts=True)
    kept = (count >= least) & (values > 0)
    number = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    numbered = number[at].reshape(labels.shape)
    n = int(kept.sum())
    each = np.ones(labels.shape, dtype=np.float32) if score is None else np.asarray(score, dtype=np.float32)
    total, box = measures(numbered, n, each)
    area = total[:, 0]
    return Nuclei(
        labels=numbered,
        xy=total[:, 1:3] / area[:, None] + 0.5,
        area=area.astype(np.int64),
        box=box,
        type=np.zeros(n, dtype=np.int64),
        probability=total[:, 3] / area,
    )
