"""The nearest image whose downscaling is the input."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icc import PROFILES
from onestep import Upscaler
from onestep.core import consistent as module
from onestep.core.consistent import DOWNSCALES, Axis, consistent, downscaled
from onestep.core.errors import UsageError
from onestep.core.picture import Picture, as_picture
from onestep.core.resize import resize
from onestep.plan import Settings
from pictures import Nearest

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def dense(axis, length):
    """The matrix of an axis."""
    return axis.down(torch.eye(length, dtype=torch.float64))


def pillow(plane, size, kernel):
    """Pillow's own downscaling of (H, W) in floating point."""
    return np.asarray(Image.fromarray(plane.numpy()).resize((size[1], size[0]), FILTERS[kernel]))


@pytest.mark.parametrize("kernel", DOWNSCALES)
@pytest.mark.parametrize("size", [(15, 20), (11, 17), (60, 80), (1, 1), (40, 33)])
def test_the_downscaling_is_that_of_pillow(kernel, size):
    image = random(1, 2, 60, 80)
    out = downscaled(image, size, kernel)
    for plane, source in zip(out[0], image[0], strict=True):
        assert np.abs(plane.numpy() - pillow(source, size, kernel)).max() < 2e-6


@given(
    st.integers(1, 60), st.floats(1, 16), st.sampled_from(DOWNSCALES), st.integers(0, 30), st.integers(1, 60)
)
@settings(max_examples=40, deadline=None)
def test_an_axis_is_a_matrix_with_its_transpose_and_its_inverse(target, scale, kernel, top, count):
    length = max(round(scale * target), target)
    whole = dense(Axis(length, target, kernel), length)
    top = min(top, target - 1)
    bottom = min(top + count, target)
    axis = Axis(length, target, kernel, top, bottom)
    matrix = whole[top:bottom, axis.start : axis.end]
    assert float(whole[top:bottom].abs().sum() - matrix.abs().sum()) < 1e-9, "the rest is zero"
    x, y = random(axis.end - axis.start, 3).double(), random(bottom - top, 3).double()
    assert torch.allclose(axis.down(x), matrix @ x)
    assert torch.allclose(axis.back(y), matrix.T @ y)
    assert torch.allclose(matrix @ matrix.T @ axis.solve(y), y, atol=1e-8)


def test_without_a_limit_it_is_the_nearest_solution():
    image, lr = 0.4 + 0.2 * random(1, 1, 24, 36), 0.45 + 0.1 * random(1, 1, 8, 9, seed=1)
    out = consistent(image, lr).double()
    rows, columns = dense(Axis(24, 8, "bicubic"), 24), dense(Axis(36, 9, "bicubic"), 36)
    whole = torch.kron(rows, columns)
    missing = (lr.double() - downscaled(image.double(), (8, 9))).flatten()
    expected = image.double().flatten() + torch.linalg.pinv(whole) @ missing
    assert float(expected.min()) > 0
    assert float(expected.max()) < 1
    assert torch.allclose(out.flatten(), expected, atol=1e-5)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 1.3, 2, 2.5, 4]),
    st.sampled_from(DOWNSCALES),
    st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_what_was_downscaled_is_met_within_half_a_level(height, width, scale, kernel, seed):
    """Of an image in [0, 1] there is always a solution in [0, 1]: itself."""
    size = (round(scale * height), round(scale * width))
    truth = resize(random(1, 3, max(size[0] // 3, 1), max(size[1] // 3, 1), seed=seed), size).clamp(0, 1)
    lr = downscaled(truth, (height, width), kernel)
    if not (float(lr.min()) >= 0 and float(lr.max()) <= 1):
        lr = lr.clamp(0, 1)
        return
    out = consistent(resize(lr, size).clamp(0, 1), lr, kernel)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert float((downscaled(out, (height, width), kernel) - lr).abs().max()) < 0.5 / 255


def test_strips_do_not_show(monkeypatch):
    truth = resize(random(1, 1, 60, 20), (400, 120)).clamp(0, 1)
    lr = downscaled(truth, (100, 30)).clamp(0, 1)
    image = resize(lr, (400, 120)).clamp(0, 1)
    whole = consistent(image, lr)
    monkeypatch.setattr(module, "_STRIP", 30)
    monkeypatch.setattr(module, "_MARGIN", 24)
    strips = consistent(image, lr)
    assert not torch.equal(strips, whole)
    assert float((downscaled(strips, (100, 30)) - lr).abs().max()) < 0.5 / 255
    steps = (strips - whole).diff(dim=-2).abs().mean(dim=(1, 3))[0]
    assert float(steps.max()) < 0.2 / 255


def test_an_image_that_fits_is_left_alone():
    image = random(1, 3, 40, 40)
    lr = downscaled(image, (10, 10))
    assert torch.equal(consistent(image, lr), image)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 2.5])
@pytest.mark.parametrize("bits", [8, 16])
def test_any_model_is_made_consistent_within_the_bound_that_is_reported(scale, bits):
    array = np.random.default_rng(0).integers(40, 216, (17, 23, 3)).astype(np.uint8)
    source = as_picture(array if bits == 8 else array.astype(np.uint16) * 257)
    up = Upscaler(Nearest(2, tile=16), device="cpu", dtype="float32")
    (out,), plan = up.run(source, Settings(scale=scale, consistent=True), [{}])
    stored = (out.to_uint8() / 255 if bits == 8 else out.to_uint16() / 65535).astype(np.float32)
    again = [
        pillow(torch.from_numpy(plane.copy()), (17, 23), "bicubic") for plane in np.moveaxis(stored, -1, 0)
    ]
    difference = np.abs(np.stack(again) - source.rgb[0].numpy()).max()
    assert difference == pytest.approx(plan.difference, abs=1e-5)
    assert plan.difference < (0.7 / 255 if bits == 8 else 0.3 / 255)
    plain, report = up.run(source, Settings(scale=scale), [{}])
    assert report.difference is None
    if scale == 4:
        assert float((downscaled(plain[0].rgb, (17, 23)) - source.rgb).abs().max()) > 2 / 255


@pytest.mark.parametrize("kind", ["grey", "alpha", "profile"])
def test_pictures_of_every_kind(kind):
    rgb = 0.2 + 0.6 * random(1, 3, 20, 24)
    picture = Picture(rgb)
    if kind == "grey":
        picture = Picture(rgb[:, :1].expand(1, 3, -1, -1), grey=True)
    elif kind == "alpha":
        picture = dataclasses.replace(picture, alpha=random(1, 1, 20, 24))
    else:
        picture = dataclasses.replace(picture, icc=PROFILES["adobe rgb"])
    up = Upscaler(Nearest(4), device="cpu", dtype="float32")
    (out,), plan = up.run(picture, Settings(consistent=True, downscale="area"), [{}])
    assert plan.difference < 0.7 / 255
    assert (out.grey, out.icc, out.alpha is None) == (picture.grey, picture.icc, picture.alpha is None)
    assert float((downscaled(out.rgb, (20, 24), "area") - picture.rgb).abs().max()) < 0.7 / 255


def test_an_unknown_downscaling_is_refused():
    with pytest.raises(UsageError, match="--downscale 'box' means nothing; choose bicubic"):
        Settings(downscale="box")


def test_what_it_takes_is_in_the_plan():
    up = Upscaler(Nearest(4), device="cpu")
    plain, moved = (up.plan(50, 40, Settings(consistent=flag), layers=False).memory for flag in (False, True))
    assert moved - plain == 2 * 200 * 160 * 12
