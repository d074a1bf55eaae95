import math

import numpy as np
import pytest
import torch

from lemon_sc.models.vit import sincos_pos_embed, vit_b8_40, vit_s8_40


@pytest.fixture(scope="module")
def small():
    return vit_s8_40().eval()


@pytest.mark.parametrize(("build", "count", "dim"), [(vit_s8_40, 21_378_816, 384), (vit_b8_40, 85_224_960, 768)])
def test_parameters_tensors_and_shapes(build, count, dim):
    model = build()
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == count
    assert len(state) == 150
    assert state["blocks.0.attn.qkv.weight"].shape == (3 * dim, dim)
    assert state["cls_token"].shape == (1, 1, dim)
    assert state["pos_embed"].shape == (1, 26, dim)
    assert state["patch_embed.proj.weight"].shape == (dim, 3, 8, 8)
    assert {block.attn.num_heads for block in model.blocks} == {12}
    assert all(norm.eps == 1e-6 for norm in model.modules() if isinstance(norm, torch.nn.LayerNorm))
    assert not model.pos_embed.requires_grad


def test_the_number_of_heads_changes_the_output_though_weights_load(small):
    six = vit_s8_40(num_heads=6).eval()
    six.load_state_dict(small.state_dict(), strict=True)
    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (small(x) - six(x)).abs().max() > 1e-3


def test_the_output_is_the_normed_class_token(small):
    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens, out = small.forward_features(x), small(x)
    assert tokens.shape == (2, 26, 384)
    torch.testing.assert_close(out, tokens[:, 0])
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)  # a layer norm just initialised


@pytest.mark.parametrize(("dim", "grid"), [(384, 5), (8, 3)])
def test_position_embedding_against_a_loop(dim, grid):
    q = dim // 4
    expected = np.zeros((1 + grid * grid, dim))
    for row in range(grid):
        for column in range(grid):
            for k in range(q):
                w = 10_000 ** (-k / q)
                token = expected[1 + row * grid + column]
                token[k], token[q + k] = math.sin(row * w), math.cos(row * w)
                token[2 * q + k], token[3 * q + k] = math.sin(column * w), math.cos(column * w)
    np.testing.assert_allclose(sincos_pos_embed(dim, grid)[0].numpy(), expected, atol=1e-6)


def test_the_first_half_of_the_position_follows_the_row(small):
    tokens = small.pos_embed[0, 1:].reshape(5, 5, 384)
    assert torch.equal(tokens[2, 0, :192], tokens[2, 4, :192])
    assert not torch.equal(tokens[0, 2, :192], tokens[4, 2, :192])
    assert torch.equal(tokens[0, 2, 192:], tokens[4, 2, 192:])
    assert not small.pos_embed[0, 0].any()


def test_position_embedding_needs_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_pos_embed(6, 5)


def test_initial_weights_fill_the_published_ranges(small):
    """A uniform draw of many values comes within 1 % of its bound and has a third of its square as variance."""
    bounds = {
        "blocks.3.attn.qkv.weight": math.sqrt(6 / (384 + 384)),
        "blocks.3.attn.proj.weight": math.sqrt(6 / (384 + 384)),
        "blocks.3.mlp.fc1.weight": math.sqrt(6 / (384 + 1536)),
        "patch_embed.proj.weight": math.sqrt(6 / (3 * 64 + 384)),
    }
    state = small.state_dict()
    for name, bound in bounds.items():
        assert 0.99 * bound < state[name].abs().max() <= bound
        assert state[name].var() == pytest.approx(bound**2 / 3, rel=0.02)
    assert all(not v.any() for k, v in state.items() if k.endswith("bias"))
    assert 0 < state["cls_token"].abs().max() < 1e-5


def test_initial_weights_come_from_the_generator_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, b = (vit_s8_40(generator=torch.Generator().manual_seed(7)).state_dict() for _ in range(2))
    other = vit_s8_40(generator=torch.Generator().manual_seed(8)).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
