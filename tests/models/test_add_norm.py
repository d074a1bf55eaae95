"""The compiled residual sum and norm against torch in float64."""

import pytest
import torch
import torch.nn.functional as F

from lemon_sc.models.add_norm import add_norm

ULP = 2**-8  # half a step of bfloat16, relative


def rows(m, dim, *, scale=1.0, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(m, dim, generator=generator) + shift).bfloat16()


@pytest.mark.parametrize(("m", "dim"), [(1, 8), (7, 24), (130, 192), (33, 384), (5, 1000)])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (50.0, 3.0), (0.01, 2.0)])
def test_sum_and_norm_are_those_of_float64(m, dim, scale, shift):
    x, y = rows(m, dim, scale=scale, shift=shift), rows(m, dim, scale=scale, seed=1)
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.rand(dim, generator=generator) + 0.5, torch.randn(dim, generator=generator)
    total = x.double() + y.double()
    normed = F.layer_norm(total, (dim,), weight.double(), bias.double(), 1e-6)
    made = add_norm(x, y, weight, bias, eps=1e-6)
    assert torch.equal(x, total.float().bfloat16())  # a sum of two bfloat16 of like size is exact in float32
    # sums about the shift are float32: what is rounded there is large beside rows that vary by little
    atol = 2e-5 + 4 * 2**-24 * shift / scale * float(weight.max())
    torch.testing.assert_close(made.double(), normed, rtol=ULP, atol=atol)


def test_the_norm_is_written_over_what_was_added():
    x, y = rows(3, 16), rows(3, 16, seed=1)
    assert add_norm(x, y, torch.ones(16), torch.zeros(16), eps=1e-6).data_ptr() == y.data_ptr()


def test_eps_counts_where_rows_hardly_vary():
    x, y = torch.ones(2, 32).bfloat16(), torch.zeros(2, 32).bfloat16()
    assert torch.equal(add_norm(x, y, torch.ones(32), torch.full((32,), 0.5), eps=1e-6), torch.full_like(y, 0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_become_finite(bad):
    x, y = rows(2, 16), rows(2, 16, seed=1)
    y[1, 3] = bad
    made = add_norm(x, y, torch.ones(16), torch.zeros(16), eps=1e-6)
    assert torch.isfinite(made[0]).all()
    assert not torch.isfinite(made[1]).all()
