"""What was freed is used again, or goes back to the system."""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lemon_sc._core import memory
from lemon_sc._core.memory import KEPT, LEAST, MOST, forget_recycled, recycled, return_freed


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_between_blocks_in_use_are_given_back():
    blocks = [np.ones(100_000, np.uint8) for _ in range(2000)]  # too small for the system's own bookkeeping
    held = resident_mb()
    del blocks[1::2]  # 100 MB, none of it at the end of the heap
    freed = resident_mb()
    return_freed()
    assert held - freed < 20  # else there is nothing to give back, and this shows nothing
    assert freed - resident_mb() > 70


def address(array):
    return array.__array_interface__["data"][0]


@pytest.fixture
def nothing_kept():
    forget_recycled()
    yield
    forget_recycled()


BYTES = np.dtype(np.uint8)


@pytest.mark.usefixtures("nothing_kept")
def test_memory_is_used_again_when_its_last_view_is_gone():
    first = recycled((1000, 2000, 3), BYTES)
    assert first.shape == (1000, 2000, 3)
    assert first.flags.c_contiguous
    assert first.flags.writeable
    at, view = address(first), first[3:, ::2].T[1:]
    view[:] = 7
    del first
    other = recycled((1000, 2000, 3), BYTES)
    assert address(other) != at, "a view of it is still held"
    other[:] = 0
    assert (view == 7).all()
    del view
    smaller = recycled((1000, 2500), np.dtype(np.uint16))
    assert address(smaller) == at
    assert (smaller.shape, smaller.dtype, smaller.nbytes) == ((1000, 2500), np.uint16, 5_000_000)
    del smaller
    larger = recycled((2000, 2000, 3), BYTES)  # too large for what is free
    assert address(larger) != at
    larger[:] = 1


@pytest.mark.usefixtures("nothing_kept")
def test_threads_never_share_memory_that_is_held():
    def fill(k):
        made = recycled((512, 512), np.dtype(np.int64))
        made[:] = k
        view = made[::2]
        del made
        return bool((view == k).all() and (view.copy() == k).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fill, range(300)))


def waiting():
    return sum(map(len, memory._free.values()))


@pytest.mark.usefixtures("nothing_kept")
def test_little_waits_to_be_used_again():
    held = [recycled((LEAST,), BYTES) for _ in range(KEPT + 3)]
    del held
    gc.collect()
    assert waiting() == KEPT
    forget_recycled()
    assert waiting() == 0
    for size in (LEAST - 1, MOST + 1):
        recycled((size,), BYTES)
    gc.collect()
    assert waiting() == 0


@pytest.mark.usefixtures("nothing_kept")
def test_an_array_holds_no_more_than_twice_what_it_needs():
    large = recycled((10 * LEAST,), BYTES)
    at = address(large)
    del large
    small = recycled((4 * LEAST,), BYTES)
    assert address(small) != at
    assert address(recycled((9 * LEAST,), BYTES)) == at, "it waits for those that need it"
