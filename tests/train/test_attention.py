import copy

import pytest
import torch
from train_models import randn, tiny_vit

from lemon_sc.train.attention import ShortAttention, shorten_attention
from lemon_sc.train.build import build_method
from lemon_sc.train.recipes import debug


def gradients(module, x):
    module.zero_grad()
    x = x.clone().requires_grad_()
    out = module(x)
    (out * randn(*out.shape, seed=5)).sum().backward()
    return out, x.grad, {k: p.grad for k, p in module.named_parameters()}


@pytest.mark.parametrize("heads", [1, 4])
def test_values_and_gradients_are_timms(heads):
    theirs = tiny_vit(heads=heads).blocks[0].attn.double()
    ours = ShortAttention(copy.deepcopy(theirs))
    x = randn(3, 10, 32).double()
    out, by_x, by_name = gradients(theirs, x)
    short_out, short_by_x, short_by_name = gradients(ours, x)
    # the weights of tokens are float32 inside
    torch.testing.assert_close(short_out, out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(short_by_x, by_x, rtol=1e-5, atol=1e-6)
    assert short_by_name.keys() == by_name.keys()
    for name, grad in by_name.items():
        torch.testing.assert_close(short_by_name[name], grad, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_as_close_as_torchs_own():
    vit = tiny_vit()
    x = randn(4, 3, 40, 40)
    exact = vit(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = vit(x)
        shorten_attention(vit)
        ours = vit(x)
    assert (ours - exact).norm() < 1.5 * (theirs - exact).norm() + 1e-4


def test_all_blocks_of_student_and_teacher_are_replaced_and_names_stay():
    method = build_method(debug())
    names = list(method.state_dict())
    shorten_attention(method)
    assert sum(isinstance(m, ShortAttention) for m in method.modules()) == 4
    assert sorted(method.state_dict()) == sorted(names)
    dropping = tiny_vit(attn_drop_rate=0.1)
    shorten_attention(dropping)
    assert not any(isinstance(m, ShortAttention) for m in dropping.modules())
