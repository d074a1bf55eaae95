from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from lemon_sc.analysis import nearest as module
from lemon_sc.analysis import nearest_kernels
from lemon_sc.analysis.nearest import nearest


def manifold(n, d=384, *, seed=0):
    """A curved sheet of few dimensions in a space of many, with noise: as embeddings are."""
    r = np.random.default_rng(seed)
    x = np.tanh(r.standard_normal((n, 8)) @ r.standard_normal((8, d))) + 0.1 * r.standard_normal((n, d))
    return x.astype(np.float32)


def brute_force(x, k, query=None):
    """All distances by difference in float64; of equal ones the lower index first."""
    distance = cdist(x.astype(np.float64) if query is None else query.astype(np.float64), x.astype(np.float64))
    if query is None:
        np.fill_diagonal(distance, np.inf)
    index = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(distance, index, axis=1)


def on_device(x, k, query=None):
    """The path of an accelerator, run on the CPU."""
    search = module._prepare(np.ascontiguousarray(x), query, k)
    shape = len(search.own), k
    found = nearest_kernels.Found(np.full(shape, np.inf), np.full(shape, np.iinfo(np.int64).max))
    module._on_device(search, "cpu", found, lambda _: None)
    return found.index_QK, np.sqrt(found.d2_QK)


CASES = {
    "manifold": manifold(700),
    "far from zero": manifold(700) + np.float32(1e4),
    "float64 far from zero": manifold(500, 50).astype(np.float64) + 1e7,
    "tiny": manifold(300, 20) * np.float32(1e-18),
    "huge": manifold(300, 20) * np.float32(1e15),
    "few columns": np.random.default_rng(1).uniform(size=(600, 2)),
    "one column": np.random.default_rng(1).uniform(size=(300, 1)),
    "integers, so many ties": np.random.default_rng(2).integers(0, 3, (500, 4)).astype(np.float32),
    "copies": np.repeat(manifold(7, 30), 60, axis=0),
    "near copies": np.repeat(manifold(10), 30, axis=0) + 1e-5 * manifold(300, seed=1),
    "very far from zero": np.random.default_rng(4).integers(0, 50, (300, 6)) + 2.0**50,
    "all equal": np.full((200, 5), 0.1),
    "sorted": np.sort(np.random.default_rng(3).standard_normal((500, 1)), axis=0).astype(np.float32),
}


@pytest.fixture(params=["cpu", "bfloat16", "device"])
def search(request, monkeypatch):
    """Each way to search, in blocks that are smaller than the data and split the copies."""
    for name, size in (("_QUERIES", 70), ("_CELLS", 130), ("_DEVICE_QUERIES", 90), ("_DEVICE_CELLS", 110)):
        monkeypatch.setattr(module, name, size)
    if request.param == "device":
        return on_device
    unit = module._BF16 if request.param == "bfloat16" else module.IEEE
    monkeypatch.setattr(module, "_faster_unit", lambda *_, **__: unit)
    return lambda x, k, query=None: nearest(x, k=k, query_MD=query, device="cpu")


@pytest.mark.parametrize("case", CASES)
def test_equals_brute_force_with_ties_in_order(search, case):
    x = CASES[case]
    index, distance = search(x, 12)
    expected, expected_distance = brute_force(x, 12)
    np.testing.assert_allclose(distance, expected_distance, rtol=1e-9)
    assert (index == expected).all()


def test_new_points_may_be_cells(search):
    x, query = manifold(400, 40), np.concatenate([manifold(30, 40, seed=1), manifold(400, 40)[:20]])
    index, distance = search(x, 5, query)
    expected, expected_distance = brute_force(x, 5, query)
    assert (index == expected).all()
    np.testing.assert_allclose(distance, expected_distance, rtol=1e-9)
    assert (index[30:, 0] == np.arange(20)).all()
    assert (distance[30:, 0] == 0).all()


def test_all_others_can_be_asked_for(search):
    x = manifold(150, 10)
    assert (search(x, 149)[0] == brute_force(x, 149)[0]).all()


def test_the_result_is_the_same_to_the_bit(monkeypatch):
    x = np.concatenate([manifold(900, 100), manifold(30, 100)])
    index, distance = nearest(x, k=15, device="cpu")
    others = [on_device(x, 15)]
    for unit in (module.IEEE, module._BF16):
        monkeypatch.setattr(module, "_faster_unit", lambda *_, unit=unit, **__: unit)
        for size in (64, 333):
            monkeypatch.setattr(module, "_QUERIES", size)
            monkeypatch.setattr(module, "_CELLS", 2 * size)
            others.append(nearest(x, k=15, device="cpu"))
    for other_index, other_distance in others:
        assert (other_index == index).all()
        assert (other_distance == distance).all()


@pytest.mark.parametrize("unit", [module.IEEE, module._BF16])
def test_error_of_the_product_is_within_the_bound(unit):
    """The bound that exactness rests on, against products in float64, for factors that round as badly as they can."""
    r = np.random.default_rng(0)
    worst = (1 + 2.0**-8 - 2.0**-16) * 2.0 ** r.integers(-3, 4, (400, 384))  # just below halfway between two bfloat16
    for x in (manifold(400), worst.astype(np.float32), (worst * r.choice([-1, 1], worst.shape)).astype(np.float32)):
        with module.product_precision("cpu", unit):
            product = torch.mm(-2 * torch.from_numpy(x), torch.from_numpy(x).T).numpy()
        exact = x.astype(np.float64)
        norm2 = np.square(exact).sum(axis=1)
        norm = np.sqrt(norm2)
        approximate = norm2.astype(np.float32)[:, None] + (norm2.astype(np.float32) + product)
        error = np.abs(approximate - (norm2[:, None] + norm2 - 2 * exact @ exact.T))
        bound = module._bound(module._prepare(x, None, 5), unit)
        assert (error <= bound.product * np.outer(norm, norm) + bound.sums * np.add.outer(norm, norm) ** 2).all()


def test_what_a_device_has_no_memory_for_comes_from_the_cpu(monkeypatch, caplog):
    x, candidates = manifold(300, 20), module._candidates

    def short(q, *args, own, **kwargs):
        if own[0] >= 180:
            raise torch.cuda.OutOfMemoryError
        return candidates(q, *args, own=own, **kwargs)

    monkeypatch.setattr(module, "_DEVICE_QUERIES", 90)
    monkeypatch.setattr(module, "_candidates", short)
    assert (on_device(x, 6)[0] == brute_force(x, 6)[0]).all()
    assert "the neighbours of 120 cells come from the CPU" in caplog.text


def test_precision_is_put_back_and_imposed():
    backend = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(backend, "fp32_precision"):
        pytest.skip("this torch has one setting for all devices")
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "bf16"
        x = manifold(300)
        with module.product_precision("cpu", module.IEEE):
            exact = torch.mm(torch.from_numpy(x), torch.from_numpy(x).T).numpy()
        assert backend.fp32_precision == "bf16"
        np.testing.assert_allclose(exact, x @ x.T, rtol=1e-4, atol=1e-3)
        with pytest.raises(RuntimeError, match="inside"), module.product_precision("cpu", module.IEEE):
            raise RuntimeError("inside")
        assert backend.fp32_precision == "bf16"
    finally:
        backend.fp32_precision = before


def test_copies_do_not_cost_a_distance_each(monkeypatch):
    """500 equal rows: without care each looks at all others; with it, at a few with the lowest index."""
    counted = np.zeros(1, np.int64)
    plain, place = nearest_kernels.scan.py_func, nearest_kernels._insert

    def insert(d2, index, value, j):
        counted[0] += 1
        place(d2, index, value, j)

    x = np.concatenate([np.tile(manifold(1, 8), (500, 1)), manifold(100, 8, seed=3)])
    monkeypatch.setitem(plain.__globals__, "_insert", insert)
    monkeypatch.setattr(nearest_kernels, "scan", plain)
    index, distance = nearest(x, k=4, device="cpu")
    assert (distance[:500] == 0).all()
    assert (index[5:500] == [0, 1, 2, 3]).all()
    assert counted[0] < 0.5 * 500 * 500


@pytest.mark.parametrize("k", [0, 10, -1, 2.0, True])
def test_k_must_leave_others(k):
    with pytest.raises(ValueError, match=f"`k` must be an int between 1 and 9 for 10 cells, got {k}"):
        nearest(manifold(10, 3), k=k)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_must_be_finite(value):
    x = manifold(20, 3)
    x[3, 1] = value
    with pytest.raises(ValueError, match=r"embedding \(20, 3\) must be finite"):
        nearest(x, k=2)
    with pytest.raises(ValueError, match=r"embedding \(20, 3\) must be finite"):
        nearest(manifold(20, 3), k=2, query_MD=x)


def test_device_must_exist():
    with pytest.raises(ValueError, match="`device` must be"):
        nearest(manifold(20, 3), k=2, device="gpu")


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_gpu_equals_brute_force(case):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    index, _ = nearest(CASES[case], k=12, device="cuda")
    assert (index == brute_force(CASES[case], 12)[0]).all()
