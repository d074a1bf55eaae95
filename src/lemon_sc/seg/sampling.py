"""How often an image is drawn, so that rare types are seen: the weights of CellViT, from the data set at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAMMA = 0.85


def sampling_weights(
    present: NDArray[Any], *, tissue: NDArray[Any] | None = None, gamma: float = GAMMA
) -> NDArray[np.float64]:
    """Weights of images by the types that they show, and by their tissue.

    With c_k images of N that show type k and K = sum c: ``w_k = K / (gamma c_k + (1 - gamma) K)``, and an image with
    presence vector b gets ``(1 - gamma) max(b) + gamma sum b_k w_k``; an image without nuclei gets the smallest weight
    of the others. Tissues are weighted likewise, by their counts. Each of the two is divided by its maximum, and added.

    Parameters
    ----------
    present
        Whether an image shows a type, (n_images, n_types), the background not among them.
    tissue
        Tissue of each image, (n_images,); None leaves it out.
    gamma
        0 draws all images alike, 1 in inverse proportion to the counts.

    Returns
    -------
    Float64 (n_images,), not normalised; to be drawn from with replacement.

    Raises
    ------
    ValueError
        Not one row per image, or a gamma outside 0 to 1.
    """
    b = np.asarray(present).astype(np.float64)
    if b.ndim != 2 or not len(b):
        raise bad_value("present", must="be (n_images, n_types) with at least one image", got=b.shape)
    if not 0 <= gamma <= 1:
        raise bad_value("gamma", must="be from 0 to 1", got=gamma)
    b = b[:, b.any(0)]  # a type that no image shows has no weight
    found = np.ones(len(b))
    if b.shape[1]:
        found = (1 - gamma) * b.max(1) + gamma * b @ _balance(b.sum(0), gamma)
        found[found == 0] = found[found > 0].min()
        found /= found.max()
    if tissue is not None:
        _, which, counts = np.unique(np.asarray(tissue), return_inverse=True, return_counts=True)
        if len(which) != len(b):
            raise bad_value("tissue", must=f"name one tissue for each of {len(b)} images", got=f"{len(which)} names")
        by_name = _balance(counts.astype(np.float64), gamma)
        found = found + (by_name / by_name.max())[which]
    return found


def _balance(counts: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    total = counts.sum()
    return total / (gamma * counts + (1 - gamma) * total)
