import logging

import numpy as np
import pytest
import torch

from lemon_sc.crops.stream import stream_crops
from lemon_sc.crops.uncut import Uncut, stream_uncut
from lemon_sc.embed import embed_batches
from lemon_sc.embed.lane import Lane
from lemon_sc.embed.run import encoded
from lemon_sc.io.image import ArrayLevel, Image
from lemon_sc.models import Encoder, ModelCard, as_encoder

CARD = ModelCard(name="mean-rgb", dim=3, input_px=40)
MPP, N = (0.3, 0.28), 90


def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (420, 510, 3), dtype=np.uint8)
    return Image([ArrayLevel(pixels, chunk_px=64)], [(1.0, 1.0)])


def centres(n=N):
    return np.random.default_rng(1).uniform([30, 30], [480, 390], (n, 2))


def windows(size_px=40):
    """All of them, and the row of each."""
    index, several = zip(
        *stream_uncut(picture(), centres(), mpp=MPP, size_px=size_px, block_px=128, workers=2), strict=True
    )
    return np.concatenate(index), Uncut.joined(several)


@pytest.fixture(scope="module")
def crops():
    out = np.zeros((N, 40, 40, 3), np.uint8)
    for index, part in stream_crops(picture(), centres(), mpp=MPP):
        out[index] = part
    return out


def mean_of(x_NHWC):
    return x_NHWC.float().mean(dim=(1, 2))


class MeanColour(torch.nn.Module):
    """The mean of what came in, to be undone by the card's statistics."""

    def __init__(self):
        super().__init__()
        self.unit = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x.mean(dim=(2, 3)) * self.unit


@pytest.fixture(scope="module")
def vit():
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = VisionTransformer(img_size=40, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    return as_encoder(module.eval(), ModelCard(name="tiny", dim=32, mean=(0.5, 0.4, 0.5), std=(0.2, 0.2, 0.2)))


def test_crops_come_back_with_their_vectors(crops):
    rows, uncut = windows()
    made, z = Lane(mean_of, CARD, device="cpu").run(uncut)
    np.testing.assert_array_equal(made, crops[rows])
    np.testing.assert_allclose(z, crops[rows].mean(axis=(1, 2)), rtol=1e-5)
    same, again = Lane(mean_of, CARD, device="cpu").run(crops[rows])
    np.testing.assert_array_equal(again, z)
    np.testing.assert_array_equal(same, made)


def test_the_encoder_sees_the_mask_and_the_caller_does_not(crops):
    rows, uncut = windows()
    keep = np.random.default_rng(2).random((N, 40, 40)) < 0.3
    masked = Uncut(sheets=uncut.sheets, cut=uncut.cut, keep=keep)
    made, z = Lane(mean_of, CARD, device="cpu").run(masked)
    white = crops[rows].copy()
    white[~keep] = 255
    np.testing.assert_array_equal(made, crops[rows])
    np.testing.assert_allclose(z, white.mean(axis=(1, 2)), rtol=1e-5)


def test_wider_windows_are_cut_to_their_centre(crops):
    rows, wide = windows(size_px=60)
    made, z = Lane(mean_of, CARD, device="cpu").run(wide)
    assert made.shape == (N, 60, 60, 3)
    np.testing.assert_allclose(z, crops[rows].mean(axis=(1, 2)), rtol=1e-5)


def test_windows_that_do_not_fit_the_model():
    _, small = windows(size_px=32)
    with pytest.raises(ValueError, match="be 40 px per side, or larger by an even number"):
        Lane(mean_of, CARD, device="cpu").run(small)


@pytest.mark.parametrize("bad", [lambda x: x.float().mean(dim=1), lambda x: (x,), lambda x: x.float().mean(dim=3)])
def test_a_model_that_gives_something_else(bad):
    with pytest.raises(ValueError, match=r"must return one vector per crop, shape \(90, 3\)"):
        Lane(bad, CARD, device="cpu").run(windows()[1])


def uncut_batches():
    return stream_uncut(picture(), centres(), mpp=MPP, block_px=128, workers=2)


@pytest.mark.parametrize("device", ["cpu", ("cpu", "cpu", "cpu")])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_embedding_windows_is_embedding_crops(crops, vit, device, batch_size):
    z = embed_batches(uncut_batches(), vit, n=N, device=device, batch_size=batch_size, dtype="fp32", progress=False)
    np.testing.assert_allclose(z, vit.encode(crops), atol=2e-5)


def test_in_reduced_precision_parity_is_checked_on_what_was_cut(crops, vit):
    z = embed_batches(uncut_batches(), vit, n=N, device="cpu", dtype="bf16", batch_size=32, progress=False)
    exact = vit.encode(crops)
    cosine = (z * exact).sum(axis=1) / np.linalg.norm(z, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(z, exact)


@pytest.mark.parametrize("encoder", ["function", "module"])
def test_models_of_any_kind_take_windows(crops, encoder):
    if encoder == "function":
        model = Encoder(card=CARD, function=lambda x: x.mean(axis=(1, 2)))
        expected = crops.mean(axis=(1, 2))
    else:
        model = as_encoder(MeanColour(), ModelCard(name="m", dim=3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
        expected = crops.mean(axis=(1, 2)) / 255
    z = embed_batches(uncut_batches(), model, n=N, device="cpu", progress=False)
    np.testing.assert_allclose(z, expected, rtol=1e-4)


def test_whoever_asked_sees_each_crop_once_unmasked_and_before_its_row(crops, vit):
    seen = []

    def note(rows, shown):
        seen.append(rows.tolist())
        np.testing.assert_array_equal(shown, crops[rows])

    def noted():
        for index, part in uncut_batches():
            keep = np.zeros((len(index), 40, 40), bool)
            keep[:, :20] = index[:, None, None] % 2 == 0
            yield index, Uncut(sheets=part.sheets, cut=part.cut, keep=keep, seen=note)

    for rows, _ in encoded(noted(), vit, n=N, device=("cpu", "cpu"), batch_size=16, progress=False):
        assert seen[-1] == rows.tolist()
    assert sorted(row for rows in seen for row in rows) == list(range(N))
    assert [row for rows in seen for row in rows] == np.concatenate([index for index, _ in uncut_batches()]).tolist()


def test_crops_that_a_mask_makes_equal_may_have_equal_vectors(vit):
    """All is masked: the guard against broken devices must look at what the model saw."""

    def blank():
        for index, part in uncut_batches():
            yield index, Uncut(sheets=part.sheets, cut=part.cut, keep=np.zeros((len(index), 40, 40), bool))

    z = embed_batches(blank(), vit, n=N, device="cpu", dtype="fp32", batch_size=50, progress=False)
    np.testing.assert_allclose(z, np.repeat(vit.encode(np.full((1, 40, 40, 3), 255, np.uint8)), N, axis=0), atol=2e-5)


def test_memory_that_does_not_hold_a_batch_of_windows(crops, caplog):
    sizes = []

    class Greedy(MeanColour):
        def forward(self, x):
            sizes.append(len(x))
            if len(x) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    model = as_encoder(Greedy(), ModelCard(name="m", dim=3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    with caplog.at_level(logging.WARNING, "lemon_sc"):
        z = embed_batches(uncut_batches(), model, n=N, device="cpu", dtype="fp32", batch_size=80, progress=False)
    np.testing.assert_allclose(z, crops.mean(axis=(1, 2)) / 255, rtol=1e-4)
    assert sizes == [80, 40, 20, 20, 20, 20, 10]
    assert "Out of memory on cpu at 80 crops; going on with 40" in caplog.text
