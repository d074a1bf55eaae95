"""A generator with threads of its own may be closed by the garbage collector, on a thread that holds any lock."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lemon_sc._core import threads
from lemon_sc.crops.stream import stream_crops
from lemon_sc.io.image import array_image


@pytest.fixture
def shut(monkeypatch):
    """Calls of `shutdown`, which takes locks that are not reentrant."""
    calls = []
    plain = ThreadPoolExecutor.shutdown
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", lambda self, **kw: (calls.append(self), plain(self, **kw)))
    return calls


def test_a_closed_generator_begins_nothing_more_and_waits_for_nothing(shut):
    entered, may_end, ended = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def job(i):
        seen.append(i)
        if i == 1:
            entered.set()
            may_end.wait(10)
            ended.set()
        return i

    stream = threads.in_order(job, range(100), workers=1)
    assert next(stream) == 0
    assert entered.wait(10)
    stream.close()
    assert not ended.is_set()
    assert not shut
    may_end.set()
    assert ended.wait(10)
    assert seen == [0, 1]


def test_a_stream_may_be_collected_on_one_of_its_own_threads():
    """Where it would wait for itself."""
    entered, dropped, done = threading.Event(), threading.Event(), threading.Event()

    def job(i):
        if i == 1:
            entered.set()
            dropped.wait(10)
            gc.collect()
            done.set()
        return i

    stream = threads.in_order(job, range(100), workers=1)
    assert next(stream) == 0
    assert entered.wait(10)
    gc.disable()
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    dropped.set()
    collected = done.wait(10)
    gc.enable()
    assert collected


def test_threads_of_a_closed_generator_end():
    names = {t.name for t in threading.enumerate()}
    stream = threads.in_order(lambda _: threading.current_thread(), range(100), workers=2)
    worker = next(stream)
    stream.close()
    gc.collect()
    worker.join(10)
    assert not worker.is_alive()
    assert {t.name for t in threading.enumerate()} >= names - {worker.name}


def test_a_finished_or_failed_generator_joins_its_threads(shut):
    before = set(threading.enumerate())
    assert list(threads.in_order(str, range(5), workers=2)) == list("01234")
    assert len(shut) == 1
    with pytest.raises(ZeroDivisionError):
        list(threads.in_order(lambda i: 1 // (2 - i), range(5), workers=2))
    assert len(shut) == 2
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("lemon_sc_")]


def test_a_stream_of_crops_in_a_cycle_is_collected_under_the_lock_of_threading():
    lock = getattr(threading, "_shutdown_locks_lock", None)
    if lock is None:
        pytest.skip("this Python keeps its books of threads without that lock")
    rng = np.random.default_rng(0)
    image = array_image(rng.integers(0, 255, (600, 600, 3), dtype=np.uint8))

    def collect():
        stream = stream_crops(image, rng.uniform(50, 550, (200, 2)), mpp=(0.25, 0.25), block_px=128, workers=2)
        next(stream)
        cycle = [stream]
        cycle.append(cycle)
        gc.disable()
        del stream, cycle
        with lock:  # as a thread that is being started
            gc.collect()
        gc.enable()

    run = threading.Thread(target=collect)
    run.start()
    run.join(20)
    hangs = run.is_alive()
    if hangs:  # let the others go on
        gc.enable()
        lock.release()
    assert not hangs
