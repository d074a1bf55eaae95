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
    the resident set of a run over a million nuclei is 80 MB larger than that of its arrays. Takes milliseconds.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
