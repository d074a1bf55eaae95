"""Other packages by stand-ins that take what the real ones take and give what they give."""

import sys
import types

import numpy as np
import pytest
from coded_slides import coded, decoded, field

from lemon_sc.metrics import panoptic_quality
from lemon_sc.seg import segment_image

LABELS = field((200, 260), n=40)
IMAGE = coded(LABELS)


def module(monkeypatch, name, **content):
    parent, _, _ = name.rpartition(".")
    for path in filter(None, (parent, name)):
        monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    for key, value in content.items():
        setattr(sys.modules[name], key, value)


def stand_in_for_cellpose(monkeypatch):
    class CellposeModel:
        def __init__(self, gpu=False, pretrained_model="cpsam"):
            assert gpu is False

        def eval(self, x, batch_size=8, normalize=True, diameter=None):
            assert isinstance(x, list)
            masks = [decoded(image)[0].astype(np.uint16) for image in x]
            return masks, [None] * len(x), [None] * len(x)

    module(monkeypatch, "cellpose.models", CellposeModel=CellposeModel)


def stand_in_for_stardist(monkeypatch):
    class StarDist2D:
        @classmethod
        def from_pretrained(cls, name):
            assert name == "2D_versatile_he"
            return cls()

        def predict_instances(self, img):
            assert img.dtype == np.float32
            assert 0 <= img.min() <= img.max() <= 1
            _, labels = np.unique(decoded(np.rint(img * 255).astype(np.uint8))[0], return_inverse=True)
            labels = labels.reshape(img.shape[:2])
            return labels, {"prob": np.linspace(0.5, 0.9, labels.max()), "points": None, "coord": None}

    module(monkeypatch, "stardist.models", StarDist2D=StarDist2D)


def stand_in_for_instanseg(monkeypatch):
    import torch

    class InstanSeg:
        def __init__(self, model_type, device=None, verbosity=1):
            assert model_type == "brightfield_nuclei"

        def eval_small_image(self, image, pixel_size=None, return_image_tensor=True):
            assert pixel_size == 0.5
            assert not return_image_tensor
            return torch.from_numpy(decoded(image)[0].astype(np.float32))[None, None]

    module(monkeypatch, "instanseg", InstanSeg=InstanSeg)


@pytest.mark.parametrize(
    ("name", "mpp", "stand_in"),
    [
        ("cellpose", 0.5, stand_in_for_cellpose),
        ("stardist", 0.25, stand_in_for_stardist),
        ("instanseg", 0.5, stand_in_for_instanseg),
    ],
)
def test_labels_of_another_package_come_back(name, mpp, stand_in, monkeypatch):
    stand_in(monkeypatch)
    found = segment_image(IMAGE, mpp=mpp, model=name, device="cpu")
    assert panoptic_quality(LABELS, found).pq == 1.0


@pytest.mark.parametrize("name", ["cellpose", "stardist", "instanseg"])
def test_a_package_that_is_not_installed(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.models", None)
    with pytest.raises(ImportError, match=rf'pip install "lemon_sc\[{name}\]"'):
        segment_image(IMAGE, mpp=0.25, model=name)


def test_labels_of_another_size(monkeypatch):
    class CellposeModel:
        def __init__(self, gpu=False):
            pass

        def eval(self, x):
            return [np.zeros((3, 3), dtype=int)] * len(x), None, None

    module(monkeypatch, "cellpose.models", CellposeModel=CellposeModel)
    with pytest.raises(ValueError, match=r"cellpose gave labels of shape \(3, 3\) for a tile of"):
        segment_image(IMAGE, mpp=0.5, model="cellpose", device="cpu")
