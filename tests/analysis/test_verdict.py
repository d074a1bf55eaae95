import re

import numpy as np
import pytest

from lemon_sc.analysis import registration as reg
from lemon_sc.analysis.verdict import Trend, judge


def rotation(degrees):
    t = np.deg2rad(degrees)
    return np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])


def found_at(offsets, z):
    matches = [
        reg.Match(contrast=0.1, best_contrast=0.2, z=value, offset_um=tuple(o))
        for o, value in zip(offsets, z, strict=True)
    ]
    regions = [reg.Region(low=(100.0 * i, 0.0), size=(40.0, 30.0), n_nuclei=50) for i in range(len(matches))]
    return judge(regions, matches, n_nuclei=500, n_in_image=400, tolerance_um=2.0)


@pytest.mark.parametrize(
    ("offsets", "z", "ok", "words"),
    [
        ([(0.4, -0.3)] * 9 + [(20, 3)], [20] * 9 + [3], True, "9 of 10 regions fit"),
        ([(0.4, -0.3)] * 8 + [(9, 3)] * 2, [20] * 10, True, "8 of 10 regions fit"),
        ([(0.4, -0.3)] * 7 + [(9, 3)] * 3, [20] * 10, False, "between regions"),
        ([(5.0, 0.1)] * 10, [20] * 10, False, r"must be moved by \(\+5.0, \+0.1\) um"),
        ([(x, 0) for x in np.linspace(-9, 9, 10)], [20] * 10, False, "off in rotation"),
        ([(0, 0)] * 4 + [(3, 25)] * 6, [20] * 4 + [4] * 6, False, "match in 4 of 10 regions only"),
        ([], [], False, "undecided"),
    ],
)
def test_verdicts(offsets, z, ok, words):
    found = found_at(offsets, z)
    assert found.ok is ok
    assert re.search(words, found.verdict)
    assert len(found.regions) == len(offsets)
    assert str(found).startswith("Registration ok" if ok else "Registration NOT ok")
    assert "400 of 500 nuclei" in str(found)


@pytest.mark.parametrize(("degrees", "scale"), [(0.0, 1.0), (-2.0, 1.0), (0.5, 0.97), (3.0, 1.05)])
def test_a_rotation_and_a_scale_are_read_from_the_offsets(degrees, scale):
    r = np.random.default_rng(0)
    centre = r.uniform(0, 800, (12, 2))
    offset = scale * centre @ rotation(degrees).T - centre + [5.0, -7.0]
    found = Trend.of(centre, offset)
    assert found.degrees == pytest.approx(degrees, abs=1e-9)
    assert found.scale == pytest.approx(scale)
    assert found.rest_um < 1e-9
    about = np.abs(np.hypot(*(offset - offset.mean(axis=0)).T)).max()
    assert found.largest_um == pytest.approx(about, abs=1e-9)
    noisy = Trend.of(centre, offset + r.normal(0, 0.3, offset.shape))
    assert noisy.degrees == pytest.approx(degrees, abs=0.1)
    assert 0.2 < noisy.rest_um < 1.5


def test_one_region_or_none_has_no_trend():
    for n in (0, 1):
        found = Trend.of(np.ones((n, 2)), np.full((n, 2), 9.0))
        assert (found.degrees, found.scale, found.largest_um, found.rest_um) == (0.0, 1.0, 0.0, 0.0)


def test_an_image_that_is_moved_and_turned_is_not_called_moved():
    found = found_at([(6 + 1.2 * i, 0.0) for i in range(4)], [30] * 4)  # regions follow each other along x
    assert not found.ok
    assert "off in rotation, scale or shear" in found.verdict
    assert "scaled by 1.012, and in the middle moved by (+7.8, +0.0) um" in found.verdict


def test_the_offset_is_the_median_of_regions_that_match():
    found = found_at([(1, 2), (1.2, 2.2), (1.1, 2.1), (25, -25)], [30, 30, 30, 2])
    assert found.offset_um == pytest.approx((1.1, 2.1))
    assert found.regions["ok"].tolist() == [False] * 4
    assert np.isnan(found_at([(1, 2)], [2]).offset_um).all()


@pytest.mark.parametrize(("z", "alone"), [([30], True), ([30, 2], True), ([30, 30], False), ([30, 30, 2], False)])
def test_one_region_cannot_tell_a_shift_from_a_wrong_pixel_size(z, alone):
    """About its own middle a scale moves a region as a whole; a second region far from it would move elsewhere."""
    found = found_at([(5.0, 0.0)] * len(z), z)
    assert "must be moved by (+5.0, +0.0) um" in found.verdict
    assert ("wrong pixel size or rotation" in found.verdict) is alone
