import numpy as np
import pytest
import torch

from lemon_sc.models.amx_attention import ShortAttention, softmax2_over_rows


def bits(values):
    return torch.from_numpy(np.asarray(values, np.float32)).bfloat16().view(torch.uint16).numpy().copy()


def values(of):
    return torch.from_numpy(of).view(torch.bfloat16).double().numpy()


@pytest.mark.parametrize("tokens", [1, 2, 26, 32])
@pytest.mark.parametrize("scale", [0.1, 3, 60])
def test_softmax_against_float64(tokens, scale):
    score = np.random.default_rng(tokens).normal(scale=scale, size=(5, 32, 32)) + 7
    made = bits(score)
    given = values(made)
    softmax2_over_rows(made, tokens)
    power = np.exp2(given[:, :tokens] - given[:, :tokens].max(axis=1, keepdims=True))
    expected = power / power.sum(axis=1, keepdims=True)
    # half a unit in the last place of bfloat16, which keeps 8 bits, and a little for the polynomial
    np.testing.assert_allclose(values(made)[:, :tokens], expected, rtol=2**-8 + 5e-5, atol=1e-36)
    np.testing.assert_array_equal(values(made)[:, tokens:], given[:, tokens:])


def test_softmax_of_far_scores_is_finite():
    score = np.zeros((1, 16, 16), np.float32)
    score[0, 0] = 3e4
    score[0, 1] = -3e4
    made = bits(score)
    softmax2_over_rows(made, 16)
    np.testing.assert_allclose(values(made)[0, 0], 1)
    assert values(made)[0, 1:].max() < 1e-30


def attention_by_loops(q, k, v):
    """Of one head in float64; q, k, v (T, K)."""
    out = np.zeros_like(v)
    for i in range(len(q)):
        weight = np.array([2.0 ** (q[i] @ k[j]) for j in range(len(k))])
        out[i] = sum(w * row for w, row in zip(weight / weight.sum(), v, strict=True))
    return out


@pytest.mark.parametrize(("tokens", "heads", "width"), [(26, 12, 32), (26, 6, 64), (5, 2, 8), (33, 3, 16)])
def test_attention_against_loops(tokens, heads, width):
    attend = ShortAttention(most=3, tokens=tokens, heads=heads, width=width)
    generator = torch.Generator().manual_seed(0)
    for n in (3, 1, 2):  # fewer than the buffers hold, after more
        parts = torch.randn(n, tokens, 3, heads, width, generator=generator).bfloat16()
        parts[:, :, 0] *= 2 / width**0.5
        made = attend(parts.view(n * tokens, -1)).double().view(n, tokens, heads, width).numpy()
        given = parts.double().numpy()
        for crop in range(n):
            for head in range(heads):
                expected = attention_by_loops(*(given[crop, :, i, head] for i in range(3)))
                np.testing.assert_allclose(made[crop, :, head], expected, atol=0.03)
                assert np.corrcoef(made[crop, :, head].ravel(), expected.ravel())[0, 1] > 0.9998
