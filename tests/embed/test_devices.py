import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lemon_sc.embed import resolve_batch_size, resolve_devices, resolve_dtype
from lemon_sc.embed.devices import cpu_has_amx, cuts_crops
from lemon_sc.models import ModelCard, as_encoder, fast_vit

CARD = ModelCard(name="m", dim=3)


def visible(monkeypatch, *, cuda=0, mps=False, bf16=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("have", "expected"),
    [({"cuda": 2}, ["cuda:0", "cuda:1"]), ({"mps": True}, ["mps"]), ({}, ["cpu"])],
)
def test_auto_takes_the_best_there_is(monkeypatch, have, expected):
    visible(monkeypatch, **have)
    assert resolve_devices("auto") == expected


def test_named_devices(monkeypatch):
    visible(monkeypatch, cuda=2)
    assert resolve_devices("cuda:1") == ["cuda:1"]
    assert resolve_devices("cuda") == ["cuda:0"]
    assert resolve_devices(torch.device("cpu")) == ["cpu"]
    assert resolve_devices(("cpu", "cpu")) == ["cpu", "cpu"]


@pytest.mark.parametrize("device", ["cuda:2", "mps", "gpu", "xpu", "cuda:x"])
def test_devices_that_are_not_there(monkeypatch, device):
    visible(monkeypatch, cuda=2)
    with pytest.raises(ValueError, match="`device` must be"):
        resolve_devices(device)


def test_no_device_at_all():
    with pytest.raises(ValueError, match="at least one device"):
        resolve_devices([])


def test_accelerators_cut_crops_themselves(monkeypatch):
    module, function = as_encoder(torch.nn.Linear(3, 3), CARD), as_encoder(np.mean, CARD)
    visible(monkeypatch, cuda=2)
    assert cuts_crops("auto", module)
    assert cuts_crops(["cuda:0", "cuda:1"], module)
    assert not cuts_crops("auto", function)
    assert not cuts_crops("cpu", module)
    assert not cuts_crops(["cuda:0", "cpu"], module)
    visible(monkeypatch, mps=True)
    assert cuts_crops("auto", module)
    visible(monkeypatch)
    assert not cuts_crops("auto", module)


def test_precision(monkeypatch):
    module = as_encoder(torch.nn.Linear(3, 3), CARD)
    function = as_encoder(np.mean, CARD)
    visible(monkeypatch, cuda=1)
    assert resolve_dtype("auto", "cuda:0", module) == "bf16"
    assert resolve_dtype("auto", "cpu", module) == "fp32"
    assert resolve_dtype("bf16", "cpu", module) == "bf16"
    assert resolve_dtype("fp32", "cuda:0", module) == "fp32"
    assert resolve_dtype("bf16", "cuda:0", function) == "fp32"
    visible(monkeypatch, cuda=1, bf16=False)
    assert resolve_dtype("auto", "cuda:0", module) == "fp32"
    with pytest.raises(ValueError, match="Did you mean 'bf16'"):
        resolve_dtype("fb16", "cpu", module)


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("packs", [True, False])
def test_precision_of_a_vit_on_the_cpu(monkeypatch, amx, packs):
    module = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=1, num_classes=0)
    plain = as_encoder(module, ModelCard(name="m", dim=8, input_px=16))
    with_registers = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=1, num_classes=0, reg_tokens=1
    )
    other = as_encoder(with_registers, ModelCard(name="m", dim=8, input_px=16))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    monkeypatch.setattr(fast_vit, "can_pack", lambda dtype: packs)
    assert resolve_dtype("auto", "cpu", plain) == ("bf16" if amx and packs else "fp32")
    assert resolve_dtype("auto", "cpu", other) == "fp32"
    assert resolve_dtype("fp32", "cpu", plain) == "fp32"
    assert resolve_dtype("auto", "mps", plain) == "fp32"


def test_an_older_torch_tells_nothing_of_the_cpu(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not cpu_has_amx()


def test_batch_size():
    assert resolve_batch_size(7, "cpu") == 7
    assert type(resolve_batch_size(np.int64(7), "cpu")) is int
    assert resolve_batch_size("auto", "cuda:1") > resolve_batch_size("auto", "cpu")
    for bad in (0, -1, 2.5, True, "many"):
        with pytest.raises(ValueError, match="`batch_size` must"):
            resolve_batch_size(bad, "cpu")
