"""Large memory is used again; what was freed goes back to the system."""

from __future__ import annotations

import ctypes
import functools
import math
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

KEPT, LEAST, MOST = 4, 1 << 18, 64 << 20
"""How many pieces of memory of one size wait to be used again, and how many bytes arrays have that use them."""
_free: dict[int, deque[NDArray[np.uint8]]] = {
    1 << k: deque(maxlen=KEPT) for k in range(LEAST.bit_length() - 1, MOST.bit_length())
}
"""By size in bytes, powers of two: crops and blocks of an image shall not take the memory of one another."""


class _Loan:
    """Memory as an array. All views of the array hold the loan; with the last of them, the memory is free again."""

    def __init__(self, memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        data = memory.__array_interface__["data"]
        self.__array_interface__ = {"version": 3, "data": data, "shape": shape, "typestr": dtype.str}
        weakref.finalize(self, _free[memory.size].append, memory).atexit = False


def recycled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of any content, in memory that an array of this kind had before and that nobody holds any more.

    Memory that is fetched from the system costs a fault of the processor for each of its pages: for a block of JPEG
    tiles, a tenth of the time in which it is decoded, and more where threads fetch at once.

    Pieces have sizes of powers of two; an array may hold up to twice the address space that it needs, of which the
    system gives no more than is written to.

    Parameters
    ----------
    shape, dtype
        Of the array.

    Returns
    -------
    C-contiguous. It, and every view of it, may be kept for as long as anybody likes. What is too small to gain by it,
    or too large to be kept waiting, is a new array.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if not LEAST <= n_bytes <= MOST:
        return np.empty(shape, dtype)
    size = 1 << (n_bytes - 1).bit_length()
    try:
        memory = _free[size].popleft()
    except IndexError:  # asked for in this way, no other thread can come between
        memory = np.empty(size, np.uint8)
    return np.asarray(_Loan(memory, shape, dtype))


def forget_recycled() -> None:
    """Free the memory that waits to be used again."""
    for waiting in _free.values():
        waiting.clear()


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """``malloc_trim`` of the C library that this process runs on; musl and macOS have none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def return_freed() -> None:
    """Give whole pages that were freed back to the system, where the C library can.

    Blocks of an image are allocated on several threads, and each thread keeps what it freed for itself. Without this
    the resident set of a long run grows with what they keep (`benchmarks/scale.py memory`).
    """
    trim = _trim()
    if trim is not None:
        trim(0)
