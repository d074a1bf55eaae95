import time
from threading import get_ident

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lemon_sc.analysis import threads as own
from lemon_sc.analysis.probe import ridge_probe
from lemon_sc.analysis.splits import leave_one_group_out
from lemon_sc.analysis.threads import threads


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_results_come_in_the_order_of_the_items():
    def late(i):
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    with threads() as each:
        assert list(each(late, range(40))) == [i * i for i in range(40)]
        assert list(each(late, [])) == []


def test_blas_keeps_to_one_thread_inside_and_is_as_before_after():
    before = blas_threads()
    with threads() as each:
        assert set.union(*each(lambda _: blas_threads(), range(4))) == {1}
        assert get_ident() not in set(each(lambda _: get_ident(), range(4)))
    assert blas_threads() == before


def test_an_error_stops_the_jobs_that_wait():
    begun = []

    def job(i):
        begun.append(i)
        if i == 2:
            msg = "no"
            raise ValueError(msg)
        return i

    with pytest.raises(ValueError, match="^no$"), threads() as each:
        list(each(job, range(1000)))
    assert len(begun) < 100


def test_a_probe_does_not_depend_on_the_number_of_threads(monkeypatch):
    r = np.random.default_rng(0)
    x, y, slide = r.standard_normal((240, 20)), r.standard_normal((240, 4)), np.repeat(np.arange(6), 40)
    made = []
    for most in (1, 3, 8):
        monkeypatch.setattr(own, "MOST", most)
        monkeypatch.setattr(own.os, "cpu_count", lambda: 8)
        made.append(ridge_probe(x, y, leave_one_group_out(slide), rng=np.random.default_rng(1), n_null=3))
    for other in made[1:]:
        for name in ("predictions", "pcc", "null", "alpha"):
            np.testing.assert_array_equal(getattr(other, name), getattr(made[0], name))
