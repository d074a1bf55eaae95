"""Many jobs of linear algebra at once, each on one thread."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from threadpoolctl import threadpool_limits

from lemon_sc._core.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Made = TypeVar("Made")

MOST = 8
"""Threads at most: each holds a few matrices."""


class Each(Protocol):
    """Calls a function on every item, several at a time, and yields what it gives in the order of the items."""

    def __call__(self, function: Callable[[Item], Made], items: Iterable[Item], /) -> Iterator[Made]:
        """See the class."""


@contextmanager
def threads() -> Iterator[Each]:
    """Threads for the time of a block, in which BLAS and LAPACK keep to the thread that calls them.

    Jobs side by side use all processors. Several threads for each small matrix wait for one another, where processors
    are shared up to a hundred times longer than the work takes. Results do not depend on the number of threads.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield partial(in_order, workers=min(os.cpu_count() or 1, MOST))
