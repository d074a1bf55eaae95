import logging

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lemon_sc.embed.runner import Runner, is_out_of_memory
from lemon_sc.models import Encoder, ModelCard, as_encoder

CARD = ModelCard(name="mean-rgb", dim=3, input_px=40)


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (53, 40, 40, 3), dtype=np.uint8)


def runner(function, *, batch_size=64):
    return Runner(Encoder(card=CARD, function=function), device="cpu", batch_size=batch_size, dtype="auto")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ],
)
def test_the_batch_is_halved_until_it_fits(crops, caplog, error):
    sizes = []

    def small_only(x):
        sizes.append(len(x))
        if len(x) > 7:
            raise error
        return x.mean(axis=(1, 2))

    run = runner(small_only)
    with caplog.at_level(logging.WARNING, "lemon_sc"):
        z = run.run(crops)
    np.testing.assert_allclose(z, crops.mean(axis=(1, 2)), rtol=1e-6)
    assert sizes[:4] == [53, 27, 14, 7]
    assert max(sizes[4:]) == 7  # the smaller batch is kept
    assert run.batch_size == 7
    assert "Out of memory on cpu at 53 crops; going on with 27" in caplog.text


def test_not_even_one_crop_fits(crops):
    def never(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match='with a single crop. Free memory on the device, or pass device="cpu"'):
        runner(never).run(crops)


def test_other_errors_are_not_taken_for_memory(crops):
    def broken(x):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        runner(broken).run(crops)
    assert not is_out_of_memory(RuntimeError("boom"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_is_counted(crops, value):
    def leaky(x):
        z = x.mean(axis=(1, 2))
        z[[3, 10], 1] = value
        return z

    with pytest.raises(RuntimeError, match="NaN or infinity for 2 of 53 crops on cpu in fp32. Check the weights"):
        runner(leaky).run(crops)


class Overflow(torch.nn.Module):
    """Right in fp32; in bf16, either NaN or something else."""

    def __init__(self, give):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.give = give

    def forward(self, x):
        z = self.linear(x.mean(dim=(2, 3)))
        return self.give(z.float()) if z.dtype == torch.bfloat16 else z


def half(give, crops):
    Runner(as_encoder(Overflow(give), CARD), device="cpu", batch_size=64, dtype="bf16").run(crops)


def test_reduced_precision_is_compared_with_fp32_once(crops):
    half(lambda z: z, crops)
    with pytest.raises(RuntimeError, match=r"In bf16 on cpu, model 'mean-rgb' is far from fp32 .*dtype=\"fp32\""):
        half(lambda z: -z, crops)
    with pytest.raises(RuntimeError, match='in bf16. Try dtype="fp32"'):
        half(lambda z: z * float("nan"), crops)


@pytest.fixture(scope="module")
def vit():
    """A plain ViT, small, on crops of 40 px."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = VisionTransformer(
            img_size=40, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=0, global_pool="token"
        )
    return as_encoder(module, ModelCard(name="vit", dim=64, input_px=40))


def test_a_plain_vit_is_held_to_a_higher_standard(crops, vit):
    fair = Runner(vit, device="cpu", batch_size=64, dtype="bf16")
    z = fair.run(crops)
    exact = vit.encode(crops)
    assert 0 < np.abs(z - exact).max() < 0.1
    poor = Runner(vit, device="cpu", batch_size=64, dtype="bf16")
    away = np.random.default_rng(1).normal(size=exact.shape)
    away -= (away * exact).sum(axis=1, keepdims=True) / (exact**2).sum(axis=1, keepdims=True) * exact
    away *= np.linalg.norm(exact, axis=1, keepdims=True) / np.linalg.norm(away, axis=1, keepdims=True)
    poor.fast.encode = lambda _: (exact + 0.1 * away).astype(np.float32)  # a cosine of 1 / sqrt(1.01)
    with pytest.raises(
        RuntimeError, match=r"In bf16 on cpu, model 'vit' is far from fp32 \(cosine 0.9950, .* >= 0.999\)"
    ):
        poor.run(crops)


def test_memory_runs_out_on_the_fast_path(crops, vit):
    run = Runner(vit, device="cpu", batch_size=64, dtype="fp32")
    encode, sizes = run.fast.encode, []

    def small_only(x):
        sizes.append(len(x))
        if len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(x)

    run.fast.encode = small_only
    np.testing.assert_allclose(run.run(crops), vit.encode(crops), atol=1e-4)
    assert sizes == [53, 27, 14, 14, 14, 11]


def test_crops_are_checked_on_the_fast_path(crops, vit):
    run = Runner(vit, device="cpu", batch_size=64, dtype="fp32")
    with pytest.raises(TypeError, match="must be uint8 RGB"):
        run.run(crops / 255)
    with pytest.raises(ValueError, match="be 40 px per side, or larger"):
        run.run(crops[:, :32, :32])


def test_no_crops_for_a_vit(crops, vit):
    assert Runner(vit, device="cpu", batch_size=64, dtype="fp32").run(crops[:0]).shape == (0, 64)


def test_no_crops(crops):
    assert runner(lambda x: x.mean(axis=(1, 2))).run(crops[:0]).shape == (0, 3)
