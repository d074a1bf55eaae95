import numpy as np
import pytest
import torch
from nucleus_fields import ellipses
from scipy.ndimage import distance_transform_edt

from lemon_sc.seg.nuclick import NuClick, click_masks, click_patches, tidied
from lemon_sc.seg.nuclick_training import draw_click, nuclick_loss, train_nuclick


def scene(seed, size=96):
    """Dark nuclei on pink, some of which touch."""
    rng = np.random.default_rng(seed)
    centres = np.stack(np.meshgrid(*[np.arange(12, size, 24)] * 2), axis=-1).reshape(-1, 2) + rng.uniform(
        -4, 4, (16, 2)
    )
    labels = ellipses((size, size), centres, rng.uniform(6, 11, (16, 2)), rng.uniform(0, np.pi, 16))
    shade = rng.uniform(70, 120, 17)
    shade[0] = 215
    image = shade[labels][..., None] + np.array([10, -25, 10]) + rng.normal(0, 8, (size, size, 3))
    return np.clip(image, 0, 255).astype(np.uint8), labels


def clicks(labels, rng):
    at = [draw_click(labels == k, rng=rng) for k in range(1, labels.max() + 1)]
    return np.array([(c + 0.5, r + 0.5) for r, c in at])


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_learns_to_outline_the_clicked_nucleus():
    made = [scene(k) for k in range(6)]
    network = train_nuclick(*zip(*made, strict=True), width=6, size_px=32, steps=80, batch_size=16, lr=5e-3, rng=0)
    image, labels = scene(99)
    rng = np.random.default_rng(0)
    xy = clicks(labels, rng)
    got = click_masks(image, xy, network=network)
    scores = [dice(labels == k, got == k) for k in range(1, labels.max() + 1)]
    assert np.mean(scores) > 0.85
    # the masks go with their clicks, whatever their order and the size of the batches
    order = rng.permutation(len(xy))
    again = click_masks(image, xy[order], network=network, batch_size=3)
    assert np.mean((again > 0) == (got > 0)) > 0.999
    assert np.mean(np.r_[0, order + 1][again] == got) > 0.999


def test_anchors_of_the_network():
    """Width 64, depth 5, transposed convolutions: the parameters of the U-Net, with batch norm and five channels."""

    def convs(before, w):
        return 9 * before * w + w + 9 * w * w + w + 4 * w

    widths = [64, 128, 256, 512, 1024]
    down = sum(convs(a, b) for a, b in zip([5, *widths[:-1]], widths, strict=True))
    up = sum(4 * 2 * w * w + w + convs(2 * w, w) for w in widths[:-1])
    network = NuClick()
    assert sum(p.numel() for p in network.parameters()) == down + up + 65
    assert network.size_px == 128
    small = NuClick(width=2, depth=3, size_px=16)
    assert small(torch.zeros(2, 5, 16, 16)).shape == (2, 16, 16)


def test_what_the_network_sees():
    image = np.random.default_rng(0).integers(0, 200, (40, 50, 3), dtype=np.uint8)
    made = click_patches(image, [[2.7, 3.2], [20.0, 30.0], [9.1, 3.9]], size_px=16)
    assert made.shape == (3, 5, 16, 16)
    assert np.array_equal(np.rint(made[1, :3].transpose(1, 2, 0) * 255), image[22:38, 12:28])
    first = made[0]
    assert (first[:3, :5] == 1).all()  # white, where the patch hangs over the edge
    assert (first[:3, :, :6] == 1).all()
    assert np.array_equal(np.argwhere(first[3]), [[8, 8]])
    assert np.array_equal(np.argwhere(first[4]), [[8, 15]])  # the third click, 7 px to the right
    assert np.array_equal(np.argwhere(made[2, 4]), [[8, 1]])


def test_clicks_are_set_inside_and_away_from_the_border():
    labels = ellipses((50, 50), [(25, 25)], [(18, 9)], [0.4])
    rng = np.random.default_rng(0)
    distance = distance_transform_edt(labels)
    depth = [distance[draw_click(labels == 1, rng=rng)] for _ in range(200)]
    inside = distance[labels == 1]
    assert min(depth) > inside.mean() - inside.std()
    assert np.mean(depth) > inside.mean() + 0.3 * inside.std()
    assert draw_click(np.ones((1, 1), bool), rng=0) == (0, 0)


def test_mask_of_a_click():
    mask = np.zeros((30, 30), bool)
    mask[5:20, 5:20] = True
    mask[10:15, 14:19] = False  # a hole of 25 px is filled
    mask[22:28, 22:28] = True  # another object is not the clicked one
    want = np.zeros((30, 30), bool)
    want[5:20, 5:20] = True
    assert np.array_equal(tidied(mask, click=(7, 7)), want)
    mask[8:17, 7:16] = False  # with this one it is too large to be one
    assert not np.array_equal(tidied(mask, click=(6, 6)), want)
    assert not tidied(mask, click=(2, 2)).any()
    speck = np.zeros((30, 30), bool)
    speck[3:6, 3:6] = True
    assert not tidied(speck, click=(4, 4)).any()


class Told(NuClick):
    """Answers a disc around the click, the surer the closer to it."""

    def forward(self, x):
        rows, columns = torch.meshgrid(*[torch.arange(self.size_px) - self.size_px // 2] * 2, indexing="ij")
        return (10.0 - torch.sqrt(rows**2 + columns**2)).expand(len(x), -1, -1)


def test_overlapping_masks_share_by_probability():
    told, image = Told(width=1, depth=1, size_px=32), np.zeros((40, 60, 3), np.uint8)
    got = click_masks(image, [[20.5, 20.5], [30.5, 20.5]], network=told)
    assert got[20].tolist() == [0] * 10 + [1] * 16 + [2] * 15 + [0] * 19  # the middle one is a tie: the first keeps it
    at_edge = click_masks(image, [[0, 39.9]], network=told)
    assert np.argwhere(at_edge).min(axis=0).tolist() == [29, 0]


def test_loss_by_hand():
    """At logit 0: cross-entropy ln 2, weighted 3 on the quarter of nucleus pixels; Dice 1 - (2 * 2) / (8 + 4)."""
    target = torch.zeros(1, 4, 4)
    target[0, 0] = 1
    want = np.log(2) * (3 * 4 + 12) / 16 + 1 - (4 + 1e-3) / (12 + 1e-3)
    assert float(nuclick_loss(torch.zeros(1, 4, 4), target)) == pytest.approx(want, rel=1e-6)
    assert float(nuclick_loss(50 * (2 * target - 1), target)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: NuClick(depth=5, size_px=100), "multiple of 2"),
        (lambda: click_patches(np.zeros((9, 9)), [[1, 1]]), "`image` must be uint8"),
        (lambda: click_patches(np.zeros((9, 8, 3), np.uint8), [[1, 1], [8.0, 1]]), r"8 x 9 px, got .*row 1"),
        (lambda: click_patches(np.zeros((9, 8, 3), np.uint8), [[1, 1, 1]]), r"\(n, 2\) points"),
        (lambda: train_nuclick([np.zeros((9, 9, 3), np.uint8)], []), "one label image for each of 1"),
        (
            lambda: train_nuclick([np.zeros((9, 9, 3), np.uint8)], [np.ones((9, 8), int)]),
            r"`labels\[0\]` must have the shape",
        ),
        (lambda: train_nuclick([np.zeros((9, 9, 3), np.uint8)], [np.zeros((9, 9), int)]), "at least one nucleus"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
