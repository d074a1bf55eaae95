"""Jobs on threads, results in order, few of them ahead."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextmanager
def thread_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for a generator.

    A generator that nobody finishes is closed by the garbage collector, on any thread and at any moment: on one of its
    own, or while that thread holds the lock with which `threading` keeps its books. Whoever joins threads there, or
    waits for what they do, may wait for ever. So a generator that is closed leaves its threads alone: what they have
    begun they finish, and they end when they find that the pool is gone.

    Parameters
    ----------
    workers
        How many threads.

    Yields
    ------
    The threads. They are joined at the end and after an error, not when the generator is closed.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="lemon_sc")
    try:
        yield pool
    except GeneratorExit:
        raise
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def in_order(function: Callable[[Item], Made], items: Iterable[Item], *, workers: int) -> Iterator[Made]:
    """What a function gives for each item, in the order of the items.

    Parameters
    ----------
    function
        Called on `workers` threads. Its first error is raised here, and what has not begun is not begun.
    items
        Taken as they are needed: as many results are held as there are threads, whatever the number of items.
    workers
        How many threads.

    Returns
    -------
    What the function made, one after the other.
    """
    with thread_pool(workers) as pool:
        yield from in_order_on(pool, function, items, ahead=workers)


def in_order_on(
    pool: ThreadPoolExecutor, function: Callable[[Item], Made], items: Iterable[Item], *, ahead: int
) -> Generator[Made]:
    """`in_order` on threads that do other work, too; `ahead` items are begun beyond the one that is given.

    Parameters
    ----------
    pool
        Threads.
    function
        What to do with an item.
    items
        Any number of them; they are taken as they are needed.
    ahead
        How many are begun beyond the one that is given.

    Returns
    -------
    What the function made, one after the other.
    """
    begun: deque[Future[Made]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
