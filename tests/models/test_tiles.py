"""Checkpoints of the zoo: layouts, and files that are not what they should be."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

import lemon_sc as lm
from lemon_sc.models import networks
from lemon_sc.models.vit import vit_s8_40
from lemon_sc.models.zoo import ZOO

WIDTH, DEPTH, HEADS, PATCHES = 24, 2, 4, 196


def small(name, monkeypatch):
    entry = ZOO[name]
    options = {**entry.options, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    entry = replace(entry, options=options, card=replace(entry.card, dim=WIDTH, num_heads=HEADS))
    monkeypatch.setitem(ZOO, name, entry)
    return entry


def transformers_state(dinov2, prefix=""):
    """Random weights under the names of transformers' ViTModel or Dinov2Model."""
    draw = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=draw) * 0.2

    state = {
        "embeddings.cls_token": random(1, 1, WIDTH),
        "embeddings.position_embeddings": random(1, 1 + PATCHES, WIDTH),
        "embeddings.patch_embeddings.projection.weight": random(WIDTH, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": random(WIDTH),
        "layernorm.weight": random(WIDTH) + 1,
        "layernorm.bias": random(WIDTH),
    }
    state |= {"embeddings.mask_token": random(1, WIDTH)} if dinov2 else {"pooler.dense.weight": random(WIDTH, WIDTH)}
    first, second = ("norm1", "norm2") if dinov2 else ("layernorm_before", "layernorm_after")
    wide, back = ("mlp.fc1", "mlp.fc2") if dinov2 else ("intermediate.dense", "output.dense")
    for i in range(DEPTH):
        at = f"encoder.layer.{i}."
        for norm in (first, second):
            state |= {f"{at}{norm}.weight": random(WIDTH) + 1, f"{at}{norm}.bias": random(WIDTH)}
        linear = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (WIDTH, WIDTH), wide: (4 * WIDTH, WIDTH), back: (WIDTH, 4 * WIDTH)}
        for layer, shape in linear.items():
            state |= {f"{at}{layer}.weight": random(*shape), f"{at}{layer}.bias": random(shape[0])}
        if dinov2:
            state |= {f"{at}layer_scale{j}.lambda1": random(WIDTH) for j in (1, 2)}
    return {prefix + k: v for k, v in state.items()}


def transformers_forward(s, x, dinov2):
    """Class token after the last norm, computed from the published layout alone."""
    eps = 1e-6 if dinov2 else 1e-12
    patches = functional.conv2d(x, s["embeddings.patch_embeddings.projection.weight"],
                                s["embeddings.patch_embeddings.projection.bias"], stride=16)  # fmt: skip
    h = torch.cat([s["embeddings.cls_token"].expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    h = h + s["embeddings.position_embeddings"]
    first, second = ("norm1", "norm2") if dinov2 else ("layernorm_before", "layernorm_after")
    wide, back = ("mlp.fc1", "mlp.fc2") if dinov2 else ("intermediate.dense", "output.dense")
    for i in range(DEPTH):

        def linear(name, value, at=f"encoder.layer.{i}."):
            return value @ s[f"{at}{name}.weight"].T + s[f"{at}{name}.bias"]

        def norm(name, value, at=f"encoder.layer.{i}."):
            return functional.layer_norm(value, (WIDTH,), s[f"{at}{name}.weight"], s[f"{at}{name}.bias"], eps)

        scale = [s[f"encoder.layer.{i}.layer_scale{j}.lambda1"] if dinov2 else 1 for j in (1, 2)]
        ready = norm(first, h)
        q, k, v = (linear(f"attention.attention.{part}", ready) for part in ("query", "key", "value"))
        per_head = []
        for head in range(HEADS):
            own = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            weight = (q[..., own] @ k[..., own].transpose(1, 2) / (WIDTH // HEADS) ** 0.5).softmax(-1)
            per_head.append(weight @ v[..., own])
        h = h + scale[0] * linear("attention.output.dense", torch.cat(per_head, -1))
        h = h + scale[1] * linear(back, functional.gelu(linear(wide, norm(second, h))))
    return functional.layer_norm(h, (WIDTH,), s["layernorm.weight"], s["layernorm.bias"], eps)[:, 0]


@pytest.mark.parametrize(("name", "prefix"), [("phikon", ""), ("phikon", "vit."), ("phikon_v2", "")])
def test_weights_of_transformers(name, prefix, monkeypatch, tmp_path):
    small(name, monkeypatch)
    dinov2 = name == "phikon_v2"
    save_file(transformers_state(dinov2, prefix), tmp_path / "w.safetensors")
    module = lm.models.load(name, weights=tmp_path / "w.safetensors").module
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(module(x), transformers_forward(transformers_state(dinov2), x, dinov2))


def test_an_incomplete_attention_is_an_error(monkeypatch, tmp_path):
    small("phikon", monkeypatch)
    state = transformers_state(False)
    del state["encoder.layer.1.attention.attention.key.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"lacks keys \['blocks.1.attn.qkv.bias'\]"):
        lm.models.load("phikon", weights=tmp_path / "w.safetensors")


def test_the_position_embedding_of_dinov2_is_resampled(monkeypatch, tmp_path):
    """A ramp over 37 x 37 patches stays a ramp over 16 x 16; the class token keeps its own."""
    entry = small("dinov2_s", monkeypatch)
    state = networks.build(entry).state_dict()
    ramp = torch.linspace(0.5 / 37, 1 - 0.5 / 37, 37)
    grid = torch.stack([ramp[:, None].expand(37, 37), ramp[None].expand(37, 37)]).flatten(1).T
    position = torch.zeros(1, 1 + 37 * 37, WIDTH)
    position[0, 1:, :2], position[0, 0, 2] = grid, 7.0
    save_file({k: v.contiguous() for k, v in (state | {"pos_embed": position}).items()}, tmp_path / "w.safetensors")
    got = lm.models.load("dinov2_s", weights=tmp_path / "w.safetensors").module.backbone.pos_embed
    assert got.shape == (1, 257, WIDTH)
    assert torch.equal(got[0, 0], position[0, 0])
    inside = got[0, 1:, :2].reshape(16, 16, 2)[3:13, 3:13]
    expected = (torch.arange(3, 13) + 0.5) / 16
    torch.testing.assert_close(inside[..., 0], expected[:, None].expand(10, 10), atol=2e-3, rtol=0)
    torch.testing.assert_close(inside[..., 1], expected[None].expand(10, 10), atol=2e-3, rtol=0)


def test_others_are_not_resampled(monkeypatch, tmp_path):
    entry = small("uni", monkeypatch)
    state = networks.build(entry).state_dict() | {"pos_embed": torch.zeros(1, 1025, WIDTH)}
    torch.save(state, tmp_path / "w.bin")
    with pytest.raises(ValueError, match=r"another shape .*pos_embed \(1, 1025, 24\), not \(1, 197, 24\)"):
        lm.models.load("uni", weights=tmp_path / "w.bin")


def test_the_teacher_of_volta_is_read(tmp_path):
    teacher, student = (networks.PreActResNet18() for _ in range(2))
    state = {f"module.encoder_k.{k}": v for k, v in teacher.state_dict().items()}
    state |= {"module.encoder_k.fc.weight": torch.ones(2, 512), "module.queue": torch.ones(3)}
    student_state = {f"module.encoder_q.{k}": v for k, v in student.state_dict().items()}
    torch.save({"state_dict": state | student_state}, tmp_path / "w.pth")
    backbone = lm.models.load("volta_nucls", weights=tmp_path / "w.pth").module.backbone
    assert torch.equal(backbone.conv1.weight, teacher.conv1.weight)
    assert not torch.equal(backbone.conv1.weight, student.conv1.weight)
    torch.save({"state_dict": student_state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="student .* not the teacher"):
        lm.models.load("volta_nucls", weights=tmp_path / "w.pth")


def test_volta_normalises_before_it_convolves():
    network = networks.PreActResNet18().eval()
    s = network.state_dict()
    for k, v in s.items():
        if k.endswith(("running_mean", "running_var")):
            v.copy_(torch.rand(v.shape, generator=torch.Generator().manual_seed(len(k))) + 0.5)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def ready(h, at):
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.relu(functional.batch_norm(h, *(s[f"{at}.{n}"] for n in names)))

    h = functional.conv2d(x, s["conv1.weight"], padding=1)
    for stage in range(1, 5):
        for block in range(2):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            r = ready(h, f"{at}.bn1")
            skip = functional.conv2d(r, s[f"{at}.shortcut.0.weight"], stride=stride) if stride == 2 else h
            r = functional.conv2d(r, s[f"{at}.conv1.weight"], stride=stride, padding=1)
            h = skip + functional.conv2d(ready(r, f"{at}.bn2"), s[f"{at}.conv2.weight"], padding=1)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), h.mean((2, 3)))


def test_heads_and_counters_of_old_checkpoints_are_no_matter(tmp_path):
    from torchvision.models import resnet18

    full = {k: v.half() for k, v in resnet18().state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(full, tmp_path / "w.pth")
    module = lm.models.load("imagenet_r18", weights=tmp_path / "w.pth").module
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    torch.testing.assert_close(module.backbone.conv1.weight, full["conv1.weight"].float())
    assert not module.training


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_truncated_file_is_named(suffix, monkeypatch, tmp_path):
    entry = small("uni", monkeypatch)
    path = tmp_path / f"w.{suffix}"
    state = {k: v.contiguous() for k, v in networks.build(entry).state_dict().items()}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"w\.{suffix} is not .*cut short"):
        lm.models.load("uni", weights=path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"embed_dim": 32}, r"w.bin is not a uni .*another shape .*proj.bias \(32,\), not \(24,\)"),
        ({"depth": 3}, "unexpected keys .*blocks.2"),
        ({"depth": 1}, "lacks keys .*blocks.1"),
    ],
)
def test_a_checkpoint_of_another_width_or_depth_is_named(change, match, monkeypatch, tmp_path):
    torch.save(networks.build(small("uni", monkeypatch), **change).state_dict(), tmp_path / "w.bin")
    with pytest.raises(ValueError, match=match):
        lm.models.load("uni", weights=tmp_path / "w.bin")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No weights for the model 'uni': .*nothing.bin is not a file"):
        lm.models.load("uni", weights=tmp_path / "nothing.bin")


def test_the_twelve_head_trap():
    card = next(c for c in lm.models.available() if c.name == "lemon")
    with pytest.raises(ValueError, match="has 6 attention heads, the card of 'lemon' says 12"):
        lm.models.as_encoder((vit_s8_40(num_heads=6), card))
    assert replace(lm.models.as_encoder((vit_s8_40(), card)).card, sha256="") == card


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("lemon", {"pooling": "cls"}, "`pooling` is for models trained on tiles; 'lemon' takes none"),
        ("morphometry", {"input_px": 60}, "`input_px` is for"),
        ("morphometry", {"download": True}, "`download` is for models with weights"),
        ("uni", {"weights": "w.bin", "revision": "main"}, "`weights` names a file. Pass one or the other"),
        ("mine.pth", {"revision": "main"}, "`revision` is for models with weights, by their name"),
    ],
)
def test_options_that_a_model_does_not_take(name, options, match):
    with pytest.raises(ValueError, match=match):
        lm.models.load(name, **options)
