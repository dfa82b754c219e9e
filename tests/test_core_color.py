import pytest
import torch
from torch.nn import functional as F

from onestep.core import color
from onestep.core.color import adain, color_fix, low_pass, wavelet


def _image(seed, *shape, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator) * (high - low) + low


def _blurred(image, radius):
    """One level as published: a depthwise 3 x 3 kernel, dilated, with replicated borders."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=image.dtype) / 16
    channels = image.shape[1]
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, 3, 3), groups=channels, dilation=radius)


def _bands(image):
    """(sum of the five high bands, low band), as published."""
    high = torch.zeros_like(image)
    for level in range(5):
        low = _blurred(image, 2**level)
        high += image - low
        image = low
    return high, image


@pytest.mark.parametrize("size", [(40, 56), (1, 1), (3, 90), (200, 6), (131, 4)])
def test_wavelet_is_the_published_sum_of_bands(size, monkeypatch):
    monkeypatch.setattr(color, "_STRIP_PIXELS", 400)  # several strips of rows
    image, reference = _image(0, 2, 3, *size).double(), _image(1, 2, 3, *size).double()
    expected = (_bands(image)[0] + _bands(reference)[1]).clamp(0, 1)
    assert torch.allclose(wavelet(image, reference), expected, rtol=0, atol=1e-12)
    single = wavelet(image.float(), reference.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single, expected.float(), rtol=0, atol=1e-6)


def test_low_pass_is_five_dilated_blurs():
    image = _image(2, 1, 2, 30, 41).double()
    assert torch.allclose(low_pass(image), _bands(image)[1], rtol=0, atol=1e-12)
    impulse = torch.zeros(1, 1, 101, 101, dtype=torch.float64)
    impulse[..., 50, 50] = 1
    spread = low_pass(impulse)
    assert float(spread.sum()) == pytest.approx(1)
    assert torch.equal(spread, spread.mT)
    assert float(spread[..., 50, 19]) > 0
    assert float(spread[..., 50, :19].abs().max()) == 0


def test_wavelet_gives_the_low_band_of_the_reference():
    detail = 0.1 * (_image(3, 1, 3, 128, 128) - 0.5)
    slope = torch.linspace(0.3, 0.6, 128).expand(1, 3, 128, 128)
    image, reference = 0.5 + detail, slope
    out = wavelet(image, reference)
    inner = (..., slice(40, 88), slice(40, 88))
    before = (low_pass(image) - low_pass(reference))[inner].abs().mean()
    after = (low_pass(out) - low_pass(reference))[inner].abs().mean()
    assert float(before) > 0.02
    assert float(after) < 0.002
    assert torch.allclose(out - low_pass(out), image - low_pass(image), rtol=0, atol=0.02), "details are kept"


def test_wavelet_takes_back_a_cast_exactly():
    image = _image(4, 1, 3, 50, 60, low=0.2, high=0.6)
    cast = image + torch.tensor([0.1, -0.15, 0.3]).view(1, 3, 1, 1)
    assert torch.allclose(wavelet(cast, image), image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_an_image_is_the_fixed_point_of_itself(kind):
    image = _image(5, 2, 3, 33, 47)
    assert torch.allclose(color_fix(kind, image, image.clone()), image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_values_out_of_range_are_clamped_and_inputs_kept(kind):
    image, reference = _image(6, 1, 3, 24, 24, low=-2.0, high=3.0), _image(7, 1, 3, 24, 24)
    kept = image.clone(), reference.clone()
    out = color_fix(kind, image, reference)
    assert 0 <= float(out.min()) < 0.1
    assert 0.9 < float(out.max()) <= 1
    assert torch.equal(image, kept[0])
    assert torch.equal(reference, kept[1])


def test_adain_follows_its_formula():
    image = _image(8, 2, 3, 31, 29, low=0.1, high=0.5)
    reference = _image(9, 2, 3, 31, 29, low=0.35, high=0.7)
    expected = torch.empty_like(image)
    for b in range(2):
        for c in range(3):
            y, x = image[b, c].double(), reference[b, c].double()
            std_y, std_x = (y.var() + 1e-5).sqrt(), (x.var() + 1e-5).sqrt()
            expected[b, c] = ((y - y.mean()) / std_y * std_x + x.mean()).float()
    assert float(expected.min()) > 0
    assert float(expected.max()) < 1
    assert torch.allclose(adain(image, reference), expected, rtol=0, atol=1e-6)


def test_adain_gives_the_moments_of_the_reference_whatever_its_size():
    image = _image(10, 1, 3, 64, 64, low=0.1, high=0.5)
    reference = _image(11, 1, 3, 16, 16, low=0.3, high=0.7)
    out = adain(image, reference)
    assert torch.allclose(out.mean((-2, -1)), reference.mean((-2, -1)), rtol=0, atol=1e-6)
    assert torch.allclose(out.std((-2, -1)), reference.std((-2, -1)), rtol=2e-3, atol=0)
    assert not torch.allclose(image.std((-2, -1)), reference.std((-2, -1)), rtol=5e-3, atol=0)


def test_adain_of_flat_images_is_the_mean_of_the_reference():
    flat, reference = torch.full((1, 3, 8, 8), 0.7), _image(12, 1, 3, 8, 8)
    assert torch.allclose(adain(flat, reference), reference.mean((-2, -1), keepdim=True), rtol=0, atol=1e-5)
    pixel = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    assert torch.allclose(adain(torch.full((1, 3, 1, 1), 0.9), pixel), pixel, rtol=0, atol=1e-6)


def test_none_changes_nothing_and_shapes_must_agree():
    image = _image(13, 1, 3, 4, 4)
    assert color_fix("none", image, image + 1) is image
    with pytest.raises(ValueError, match="differ in shape"):
        wavelet(image, image[..., :3])
