import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lemon_sc.embed.runner import Runner, fast_path
from lemon_sc.models import Encoder, ModelCard, as_encoder, fast_vit, load
from lemon_sc.models.fast_vit import AT_ONCE, FastViT, fits
from lemon_sc.models.vit import vit_b8_40, vit_s8_40

MEAN, STD = (0.71, 0.48, 0.6), (0.13, 0.21, 0.17)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


def trained(module, *, seed=0):
    """Weights as training leaves them: no norm is the identity, no bias 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("bias") or name == "cls_token":
                weight.normal_(0, 0.1, generator=generator)
    return module.eval().requires_grad_(requires_grad=False)


def small(**options):
    given = {"img_size": 40, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "num_classes": 0}
    return trained(VisionTransformer(**{**given, **options}))


def nuclei(n, *, side=40, seed=0):
    """Crops that look like H&E: pink noise that varies from crop to crop, with a dark ellipse in the centre."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    stain = rng.normal([200, 140, 180], 15, (n, 1, 1, 3))
    size = rng.uniform(0.1, 0.35, (n, 2, 1, 1)) * side
    dark = ((x / size[:, 0]) ** 2 + (y / size[:, 1]) ** 2 < 1)[..., None]
    crops = stain - dark * rng.uniform(40, 120, (n, 1, 1, 3)) + rng.normal(0, 12, (n, side, side, 3))
    return crops.clip(0, 255).astype(np.uint8)


def exact(module, crops):
    side = crops.shape[1]
    card = ModelCard(name="vit", dim=module.embed_dim, input_px=side, mean=MEAN, std=STD)
    return Encoder(card=card, module=module).encode(crops)


def fast(module, dtype, *, device="cpu"):
    return FastViT(module, mean=MEAN, std=STD, device=device, dtype=dtype)


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def vit():
    return trained(vit_s8_40())


@pytest.fixture(scope="module")
def crops():
    return nuclei(AT_ONCE[0] + 1)


@pytest.fixture(scope="module")
def expected(vit, crops):
    return exact(vit, crops)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [1, 3, 64, 65])
def test_fp32_is_what_the_forward_pass_gives(vit, crops, expected, n, device):
    made = fast(vit, "fp32", device=device).encode(crops[:n])
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected[:n], atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [1, 3, 64, 65])
def test_bf16_is_close_to_fp32(vit, crops, expected, n, device):
    made = fast(vit, "bf16", device=device).encode(crops[:n])
    assert cosines(made, expected[:n]).min() > 0.999
    centre = expected.mean(axis=0)  # what differs between crops is kept, too
    assert cosines(made - centre, expected[:n] - centre).min() > 0.99
    assert np.abs(made - expected[:n]).max() > 0


def test_real_nuclei(vit, data_dir):
    files = sorted((data_dir / "nuclei" / "amibr" / "images").glob("*.jpg"))[:64]
    if not files:
        pytest.skip(f"no crops of AMi-Br in {data_dir}")
    crops = np.stack([np.asarray(Image.open(file).convert("RGB"))[44:84, 44:84] for file in files])
    expected = exact(vit, crops)
    np.testing.assert_allclose(fast(vit, "fp32").encode(crops), expected, atol=1e-4 * np.abs(expected).max())
    made = fast(vit, "bf16").encode(crops)
    assert cosines(made, expected).min() > 0.999
    centre = expected.mean(axis=0)
    assert cosines(made - centre, expected - centre).min() > 0.99


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_batches_and_threads_change_no_bit(vit, crops, dtype):
    model = fast(vit, dtype)
    before = torch.get_num_threads()
    model.threads = 1
    whole = model.encode(crops)
    try:
        for threads, size in [(1, 17), (2, 40), (3, len(crops))]:
            model.threads = threads
            parts = [model.encode(crops[i : i + size]) for i in range(0, len(crops), size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
            np.testing.assert_array_equal(model.encode(crops[:1]), whole[:1])
        assert torch.get_num_threads() == 3  # as many as the model was given, not the 1 of its workers
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_classes", [0, 72])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_number_of_threads_changes_no_sum(dtype, num_classes):
    """Not those of the class tokens alone, either, which are long and few: one in some hundred crops showed it."""
    images = nuclei(1024)
    model = fast(small(embed_dim=384, depth=1, num_heads=6, num_classes=num_classes), dtype)
    model.threads = 1
    parts = [np.concatenate([model.encode(part) for part in np.split(images, 1024 // size)]) for size in AT_ONCE]
    for part in parts[1:]:
        np.testing.assert_array_equal(part, parts[0])


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_heads": 2},
        {"embed_dim": 96, "num_heads": 3},
        {"img_size": 24, "patch_size": 4},
        {"mlp_ratio": 2, "depth": 1},
        {"img_size": 72, "depth": 2},  # 82 tokens
        {"norm_layer": lambda dim, **where: nn.LayerNorm(dim, eps=1e-2, **where)},
    ],
    ids=lambda options: "-".join(options) or "small",
)
def test_other_sizes(options, packs, monkeypatch):
    if not packs:
        monkeypatch.setattr(fast_vit, "can_pack", lambda dtype: False)
    module = small(**options)
    assert fits(module)
    crops = nuclei(5, side=options.get("img_size", 40))
    expected = exact(module, crops)
    np.testing.assert_allclose(fast(module, "fp32").encode(crops), expected, atol=1e-4)
    assert cosines(fast(module, "bf16").encode(crops), expected).min() > 0.999


def test_vit_b():
    module = trained(vit_b8_40())
    crops = nuclei(2)
    expected = exact(module, crops)
    np.testing.assert_allclose(fast(module, "fp32").encode(crops), expected, atol=1e-4 * np.abs(expected).max())
    assert cosines(fast(module, "bf16").encode(crops), expected).min() > 0.999


def test_the_number_of_heads_is_the_modules(vit, crops, expected):
    six = vit_s8_40(num_heads=6).eval()
    six.load_state_dict(vit.state_dict())
    made = fast(six, "fp32").encode(crops[:3])
    np.testing.assert_allclose(made, exact(six, crops[:3]), atol=1e-4)
    assert np.abs(made - expected[:3]).max() > 0.1


def test_weights_are_copied_and_left_alone():
    module = small()
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    model, crops = fast(module, "fp32"), nuclei(2)
    made = model.encode(crops)
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())
    for weight in module.parameters():
        weight.mul_(2)
    np.testing.assert_array_equal(model.encode(crops), made)


def test_a_model_of_timm_fits():
    assert fits(timm.create_model("vit_tiny_patch16_224", num_classes=0).eval())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_linear_layer_after_the_class_token_is_exact(dtype):
    """Its outputs may be far from 0, with little between them: they are float32 in either precision."""
    images, module = nuclei(9), small(num_classes=5)
    plain = small()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("head.")})
    module.head.bias += 1000
    assert fits(module)
    token = torch.from_numpy(fast(plain, dtype).encode(images))
    made = fast(module, dtype).encode(images)
    np.testing.assert_allclose(made, module.head(token).numpy(), rtol=1e-6)
    assert made.std(axis=0).min() > 1e-3
    if dtype == "fp32":
        card = ModelCard(name="vit", dim=5, input_px=40, mean=MEAN, std=STD)
        np.testing.assert_allclose(made, Encoder(card=card, module=module).encode(images), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"reg_tokens": 2},
        {"init_values": 1e-5},
        {"class_token": False, "global_pool": "avg"},
        {"global_pool": "avg"},
        {"global_pool": "avg", "fc_norm": False},
        {"qk_norm": True},
        {"qkv_bias": False},
        {"pre_norm": True},
        {"final_norm": False},
        {"no_embed_class": True},
        {"pos_embed": "none"},
        {"dynamic_img_size": True},
        {"img_size": (40, 24)},
        {"in_chans": 1},
        {"act_layer": "gelu_tanh"},
        {"act_layer": nn.SiLU},
        {"act_layer": nn.Identity},
        {"drop_path_rate": 0.1},
        {"scale_attn_norm": True},
        {"scale_mlp_norm": True},
    ],
    ids=str,
)
def test_other_networks_do_not_fit(options):
    assert not fits(small(**options))


def replaced_layer(module):
    module.blocks[1].mlp.fc1 = nn.Sequential(module.blocks[1].mlp.fc1)


def other_class(module):
    module.__class__ = type("Mine", (VisionTransformer,), {})


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.train(),
        lambda module: module.blocks[2].attn.train(),
        lambda module: module.bfloat16(),
        lambda module: module.blocks[0].register_forward_hook(lambda *_: None),
        lambda module: module.norm.register_forward_pre_hook(lambda *_: None),
        lambda module: setattr(module, "forward", lambda x: x),
        lambda module: setattr(module.blocks[1].mlp.act, "approximate", "tanh"),
        lambda module: nn.utils.parametrizations.weight_norm(module.blocks[0].attn.qkv),
        lambda module: setattr(module.blocks[1].mlp, "act", nn.Identity().eval()),
        lambda module: delattr(module.blocks[1].mlp, "act"),
        replaced_layer,
        other_class,
    ],
)
def test_changed_networks_do_not_fit(change):
    module = small()
    assert fits(module)
    change(module)
    assert not fits(module)


def test_what_is_no_vit_does_not_fit():
    assert not fits(None)
    assert not fits(nn.Linear(3, 3).eval())


def test_a_checkpoint_takes_the_fast_path_and_larger_crops_are_cut(vit, tmp_path):
    state = {f"module.base_encoder.{name}": weight for name, weight in vit.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "mine.pth.tar")
    encoder = load(tmp_path / "mine.pth.tar")
    crops = nuclei(9, side=60)
    runner = Runner(encoder, device="cpu", batch_size=4, dtype="fp32")
    assert runner.fast is not None
    np.testing.assert_allclose(runner.run(crops), encoder.encode(crops[:, 10:50, 10:50]), atol=1e-4)


def test_a_card_that_does_not_go_with_the_network_has_no_fast_path():
    module = small()
    for card, there in [
        (ModelCard(name="m", dim=64, input_px=40), True),
        (ModelCard(name="m", dim=32, input_px=40), False),
        (ModelCard(name="m", dim=64, input_px=48), False),
    ]:
        assert (fast_path(as_encoder(module, card), device="cpu", dtype="fp32") is not None) is there
    fitting = as_encoder(module, ModelCard(name="m", dim=64, input_px=40))
    assert fast_path(fitting, device="mps", dtype="fp32") is None
