"""Degradations of known strength: what each kind does, and how strengths are drawn and put together."""

import math

import pytest
import torch

from onestep.core.synthetic import synthetic
from onestep.degrade import jpeg as codec
from onestep.degrade.strengths import BLUR, KINDS, NOISE, degrade, draw, together


def test_resize_is_a_reduction_by_one_to_four():
    """The strength tells what is lost: of a fine grid, and of one that is kept by half the reduction."""
    rows = torch.arange(64.0)
    coarse = (0.5 + 0.4 * torch.sin(rows * 2 * math.pi / 5)).expand(3, 64, 64)
    kept = []
    for strength in (0.2, 1.0):
        spoiled = degrade(coarse, {"resize": strength}, torch.Generator().manual_seed(0))
        kept.append(float(spoiled[:, 8:-8, 8:-8].std() / coarse.std()))
    assert kept[0] > 0.7  # by 1.6: five pixels become three
    assert kept[1] < 0.2  # by 4: less than two pixels a period


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leaves_size_and_grows_with_its_strength(kind):
    torch.manual_seed(0)
    image = torch.rand(3, 40, 33)
    far = []
    for strength in (0.0, 0.3, 1.0):
        spoiled = degrade(image, {kind: strength}, torch.Generator().manual_seed(1))
        assert spoiled.shape == image.shape
        far.append(float((spoiled - image).abs().mean()))
    assert far[0] == 0 < far[1] < far[2]


def test_blocks_of_jpeg_begin_elsewhere_in_half_of_the_pictures():
    image = synthetic(33, torch.Generator().manual_seed(3))
    aligned = codec.jpeg(image, 62.5)
    found = [degrade(image, {"jpeg": 0.5}, torch.Generator().manual_seed(seed)) for seed in range(60)]
    assert all(one.shape == image.shape for one in found)
    same = [torch.equal(one, aligned) for one in found]
    assert 0.3 < sum(same) / 60 < 0.7
    apart = [float((one - image).abs().mean()) for one in found]
    assert max(apart) < 1.5 * min(apart)  # the picture is where it was


def test_draws_are_alone_often_and_clean_sometimes():
    generator = torch.Generator().manual_seed(0)
    active = [sum(s > 0 for s in draw(NOISE, generator).values()) for _ in range(400)]
    assert 0.25 < active.count(0) / 400 < 0.43
    assert 0.42 < active.count(1) / 400 < 0.60
    assert active.count(3) > 0


def test_strengths_together():
    strengths = {"gaussian-blur": 0.5, "resize": 0.2, "jpeg": 1.0}
    assert together(strengths, BLUR) == pytest.approx(0.6)
    assert together(strengths, NOISE) == 1.0
    assert together({}, NOISE) == 0.0
