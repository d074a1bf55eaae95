"""Many jobs of linear algebra at once, each on one thread."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

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
    n = min(os.cpu_count() or 1, MOST)
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(n, "lemon_sc-analysis") as pool:

        def each(function: Callable[[Item], Made], items: Iterable[Item], /) -> Iterator[Made]:
            ahead: deque[Future[Made]] = deque()
            try:
                for item in items:
                    ahead.append(pool.submit(function, item))
                    if len(ahead) > n:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

        yield each
