"""Adapters: they begin as nothing, merge into the weights, and sit where they should."""

import copy

import numpy as np
import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lemon_sc.models.conch import ConchTower
from lemon_sc.models.lora import LoraLinear, adapted_layers, add_lora, lora_state, merge_lora
from lemon_sc.models.networks import TileEncoder, build
from lemon_sc.models.vit import cell_vit
from lemon_sc.models.zoo import ZOO

HOW = {"rank": 4, "alpha": 8.0, "dropout": 0.15, "blocks": 1}
FOUR = ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def swiglu(depth=2):
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=28, patch_size=14, embed_dim=32, depth=depth, num_heads=2, num_classes=0, mlp_layer=SwiGLUPacked,
        act_layer=nn.SiLU, reg_tokens=4, init_values=0.5, mlp_ratio=5.33334,
    )  # fmt: skip


NETWORKS = {
    "cell_vit": lambda: cell_vit(dim=48, num_heads=3, depth=3, image_px=24),
    "swiglu with registers, resized": lambda: TileEncoder(swiglu(), size_px=28, pooling="cls_mean"),
    "conch": lambda: ConchTower(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, out_dim=16, pool_heads=2
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_adapters_begin_as_nothing_and_merge(kind):
    base = NETWORKS[kind]().eval()
    side = 28 if kind.startswith("swiglu") else {"conch": 32}.get(kind, 24)
    x = torch.randn(3, 3, side, side, generator=drawn())
    adapted = copy.deepcopy(base)
    names = add_lora(adapted, **HOW, generator=drawn())
    assert sorted(n.split(".", n.count(".") - 1)[-1] for n in names) == FOUR, "qkv is one layer"
    block = "blocks.2." if kind == "cell_vit" else "blocks.1."
    assert all(block in n for n in names), "the last block alone; the pooling by attention is left out"
    frozen = copy.deepcopy(base).requires_grad_(False)  # torch may take another kernel where gradients are wanted
    assert torch.equal(frozen(x), adapted(x)), "to the bit"
    learning = [p for p in adapted.parameters() if p.requires_grad]
    assert len(learning) == 8
    for k, p in enumerate(learning):
        p.data.copy_(torch.randn(p.shape, generator=drawn(k)) * 0.1)
    changed = adapted.eval()(x)
    assert (changed - base(x)).abs().max() > 1e-3
    merged = copy.deepcopy(base)
    merge_lora(merged, lora_state(adapted), scale=HOW["alpha"] / HOW["rank"])
    torch.testing.assert_close(merged(x), changed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["virchow2", "uni2_h", "h0_mini", "dinov2_s", "phikon", "conch_v1"])
def test_every_transformer_of_the_zoo_takes_four_adapters_per_block(name):
    with torch.device("meta"):
        network = TileEncoder(build(ZOO[name]), size_px=224, pooling="cls")
    for blocks in (1, 2):
        layers = adapted_layers(network, blocks=blocks)
        assert len(layers) == 4 * blocks
        assert all(isinstance(network.get_submodule(n), nn.Linear) for n in layers)


def test_the_size_of_an_adapter_of_vit_s():
    with torch.device("meta"):
        network = build(ZOO["dinov2_s"])
    shapes = [network.get_submodule(n).weight.shape for n in adapted_layers(network, blocks=1)]
    assert sum(8 * (a + b) for a, b in shapes) == 8 * (4 * 384 + 2 * 384 + 5 * 384 + 5 * 384)
    assert 4 * 8 * 16 * 384 < 2e6, "bytes of float32"


def test_a_layer_computes_what_it_says():
    rng = np.random.default_rng(0)
    base = nn.Linear(6, 5)
    layer = LoraLinear(base, rank=2, alpha=3.0, dropout=0.5, generator=drawn()).eval()
    layer.lora_up.data.copy_(torch.from_numpy(rng.normal(size=(5, 2))))
    assert layer.lora_down.abs().max() <= 6**-0.5
    x = rng.normal(size=(4, 6)).astype(np.float32)
    w, b, down, up = (p.detach().numpy() for p in (base.weight, base.bias, layer.lora_down, layer.lora_up))
    expected = x @ w.T + b + 1.5 * (x @ down.T) @ up.T
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


class Joined(nn.Module):
    """A block whose attention is one piece of torch, as in some transformers."""

    def __init__(self, attention):
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": attention, "mlp": nn.Linear(4, 4)})])


@pytest.mark.parametrize(
    ("module", "blocks", "match"),
    [
        (lambda: build(ZOO["imagenet_r18"]), 1, "with attention or MLP, 0 in this ResNet.*need a transformer"),
        (lambda: cell_vit(dim=48, num_heads=3, depth=3), 4, "from 1 to the number of blocks.*, 3 in"),
        (lambda: cell_vit(dim=48, num_heads=3, depth=3), 0, "must be from 1"),
        (lambda: Joined(nn.MultiheadAttention(4, 2)), 1, r"cannot be adapted: layers would be left out.*attn"),
        (lambda: Joined(nn.Identity()), 1, "cannot be adapted: it has no attention"),
    ],
    ids=["no blocks", "too many", "none", "one piece", "no attention"],
)
def test_what_cannot_be_adapted(module, blocks, match):
    with pytest.raises(ValueError, match=match):
        adapted_layers(module(), blocks=blocks)


@pytest.mark.parametrize("dim", [48, 96])
def test_another_network_refuses_an_adapter(dim):
    first = cell_vit(dim=48, num_heads=3, depth=2)
    add_lora(first, **HOW, generator=drawn())
    other = cell_vit(dim=dim, num_heads=3, depth=2 if dim == 96 else 1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"layer 'blocks\.1\.attn\.proj' does not fit.*another encoder"):
        merge_lora(other, lora_state(first), scale=1.0)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items()), "nothing is half-merged"
