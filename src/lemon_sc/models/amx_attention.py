"""Self-attention of short sequences in bfloat16 on the CPU.

torch's fused attention takes as long for 26 tokens in 12 heads as all linear layers of the block together, and its
softmax in bfloat16 is not vectorised. Here the two products are batched matrix products, which the CPU's matrix unit
does in no time, and the softmax between them is one compiled loop.

Letters of array names: N crops, H heads, B = N * H, T tokens, L = T padded to whole vectors, K width of a head,
D = H * K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba.extending import intrinsic

if TYPE_CHECKING:
    from numpy.typing import NDArray

LANES = 16
"""Float32 numbers in the widest vector of a CPU."""

# The coefficients of 2 ** f for f in (-1, 1) make 3e-5 of relative error at most; bfloat16 rounds by 4e-3.
_C1, _C2, _C3, _C4, _C5 = (np.float32(c) for c in (0.6931472, 0.2402265, 0.05550411, 0.009618129, 0.001333356))
_MANTISSA, _BIAS, _LOWEST = np.int32(23), np.int32(127), np.float32(-126)
_ONE, _HALF, _UP = np.uint32(1), np.uint32(16), np.uint32(0x7FFF)
_NOTHING = np.float32(-3e38)


class ShortAttention:
    """Attention with buffers that are used again and again; one object per thread.

    Parameters
    ----------
    most
        Crops at once, at most.
    tokens
        T, of every crop.
    heads
        H.
    width
        K, of one head.
    """

    def __init__(self, *, most: int, tokens: int, heads: int, width: int) -> None:
        self.tokens, self.heads, self.width = tokens, heads, width
        padded = -(-tokens // LANES) * LANES
        self._qkv_3NHLK = torch.zeros(3, most, heads, padded, width, dtype=torch.bfloat16)  # the padding stays 0
        self._score_BLL = torch.empty(most * heads, padded, padded, dtype=torch.bfloat16)
        self._out_BLK = torch.empty(most * heads, padded, width, dtype=torch.bfloat16)

    def __call__(self, qkv_ND: torch.Tensor) -> torch.Tensor:
        """Attend.

        Parameters
        ----------
        qkv_ND
            bfloat16 (N * T, 3 D): queries, keys and values of each token; queries are multiplied by
            ``log2(e) / sqrt(K)`` already.

        Returns
        -------
        bfloat16 (N * T, D).
        """
        n = len(qkv_ND) // self.tokens
        inside = slice(self.tokens)
        parts = self._qkv_3NHLK[:, :n]
        parts[:, :, :, inside] = qkv_ND.view(n, self.tokens, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        q_BLK, k_BLK, v_BLK = (part.flatten(0, 1) for part in parts)
        score_BLL, out_BLK = self._score_BLL[: n * self.heads], self._out_BLK[: n * self.heads]
        torch.bmm(k_BLK, q_BLK.transpose(1, 2), out=score_BLL)  # keys in rows: the softmax then has queries in lanes
        softmax2_over_rows(score_BLL.view(torch.uint16).numpy(), self.tokens)
        torch.bmm(score_BLL.transpose(1, 2), v_BLK, out=out_BLK)
        return out_BLK.view(n, self.heads, -1, self.width)[:, :, inside].transpose(1, 2).reshape(len(qkv_ND), -1)


def _bitcast(to: Any, given: Any) -> Any:
    """A compiled function that reads the bits of a number as another type."""

    def typed(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(to))

        return to(given), generate

    return intrinsic(typed)


_float_of = _bitcast(numba.float32, numba.uint32)
_bits_of = _bitcast(numba.uint32, numba.float32)


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def widened(bits: np.uint16) -> np.float32:
    """A bfloat16 as float32.

    Parameters
    ----------
    bits
        Of the bfloat16.

    Returns
    -------
    The same number.
    """
    return _float_of(np.uint32(bits) << _HALF)


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def rounded(value: np.float32) -> np.uint32:
    """A float32 as bfloat16, to the nearest, ties to even.

    Parameters
    ----------
    value
        The number.

    Returns
    -------
    16 bits.
    """
    bits = _bits_of(value)
    return (bits + _UP + ((bits >> _HALF) & _ONE)) >> _HALF


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _power_of_2(x: np.float32) -> np.float32:
    """2 ** x for x <= 0; below -126 the least normal number."""
    y = max(x, _LOWEST)
    whole = np.int32(y)
    f = y - np.float32(whole)
    part = np.float32(1) + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * _C5))))
    return _float_of(np.uint32((whole + _BIAS) << _MANTISSA)) * part


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def softmax2_over_rows(score_BLL: NDArray[np.uint16], tokens: int) -> None:
    """``2 ** s / sum(2 ** s)`` over the first `tokens` rows of each matrix, in place; further rows are left alone.

    Parameters
    ----------
    score_BLL
        Bits of bfloat16, (B, >= tokens, L).
    tokens
        T.
    """
    count, _, lanes = score_BLL.shape
    x_TL = np.empty((tokens, lanes), np.float32)
    top_L = np.empty(lanes, np.float32)
    sum_L = np.empty(lanes, np.float32)
    for b in range(count):
        for i in range(lanes):
            top_L[i] = _NOTHING
            sum_L[i] = np.float32(0)
        for t in range(tokens):
            for i in range(lanes):
                x = widened(score_BLL[b, t, i])
                x_TL[t, i] = x
                top_L[i] = max(top_L[i], x)
        for t in range(tokens):
            for i in range(lanes):
                e = _power_of_2(x_TL[t, i] - top_L[i])
                x_TL[t, i] = e
                sum_L[i] += e
        for i in range(lanes):
            sum_L[i] = np.float32(1) / sum_L[i]
        for t in range(tokens):
            for i in range(lanes):
                score_BLL[b, t, i] = rounded(x_TL[t, i] * sum_L[i])
