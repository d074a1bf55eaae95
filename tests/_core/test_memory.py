"""What was freed goes back to the system."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lemon_sc._core.memory import return_freed


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
