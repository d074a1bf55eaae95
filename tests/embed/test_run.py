import threading

import numpy as np
import pytest
import torch

from lemon_sc.embed import embed_batches
from lemon_sc.embed.run import checked, rebatched
from lemon_sc.models import Encoder, ModelCard, as_encoder, load

CARD = ModelCard(name="mean-rgb", dim=3, input_px=40)
N = 53


def mean_rgb(crops):
    return crops.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).integers(0, 256, (N, 40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def vit():
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    module = VisionTransformer(img_size=40, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    return as_encoder(module, ModelCard(name="tiny", dim=32, mean=(0.5, 0.4, 0.5), std=(0.2, 0.2, 0.2)))


def pieces(crops, *, size, rng=None):
    """The crops in batches of uneven sizes around `size`, in a random order."""
    order = np.arange(len(crops)) if rng is None else np.random.default_rng(rng).permutation(len(crops))
    start = 0
    while start < len(order):
        rows = order[start : start + size]
        yield rows, crops[rows]
        start += size
        size = size % 11 + 1


def run(batches, encoder, **options):
    return embed_batches(batches, encoder, n=N, **({"progress": False, "device": "cpu"} | options))


def test_every_row_gets_its_own_crop_and_the_others_nan(crops):
    rows = np.arange(0, N, 3)
    z = run([(rows, crops[rows])], Encoder(card=CARD, function=mean_rgb))
    np.testing.assert_allclose(z[rows], mean_rgb(crops[rows]), rtol=1e-6)
    assert z.dtype == np.float32
    assert np.isnan(np.delete(z, rows, axis=0)).all()


@pytest.mark.parametrize("device", ["cpu", ("cpu", "cpu"), ("cpu", "cpu", "cpu")])
@pytest.mark.parametrize("batch_size", [1, 7, N, "auto"])
@pytest.mark.parametrize("size", [1, 6])
def test_batches_order_and_devices_change_nothing(crops, vit, device, batch_size, size):
    expected = vit.encode(crops)
    z = run(pieces(crops, size=size, rng=size), vit, device=device, batch_size=batch_size, dtype="fp32")
    np.testing.assert_allclose(z, expected, atol=2e-5)


def test_the_default_encoder_is_equal_to_the_bit(crops):
    encoder = load("morphometry")
    np.testing.assert_array_equal(run(pieces(crops, size=5, rng=0), encoder, batch_size=4), encoder.encode(crops))


def test_bf16_on_the_cpu_is_close(crops, vit):
    z = run(pieces(crops, size=9), vit, dtype="bf16")
    exact = vit.encode(crops)
    assert not np.array_equal(z, exact)
    np.testing.assert_allclose(z, exact, atol=0.1)


def test_devices_work_at_the_same_time(crops):
    """Two workers meet at a barrier, which one worker alone would never pass."""
    barrier = threading.Barrier(2, timeout=20)

    def meet(x):
        barrier.wait()
        return mean_rgb(x)

    encoder = Encoder(card=CARD, function=meet)
    z = run([(np.arange(4), crops[:4])], encoder, device=("cpu", "cpu"), batch_size=1)
    np.testing.assert_allclose(z[:4], mean_rgb(crops[:4]))


def test_batches_are_full_but_for_the_last(crops):
    seen = []

    def note(x):
        seen.append(len(x))
        return mean_rgb(x)

    run(pieces(crops, size=3), Encoder(card=CARD, function=note), batch_size=10)
    assert seen == [10] * 5 + [3]


def test_rebatching_keeps_pairs_together(crops):
    out = list(rebatched(pieces(crops, size=4, rng=1), 10))
    assert [len(rows) for rows, _ in out] == [10] * 5 + [3]
    for rows, some in out:
        assert np.array_equal(some, crops[rows])


def test_the_stream_is_not_read_ahead_without_bound(crops):
    taken, encoded = [0], [0]

    def stream():
        for i in range(N):
            taken[0] += 1
            yield np.array([i]), crops[i : i + 1]

    def count(x):
        assert taken[0] - encoded[0] <= 5
        encoded[0] += len(x)
        return mean_rgb(x)

    run(stream(), Encoder(card=CARD, function=count), batch_size=1)


def test_nothing_in_nothing_out():
    assert np.isnan(run([], load("morphometry"))).all()
    assert embed_batches([], load("morphometry"), n=0, progress=False).shape[0] == 0


def test_a_bar_shows_the_rows_that_are_done(crops, monkeypatch):
    made = []

    class Bar:
        def __init__(self, **options):
            self.options, self.done, self.closed = options, 0, False
            made.append(self)

        def update(self, count):
            self.done += count

        def close(self):
            self.closed = True

    monkeypatch.setattr("lemon_sc.embed.run.progress_bar", Bar)
    run(pieces(crops, size=5), Encoder(card=CARD, function=mean_rgb), progress=True)
    assert (made[0].options["total"], made[0].done, made[0].closed) == (N, N, True)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([0, N], r"`rows` must be in 0..52 \(n = 53\)"),
        ([-1, 0], "`rows` must be in"),
        ([1, 1], "1 rows came twice"),
        ([1, 2, 3], "one int row number per crop"),
        ([0.0, 1.0], "one int row number per crop"),
    ],
)
def test_wrong_rows_are_named(crops, rows, match):
    with pytest.raises(ValueError, match=match):
        run([(np.array(rows), crops[:2])], Encoder(card=CARD, function=mean_rgb))


def test_rows_that_come_again_in_a_later_batch(crops):
    batches = [(np.array([1, 2]), crops[:2]), (np.array([3, 2]), crops[:2])]
    with pytest.raises(ValueError, match="1 rows came twice"):
        list(checked(batches, N))


def test_an_error_of_the_stream_or_the_model_comes_through(crops):
    def broken():
        yield np.arange(4), crops[:4]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        run(broken(), Encoder(card=CARD, function=mean_rgb), batch_size=2)

    def crash(x):
        raise RuntimeError("bad kernel")

    with pytest.raises(RuntimeError, match="bad kernel"):
        run(pieces(crops, size=5), Encoder(card=CARD, function=crash))


def test_one_vector_for_all_crops_is_an_error(crops):
    constant = Encoder(card=CARD, function=lambda x: np.ones((len(x), 3)))
    with pytest.raises(RuntimeError, match="same vector for 53 different crops"):
        run(pieces(crops, size=5), constant, batch_size=7)
    with pytest.raises(RuntimeError, match="same vector for 2 different crops"):
        run([(np.arange(2), crops[:2])], constant)


def test_a_long_job_that_is_degenerate_stops_early(crops):
    seen = [0]

    def constant(x):
        seen[0] += len(x)
        return np.ones((len(x), 3))

    many = np.concatenate([crops] * 20)
    with pytest.raises(RuntimeError, match="same vector"):
        embed_batches(
            [(np.arange(len(many)), many)],
            Encoder(card=CARD, function=constant),
            n=len(many),
            batch_size=16,
            progress=False,
        )
    assert seen[0] < 200


def test_equal_crops_may_have_equal_vectors(crops):
    same = np.repeat(crops[:1], N, axis=0)
    z = run([(np.arange(N), same)], Encoder(card=CARD, function=mean_rgb), batch_size=7)
    assert (z == z[0]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-3), ("auto", 0.1)])
def test_a_gpu_gives_what_the_cpu_gives(crops, vit, dtype, tolerance):
    z = run(pieces(crops, size=6, rng=0), vit, device="auto", dtype=dtype, batch_size=16)
    np.testing.assert_allclose(z, vit.encode(crops), atol=tolerance)
    assert vit.device == "cpu"  # the encoder itself stays where it was


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_beyond_the_memory_of_a_gpu_is_halved(crops):
    class Greedy(torch.nn.Module):
        """Asks for more than the device has, unless it gets four crops or fewer."""

        def __init__(self):
            super().__init__()
            self.unit = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            total = torch.cuda.get_device_properties(x.device).total_memory
            torch.empty(int(total * len(x) / 8), dtype=torch.uint8, device=x.device)
            return x.mean(dim=(2, 3)) * self.unit

    z = run(pieces(crops, size=6), as_encoder(Greedy(), CARD), device="cuda", dtype="fp32", batch_size=32)
    np.testing.assert_allclose(z, mean_rgb(crops) / 255, rtol=1e-4)
