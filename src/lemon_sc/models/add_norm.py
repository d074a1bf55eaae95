"""Residual sum and layer norm of bfloat16 rows on the CPU, in one pass.

oneDNN adds a residual inside a matrix product more slowly than it writes the product alone, and torch's layer norm then
reads the sum anew. Here one compiled loop adds, normalises, and rounds each row once.

Letters of array names: M rows, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
import torch

from lemon_sc.models.amx_attention import rounded, widened

if TYPE_CHECKING:
    from numpy.typing import NDArray


def add_norm(
    x_MD: torch.Tensor, y_MD: torch.Tensor, weight_D: torch.Tensor, bias_D: torch.Tensor, *, eps: float
) -> torch.Tensor:
    """Add `y_MD` to `x_MD` in place, and return the layer norm of the sum.

    Parameters
    ----------
    x_MD, y_MD
        bfloat16, contiguous. The sum is rounded once; the norm is that of the sum before it was rounded.
    weight_D, bias_D
        float32.
    eps
        Added to the variance.

    Returns
    -------
    bfloat16 (M, D), in the memory of `y_MD`.
    """
    x_bits, y_bits = x_MD.view(torch.uint16).numpy(), y_MD.view(torch.uint16).numpy()
    _add_norm(x_bits, y_bits, weight_D.numpy(), bias_D.numpy(), np.float32(eps))
    return y_MD


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _add_norm(
    x_MD: NDArray[np.uint16],
    y_MD: NDArray[np.uint16],
    weight_D: NDArray[np.float32],
    bias_D: NDArray[np.float32],
    eps: np.float32,
) -> None:
    rows, dim = x_MD.shape
    sum_D = np.empty(dim, np.float32)
    for m in range(rows):
        total = np.float32(0)
        for d in range(dim):
            s = widened(x_MD[m, d]) + widened(y_MD[m, d])
            sum_D[d] = s
            total += s
            x_MD[m, d] = rounded(s)
        mean = total / np.float32(dim)
        squares = np.float32(0)
        for d in range(dim):
            away = sum_D[d] - mean
            squares += away * away
        scale = np.float32(1) / np.sqrt(squares / np.float32(dim) + eps)
        for d in range(dim):
            y_MD[m, d] = rounded((sum_D[d] - mean) * scale * weight_D[d] + bias_D[d])
