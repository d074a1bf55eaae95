import numpy as np
import pytest
import torch
from torch import nn
from train_models import at, randn, tiny_vit

from lemon_sc.train.dino import VARIANTS, DINOv2
from lemon_sc.train.losses import kde, koleo
from lemon_sc.train.tokens import resized_positions, vit_tokens


def build(variant="dinov2_no_local", **options):
    return DINOv2(tiny_vit(), **(VARIANTS[variant] | {"prototypes": 16, "hidden": 24, "bottleneck": 8} | options))


def views_for(method, n=4):
    return [randn(n, 3, 40, 40, seed=s) for s in (1, 2)] + [
        randn(n, 3, 24, 24, seed=s) for s in range(3, 3 + method.n_local)
    ]


def soft(x, t):
    e = np.exp((x - x.max(1, keepdims=True)) / t)
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_loss_by_numpy(variant):
    method = build(variant, **({"n_local": 3} if variant == "dinov2" else {}))
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(0.02 * randn(*p.shape, seed=9))
        method.mask_token.add_(0.5)
    views = views_for(method)
    loss, metrics = method(views, at(3, 100, 10))
    mask = method._masks(4, at(3, 100, 10)).numpy()

    def scores(side, token_rows):
        with torch.no_grad():
            return side["head"](token_rows).numpy().astype(float)

    images = torch.cat(views[:2])
    with torch.no_grad():
        t_tokens = method.teacher["backbone"].forward_features(images)
        s_tokens = vit_tokens(
            method.student["backbone"], images, mask=torch.from_numpy(mask), mask_token=method.mask_token
        )
        local = [vit_tokens(method.student["backbone"], v)[:, 0] for v in views[2:]]
    tau = 0.04 + 0.03 * 0.3 / 30
    targets = soft(scores(method.teacher, t_tokens[:, 0]), tau).reshape(2, 4, -1)
    student = [*scores(method.student, s_tokens[:, 0]).reshape(2, 4, -1), *(scores(method.student, z) for z in local)]
    pairs = {
        (i, j): np.mean(-(targets[i] * np.log(soft(student[j], 0.1))).sum(1))
        for i in range(2)
        for j in range(len(student))
        if i != j
    }
    ibot = 0.0
    for i in np.flatnonzero(mask.any(1)):
        where = torch.from_numpy(np.flatnonzero(mask[i])) + 1
        p = soft(scores(method.teacher, t_tokens[i, where]), tau)
        ibot += np.mean(-(p * np.log(soft(scores(method.student, s_tokens[i, where]), 0.1))).sum(1)) / 8
    term, weight = (kde, 0.05) if variant.endswith("kde") else (koleo, 0.1)
    spread = sum(term(z).item() for z in s_tokens[:, 0].chunk(2))
    assert mask.any()
    assert len(pairs) == (8 if variant == "dinov2" else 2)
    assert metrics["ibot"].item() == pytest.approx(ibot, rel=1e-4)
    assert loss.item() == pytest.approx(np.mean(list(pairs.values())) + ibot + weight * spread, rel=1e-4)
    assert ("local" in metrics) == (variant == "dinov2")


def test_without_masks_tokens_are_timms():
    vit, x = tiny_vit(), randn(3, 3, 40, 40)
    torch.testing.assert_close(vit_tokens(vit, x), vit.forward_features(x))
    hidden = torch.zeros(3, 25, dtype=torch.bool)
    hidden[1, 7] = True
    other = x.clone()
    other[1, :, 8:16, 16:24] = 9  # the pixels of patch 7: row 1, column 2
    token = torch.ones(1, 32)
    seen = [vit_tokens(vit, images, mask=hidden, mask_token=token) for images in (x, other)]
    torch.testing.assert_close(*seen)
    assert not torch.allclose(seen[0][1], vit.forward_features(x)[1])


def test_positions_of_local_views():
    """The row number over a 5 x 5 grid: on 3 x 3 still a number per row, rising evenly about the middle row, 2."""
    rows = torch.arange(5.0).repeat_interleave(5)
    positions = torch.cat([torch.tensor([7.0]), rows])[None, :, None]
    resized = resized_positions(positions, (5, 5), (3, 3))[0, :, 0]
    assert resized[0] == 7
    grid = resized[1:].view(3, 3)
    assert grid[1].tolist() == pytest.approx([2, 2, 2], abs=1e-5)
    torch.testing.assert_close(grid[:, :1].expand(3, 3), grid)
    assert 0 < grid[0, 0] < 0.5  # the outer row lies a third of a row inside the outer row of five
    assert (grid[0] + grid[2]).tolist() == pytest.approx([4, 4, 4], abs=1e-5)


@pytest.mark.parametrize("targets", ["centre", "sinkhorn"])
def test_a_step_trains_the_student_only(targets):
    method = build("dinov2", n_local=2, targets=targets).train()
    assert not any(m.training for m in method.teacher.modules())
    assert method.student.training
    loss, metrics = method(views_for(method), at())
    loss.backward()
    learning = {k for k, p in method.named_parameters() if p.requires_grad}
    assert {k for k, p in method.named_parameters() if p.grad is not None} == learning
    assert not any(k.startswith("teacher") for k in learning)
    assert method.mask_token.grad.abs().sum() > 0
    assert {"rank", "cosine"} <= set(metrics)
    assert not any(v.requires_grad for v in metrics.values())


def test_the_teacher_follows_after_the_step():
    method = build()
    start = method.teacher["head"].last_layer.direction.clone()
    with torch.no_grad():
        method.student["head"].last_layer.direction.add_(1.0)
    method.after_step(at(0))
    torch.testing.assert_close(method.teacher["head"].last_layer.direction, start + 0.008)
    method.after_step(at(100))  # the momentum has reached 1
    torch.testing.assert_close(method.teacher["head"].last_layer.direction, start + 0.008)
    vit = tiny_vit()
    vit.load_state_dict(method.encoder_state_dict(), strict=True)


def test_masks_depend_on_seed_and_step_alone():
    method = build()
    first, again = method._masks(4, at(5)), method._masks(4, at(5))
    assert torch.equal(first, again)
    assert not torch.equal(first, method._masks(4, at(6)))
    assert not torch.equal(first, method._masks(4, at(5, seed=1)))


def test_learning_rates_of_layers():
    method = build()
    names = {id(p): k for k, p in method.named_parameters()}
    groups = {names[id(p)]: g for g in method.parameter_groups(0.04) for p in g["params"]}
    scale = {k: g["lr_scale"] for k, g in groups.items()}
    assert scale["student.head.mlp.0.weight"] == scale["student.backbone.norm.weight"] == 1
    assert scale["student.backbone.blocks.1.attn.qkv.weight"] == pytest.approx(0.9)
    assert scale["student.backbone.blocks.0.attn.qkv.weight"] == pytest.approx(0.81)
    assert scale["student.backbone.cls_token"] == scale["mask_token"] == pytest.approx(0.729)
    assert scale["student.backbone.patch_embed.proj.weight"] == pytest.approx(0.2 * 0.729)
    assert {k for k, g in groups.items() if g["frozen_epochs"] == 1} == {
        "student.head.last_layer.direction", "student.head.last_layer.length",
    }  # fmt: skip
    assert {groups[k]["weight_decay"] for k in ("mask_token", "student.head.last_layer.length")} == {0}
    assert "student.backbone.pos_embed" not in groups


def test_what_cannot_be():
    with pytest.raises(ValueError, match="`encoder` must be a ViT of timm with a class token, .* got 'Flatten'"):
        DINOv2(nn.Flatten())
    with pytest.raises(ValueError, match="`encoder` must be a ViT of timm"):
        DINOv2(tiny_vit(reg_tokens=2))
    with pytest.raises(ValueError, match="`spread` must be one of"):
        build(spread="kda")
    with pytest.raises(ValueError, match="`targets` must be one of"):
        build(targets="center")
    with pytest.raises(ValueError, match="`n_local` must be an int >= 0, got -1"):
        build(n_local=-1)
    with pytest.raises(ValueError, match="`views` must be 2 global and 0 local views"):
        build()([randn(4, 3, 40, 40)] * 3, at())
    with pytest.raises(ValueError, match="`views` must have sides that are multiples of 8 px"):
        build("dinov2", n_local=1)([randn(4, 3, 40, 40)] * 2 + [randn(4, 3, 20, 20)], at())
