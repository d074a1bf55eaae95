"""The image tower of CONCH: layers as published, pooling against numpy, and what of a checkpoint is taken."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lemon_sc as lm
from lemon_sc.models import networks
from lemon_sc.models.conch import AttentionPooler, ConchTower
from lemon_sc.models.zoo import ZOO

# layers of the module tree that the authors' package prints, with the shapes of their weights
PRINTED = {
    "trunk.patch_embed.proj": (768, 3, 16, 16),
    "trunk.blocks.0.attn.qkv": (2304, 768),
    "trunk.blocks.11.attn.proj": (768, 768),
    "trunk.blocks.11.mlp.fc1": (3072, 768),
    "trunk.blocks.11.mlp.fc2": (768, 3072),
    "trunk.norm": (768,),
    "attn_pool_contrast.attn.out_proj": (512, 512),
    "attn_pool_contrast.ln_q": (512,),
    "attn_pool_contrast.ln_k": (768,),
    "ln_contrast": (512,),
}


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def norm(x, layer):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return scaled * layer.weight.detach().numpy() + layer.bias.detach().numpy()


def randomised(module, seed=0):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn(value.shape, generator=draw) * 0.1)
    return module.eval()


def test_layers_are_those_that_are_published():
    network = networks.construct(ZOO["conch_v1"])
    state = network.state_dict()
    assert {name: tuple(state[f"{name}.weight"].shape) for name in PRINTED} == PRINTED
    assert network.attn_pool_contrast.attn.num_heads == 8
    assert network.trunk.blocks[0].attn.num_heads == 12
    assert (network.trunk.norm.eps, network.ln_contrast.eps) == (1e-6, 1e-5)


def test_parameters_and_cost():
    """ViT-B/16 with 784 patches, then one query over 785 tokens, and a projection."""
    vit = 12 * (12 * 768**2 + 13 * 768) + 768 * (3 * 256 + 1) + 768 + 785 * 768 + 2 * 768
    pooling = 512 + 2 * 512 * 512 + 2 * 512 * 768 + 4 * 512 + 2 * 512 + 2 * 768
    network = networks.construct(ZOO["conch_v1"])
    assert sum(p.numel() for p in network.parameters()) == vit + pooling + 2 * 512 + 512**2
    layers = 784 * 768 * 768 + 12 * 785 * 12 * 768**2 + 2 * 785 * 768 * 512 + 3 * 512**2
    assert lm.models.macs("conch_v1") == layers
    assert lm.models.macs("conch_v1", attention=True) == layers + 12 * 2 * 785**2 * 768 + 2 * 785 * 512


def test_pooling_is_attention_of_one_query():
    """Against numpy, head by head."""
    pooler = randomised(AttentionPooler(dim=8, token_dim=6, num_heads=2))
    tokens = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
    weights = {k: v.detach().numpy() for k, v in pooler.named_parameters()}
    q_bias, k_bias, v_bias = np.split(weights["attn.in_proj_bias"], 3)
    keys = norm(tokens.numpy(), pooler.ln_k)
    q = norm(weights["query"], pooler.ln_q) @ weights["attn.q_proj_weight"].T + q_bias
    k = keys @ weights["attn.k_proj_weight"].T + k_bias
    v = keys @ weights["attn.v_proj_weight"].T + v_bias
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        share = softmax(np.einsum("qd,ntd->nqt", q[:, head], k[..., head]) / 2.0)
        heads.append(np.einsum("nqt,ntd->nqd", share, v[..., head])[:, 0])
    expected = np.concatenate(heads, -1) @ weights["attn.out_proj.weight"].T + weights["attn.out_proj.bias"]
    np.testing.assert_allclose(pooler(tokens).detach().numpy(), expected, atol=1e-5)


def small():
    options = {"patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 4, "out_dim": 16, "pool_heads": 2}
    return randomised(ConchTower(img_size=64, **options))


def test_of_the_whole_model_the_image_tower_is_taken():
    tower = small()
    whole = {f"visual.{name}": value for name, value in tower.state_dict().items()}
    whole |= {"text.ln_final.weight": torch.ones(3), "logit_scale": torch.ones(()), "text_decoder.x": torch.ones(2)}
    whole |= {"visual.attn_pool_caption.query": torch.ones(256, 24), "visual.ln_caption.weight": torch.ones(24)}
    taken = networks.adapt(whole, ZOO["conch_v1"], tower, file=None)
    assert taken.keys() == tower.state_dict().keys()
    assert all(torch.equal(taken[name], value) for name, value in tower.state_dict().items())


def test_a_checkpoint_that_is_laid_out_otherwise_is_refused(tmp_path):
    """The published file could not be read here; what does not fit must not load."""
    state = {f"visual.{k}": v.contiguous() for k, v in small().state_dict().items() if k != "proj_contrast"}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="conch_v1"):
        lm.models.load("conch_v1", weights=tmp_path / "w.safetensors")
