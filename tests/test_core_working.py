import dataclasses

import numpy as np
import pytest
import torch

from icc import GREY_GAMMA, PROFILES
from onestep import Upscaler
from onestep.core.picture import Picture, as_picture, painted
from onestep.core.profile import profile_of
from onestep.core.resize import resize
from onestep.core.working import working
from pictures import Nearest


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def on(background, picture):
    """A picture with alpha laid on a colour."""
    alpha = 1 if picture.alpha is None else picture.alpha
    return picture.rgb * alpha + (1 - alpha) * torch.tensor(background).view(1, 3, 1, 1)


def resized_premultiplied(rgb, alpha, size):
    """The reference: what resizing of premultiplied colours shows on black, and the alpha of that."""
    return resize(rgb * alpha, size), resize(alpha, size).clamp(0, 1)


def test_an_ordinary_picture_is_seen_as_it_is():
    picture = Picture(random(1, 3, 5, 7))
    seen = working(picture)
    assert seen.rgb is picture.rgb
    assert seen.rest is None
    assert seen.back(seen.rgb) is seen.rgb


@pytest.mark.parametrize("name", PROFILES)
def test_a_wide_gamut_goes_there_and_comes_back(name):
    smooth = resize(random(1, 3, 5, 4), (30, 20)).clamp(0, 1)
    picture = Picture(smooth, icc=PROFILES[name])
    seen = working(picture)
    assert torch.allclose(seen.rgb, profile_of(picture.icc).to_srgb(picture.rgb))
    assert torch.allclose(seen.back(seen.rgb), picture.rgb, rtol=0, atol=1e-6)
    done = seen.finish(picture, resize(seen.rgb, (60, 40)).clamp(0, 1), (60, 40))
    assert done.icc == picture.icc
    plain = resize(picture.rgb, (60, 40)).clamp(0, 1)
    assert float((done.rgb - plain).abs().mean()) < 0.003


def test_colors_beyond_srgb_survive_a_model():
    green = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    picture = Picture(green, icc=PROFILES["display p3"])
    out = Upscaler(Nearest(4), device="cpu", dtype="float32")(picture)
    assert torch.allclose(out.rgb, green[..., :1, :1].expand(1, 3, 64, 64), atol=1e-5)


def test_the_model_sees_srgb():
    seen = []

    class Spy(Nearest):
        def forward(self, lr, noise, condition):
            seen.append(lr * 0.5 + 0.5)
            return super().forward(lr, noise, condition)

    picture = Picture(random(1, 3, 8, 8), icc=PROFILES["adobe rgb"])
    Upscaler(Spy(), device="cpu", dtype="float32")(picture)
    assert torch.allclose(seen[0], profile_of(picture.icc).to_srgb(picture.rgb), atol=1e-6)


def test_grey_with_a_curve_stays_grey():
    array = np.random.default_rng(0).integers(0, 65536, (9, 8), np.uint16)
    picture = dataclasses.replace(as_picture(array), icc=GREY_GAMMA)
    out = Upscaler(Nearest(), device="cpu", dtype="float32")(picture)
    assert out.grey
    assert torch.equal(out.rgb[:, 0], out.rgb[:, 1])
    assert np.abs(out.to_uint16()[..., 0].astype(int) - array)[array > 150].max() == 0


@pytest.mark.parametrize("faint", [0, 1, 3, 8, 40])
@pytest.mark.parametrize("scale", [2, 4, 2.5])
def test_no_color_bleeds_over_an_edge(faint, scale):
    """Red, opaque; around it green that is hidden or almost."""
    array = np.zeros((24, 24, 4), np.uint8)
    array[...] = (0, 255, 0, faint)
    array[6:18, 6:18] = (200, 0, 30, 255)
    out = Upscaler(Nearest(2), device="cpu", dtype="float32")(array, scale=scale)
    straight = array.astype(np.float32) / 255
    rgb = torch.from_numpy(straight[..., :3]).movedim(-1, 0)[None]
    alpha = torch.from_numpy(straight[..., 3:]).movedim(-1, 0)[None]
    reference, cover = resized_premultiplied(rgb, alpha, (out.height, out.width))
    for background in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        shown = on(background, out)
        wanted = reference + (1 - cover) * torch.tensor(background).view(1, 3, 1, 1)
        green = shown[:, 1] - wanted[:, 1]
        assert float(green.max()) < 0.04, "no more green than where colours are premultiplied"
    edge = (out.alpha > 0.25)[0, 0]
    assert float((out.rgb - reference / cover)[0, 1][edge].max()) < 0.15


def test_faint_colors_come_back_exactly():
    array = np.random.default_rng(3).integers(1, 256, (20, 20, 4), dtype=np.uint8)
    array[..., 3] = np.arange(1, 401).reshape(20, 20).clip(1, 255)
    out = Upscaler(Nearest(), device="cpu", dtype="float32")(array)
    assert np.array_equal(out.to_uint8(), array)


def test_painting_takes_the_nearest_known_color():
    rgb = random(1, 3, 6, 7)
    known = torch.zeros(6, 7, dtype=torch.bool)
    known[0, 0] = known[5, 6] = True
    out = painted(rgb, known)
    assert torch.equal(out[..., 1, 1], rgb[..., 0, 0])
    assert torch.equal(out[..., 5, 3], rgb[..., 5, 6])
    assert painted(rgb, ~known & False) is rgb
    assert painted(rgb, known | True) is rgb
