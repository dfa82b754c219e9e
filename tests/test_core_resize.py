import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from onestep.core.resize import resize

SIZES = [
    ((12, 12), (48, 48)),
    ((48, 40), (12, 10)),
    ((17, 23), (9, 31)),
    ((16, 16), (16, 16)),
    ((5, 7), (1, 3)),
    ((4, 1), (5, 1)),
    ((9, 3), (12, 1)),
]
PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


def _image(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("convention", "antialias", "peak"),
    [("torch", True, 0.9290), ("torch", False, 0.9356), ("pillow", True, 0.9290), ("matlab", True, 0.9290)],
)
def test_the_peak_of_an_impulse_tells_the_kernel(convention, antialias, peak):
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[..., 4, 4] = 1
    up = resize(impulse, (36, 36), "bicubic", antialias, convention)
    assert float(up.max()) == pytest.approx(peak, abs=5e-5)


@pytest.mark.parametrize("kernel", PILLOW)
@pytest.mark.parametrize(("size", "target"), SIZES)
def test_pillow_is_pillow(kernel, size, target):
    image = _image(0, 2, 3, *size)
    out = resize(image, target, kernel, convention="pillow")
    assert out.shape == (2, 3, *target)
    for b, c in itertools.product(range(2), range(3)):
        plane = Image.fromarray(image[b, c].numpy()).resize((target[1], target[0]), PILLOW[kernel])
        assert np.allclose(out[b, c].numpy(), np.asarray(plane), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
def test_torch_is_interpolate(kernel, antialias):
    image = _image(1, 1, 3, 20, 26)
    for size in ((5, 7), (80, 104)):
        expected = torch.nn.functional.interpolate(
            image, size, mode=kernel, align_corners=False, antialias=antialias
        )
        assert torch.equal(resize(image, size, kernel, antialias), expected)


def test_torch_lanczos_is_that_of_pillow():
    image = _image(2, 1, 3, 20, 26)
    assert torch.equal(resize(image, (7, 40), "lanczos"), resize(image, (7, 40), "lanczos", True, "pillow"))


def test_nearest_takes_the_pixel_under_the_centre():
    image = torch.arange(6.0).reshape(1, 1, 1, 6)
    for convention in ("torch", "pillow", "matlab"):
        down = resize(image, (1, 2), "nearest", convention=convention)
        assert down.flatten().tolist() == [1, 4]
        up = resize(image, (1, 12), "nearest", convention=convention)
        assert torch.equal(up, image.repeat_interleave(2, -1))


@pytest.mark.parametrize("convention", ["torch", "pillow", "matlab"])
def test_area_averages(convention):
    image = _image(3, 1, 2, 8, 12)
    expected = image.unflatten(-1, (3, 4)).mean(-1).unflatten(-2, (2, 4)).mean(-2)
    out = resize(image, (2, 3), "area", convention=convention)
    assert torch.allclose(out, expected, rtol=0, atol=1e-6)


def _keys(x):
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def _matlab_row(row, target, antialias):
    """``imresize`` of one row, sample by sample."""
    length = len(row)
    scale = target / length
    wide = 1 / scale if antialias and scale < 1 else 1
    out = []
    for i in range(target):
        centre = (i + 0.5) / scale - 0.5
        taps = range(int(np.floor(centre - 2 * wide)), int(np.ceil(centre + 2 * wide)) + 1)
        weights = [_keys((centre - k) / wide) for k in taps]
        mirrored = [*row, *row[::-1]]
        values = [mirrored[k % (2 * length)] for k in taps]
        out.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return out


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("length", "target"), [(16, 4), (10, 40), (11, 7), (7, 9), (3, 2), (40, 3)])
def test_matlab_along_a_row(length, target, antialias):
    row = _image(4, length).double().tolist()
    expected = torch.tensor(_matlab_row(row, target, antialias), dtype=torch.float32)
    image = torch.tensor(row, dtype=torch.float32)
    across = resize(image.view(1, 1, 1, -1), (1, target), "bicubic", antialias, "matlab")
    down = resize(image.view(1, 1, -1, 1), (target, 1), "bicubic", antialias, "matlab")
    assert torch.allclose(across.flatten(), expected, rtol=0, atol=2e-6)
    assert torch.equal(across.flatten(), down.flatten())


def test_matlab_halving_by_hand():
    # Outputs lie at 0.5, 2.5, 4.5 ...: pixel 7 is 5/4, 1/4, 3/4 and 7/4 stretched pixels from four of them.
    image = torch.zeros(1, 1, 1, 16)
    image[..., 7] = 1
    out = resize(image, (1, 8), "bicubic", convention="matlab").flatten()
    assert _keys(0.25) == pytest.approx(111 / 128)
    expected = [0, 0, *(_keys(x) / 2 for x in (1.25, 0.25, 0.75, 1.75)), 0, 0]
    assert out.tolist() == pytest.approx(expected, abs=1e-7)


def test_matlab_mirrors_the_border_where_torch_renormalises():
    ramp = torch.arange(8.0).view(1, 1, 1, 8) / 8
    matlab, torch_ = (resize(ramp, (1, 2), "bicubic", True, name) for name in ("matlab", "torch"))
    assert not torch.allclose(matlab, torch_, atol=1e-3)
    middle = (..., slice(5, 11))
    matlab, torch_ = (resize(ramp.repeat(1, 1, 1, 8), (1, 16), convention=c) for c in ("matlab", "torch"))
    assert torch.allclose(matlab[middle], torch_[middle], rtol=0, atol=1e-6)


@pytest.mark.parametrize("convention", ["torch", "pillow", "matlab"])
@pytest.mark.parametrize("kernel", PILLOW)
def test_a_flat_image_stays_flat(kernel, convention):
    flat = torch.full((1, 1, 13, 9), 0.37)
    for size in ((4, 5), (29, 31)):
        assert torch.allclose(
            resize(flat, size, kernel, convention=convention), torch.tensor(0.37), atol=1e-6
        )


def test_values_are_not_clamped_and_the_input_is_kept():
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1
    kept = step.clone()
    for convention in ("torch", "pillow", "matlab"):
        up = resize(step, (32, 32), convention=convention)
        assert float(up.min()) < -0.01
        assert float(up.max()) > 1.01
    assert torch.equal(step, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_type_is_kept(dtype):
    image = _image(5, 1, 3, 8, 8).to(dtype)
    for convention in ("torch", "matlab"):
        assert resize(image, (16, 16), convention=convention).dtype == dtype


def test_gradients_pass_through_matlab_and_torch():
    for convention in ("torch", "matlab"):
        image = _image(6, 1, 1, 6, 6).requires_grad_()
        resize(image, (3, 3), convention=convention).sum().backward()
        # Columns of weights that sum to one in every output: nine outputs in all.
        assert float(image.grad.sum()) == pytest.approx(9, abs=1e-5)


def test_what_cannot_be_done_is_refused():
    image = _image(7, 1, 1, 4, 4)
    with pytest.raises(ValueError, match="positive"):
        resize(image, (0, 4))
    with pytest.raises(ValueError, match="always antialiases"):
        resize(image, (2, 2), "bicubic", antialias=False, convention="pillow")
    with pytest.raises(ValueError, match="always antialiases"):
        resize(image, (2, 2), "lanczos", antialias=False)
