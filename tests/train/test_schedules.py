import math

import pytest
import torch
from train_models import at

from lemon_sc.train import schedules


def test_moco_momentum_has_the_values_of_its_formula():
    for done in (0, 0.1, 0.25, 0.5, 0.9, 1):
        by_formula = 1 - (1 - 0.99) * (1 + math.cos(math.pi * done)) / 2
        assert schedules.cosine(done, start=0.99, end=1.0) == pytest.approx(by_formula, abs=1e-15)
    assert schedules.cosine(0.5, start=0.992, end=1.0) == pytest.approx(0.996)


def test_weight_decay_of_dinov2_rises():
    assert schedules.cosine(0, start=0.04, end=0.4) == pytest.approx(0.04)
    assert schedules.cosine(0.5, start=0.04, end=0.4) == pytest.approx(0.22)
    assert schedules.cosine(1, start=0.04, end=0.4) == pytest.approx(0.4)


def test_the_teacher_temperature_warms_over_30_epochs():
    values = [schedules.linear(e, over=30, start=0.04, end=0.07) for e in (0, 10, 30, 100)]
    assert values == pytest.approx([0.04, 0.05, 0.07, 0.07])
    assert schedules.linear(0, over=0, start=0.04, end=0.07) == 0.07


def test_learning_rate_ramps_up_then_follows_half_a_cosine():
    def lr(step):
        return schedules.warmup_cosine(step, steps=150, warmup=20, peak=2.4e-3, end=1e-6)

    assert [lr(0), lr(5), lr(20), lr(150)] == pytest.approx([0, 6e-4, 2.4e-3, 1e-6])
    assert lr(85) == pytest.approx((2.4e-3 + 1e-6) / 2)  # half way down
    assert schedules.warmup_cosine(0, steps=5, warmup=0, peak=1.0) == 1
    with pytest.raises(ValueError, match="`warmup` must be from 0 to below `steps`, which is 5, got 5"):
        schedules.warmup_cosine(0, steps=5, warmup=5, peak=1.0)


def test_scaling_with_the_batch():
    assert schedules.linear_lr(1.5e-4, 4096) == pytest.approx(2.4e-3)
    assert schedules.sqrt_lr(0.004, 4096) == pytest.approx(0.008)


def test_progress():
    now = at(25, steps=100, epoch_steps=10)
    assert (now.epoch, now.done) == (2.5, 0.25)
    for wrong, name in (({"step": 101}, "step"), ({"steps": 0}, "steps"), ({"epoch_steps": 0}, "epoch_steps")):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            at(**wrong)


def test_rates_of_groups():
    group = {"lr_scale": 0.5, "decay_scale": 1, "frozen_epochs": 1}
    plain = {"lr_scale": 1.0, "decay_scale": 0, "frozen_epochs": 0}
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], **g} for g in (group, plain)]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    schedules.set_rates(optimizer, lr=0.1, weight_decay=0.3, epoch=0.9)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.0, 0.3), (0.1, 0.0)]
    schedules.set_rates(optimizer, lr=0.1, weight_decay=0.3, epoch=1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.1]
