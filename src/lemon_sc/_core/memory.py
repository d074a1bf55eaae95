"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
