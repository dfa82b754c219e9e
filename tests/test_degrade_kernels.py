import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from onestep.core.errors import UsageError
from onestep.degrade import kernels


def draws():
    yield kernels.gaussian(21, 1.7)
    yield kernels.gaussian(7, 0.2, 3.0, 1.1)
    yield kernels.generalized(13, 1.2, 2.4, -0.7, beta=0.5)
    yield kernels.generalized(13, 1.2, beta=4.0)
    yield kernels.plateau(9, 0.9, 1.4, 2.9, beta=1.5)
    yield kernels.sinc(21, math.pi / 3)
    yield kernels.sinc(3, math.pi)


def test_kernels_sum_to_one_and_are_point_symmetric():
    for kernel in draws():
        assert kernel.dtype == torch.float32
        assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
        assert torch.allclose(kernel, kernel.flip(0, 1), atol=1e-7)


def test_isotropic_kernels_do_not_change_when_turned_by_a_quarter():
    pairs = [
        kernels.gaussian(11, 1.3, angle=0.4),
        kernels.generalized(11, 1.3, angle=0.4, beta=2.0),
        kernels.plateau(11, 1.3, angle=0.4, beta=2.0),
        kernels.sinc(11, 2.0),
    ]
    for kernel in pairs:
        assert torch.allclose(kernel, kernel.rot90(), atol=1e-7)


def test_gaussian_has_the_covariance_asked_for():
    sigma_x, sigma_y, angle = 1.5, 3.0, 0.6
    kernel = kernels.gaussian(41, sigma_x, sigma_y, angle).double()
    axis = torch.arange(41, dtype=torch.float64) - 20
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    assert (kernel * x * x).sum().item() == pytest.approx(
        (cos * sigma_x) ** 2 + (sin * sigma_y) ** 2, rel=1e-4
    )
    assert (kernel * y * y).sum().item() == pytest.approx(
        (sin * sigma_x) ** 2 + (cos * sigma_y) ** 2, rel=1e-4
    )
    assert (kernel * x * y).sum().item() == pytest.approx(cos * sin * (sigma_x**2 - sigma_y**2), rel=1e-4)


def test_ratios_follow_the_formulas():
    sigma, beta = 1.4, 1.7
    q = (2 / sigma) ** 2 + (3 / sigma) ** 2
    centre, off = (5, 5), (5 + 3, 5 + 2)

    def ratio(kernel):
        return (kernel[off] / kernel[centre]).item()

    assert ratio(kernels.gaussian(11, sigma)) == pytest.approx(math.exp(-q / 2), rel=1e-5)
    assert ratio(kernels.generalized(11, sigma, beta=beta)) == pytest.approx(
        math.exp(-(q**beta) / 2), rel=1e-5
    )
    assert ratio(kernels.plateau(11, sigma, beta=beta)) == pytest.approx(1 / (1 + q**beta), rel=1e-5)


def test_generalized_with_beta_one_is_gaussian():
    assert torch.equal(kernels.generalized(9, 1.1, 2.0, 0.3, beta=1.0), kernels.gaussian(9, 1.1, 2.0, 0.3))


def test_sinc_is_the_inverse_transform_of_a_disc():
    cutoff = 1.9
    step = cutoff / 400
    axis = (np.arange(-400, 400) + 0.5) * step
    u, v = np.meshgrid(axis, axis)
    inside = u**2 + v**2 <= cutoff**2

    def value(x, y):
        return np.cos(u * x + v * y)[inside].sum() * step**2 / (4 * math.pi**2)

    kernel = kernels.sinc(9, cutoff)
    total = kernel[4, 4].item() / value(0, 0)
    assert value(0, 0) == pytest.approx(cutoff**2 / (4 * math.pi), rel=1e-3)
    for x, y in ((1, 0), (2, 1), (4, 3)):
        assert kernel[4 + y, 4 + x].item() == pytest.approx(total * value(x, y), abs=2e-5)


def test_zero_pad_centres_and_changes_no_result(generator):
    kernel = kernels.gaussian(7, 1.0)
    padded = kernels.zero_pad(kernel, 21)
    assert padded.shape == (21, 21)
    assert torch.equal(padded[7:14, 7:14], kernel)
    image = torch.rand(3, 30, 25, generator=generator)
    assert torch.allclose(kernels.convolve(image, padded), kernels.convolve(image, kernel), atol=1e-6)


@pytest.mark.parametrize("size", [5, 20])
def test_zero_pad_refuses_a_size_that_does_not_fit(size):
    with pytest.raises(UsageError, match="cannot be centred"):
        kernels.zero_pad(kernels.gaussian(7, 1.0), size)


def test_impossible_parameters_are_refused():
    with pytest.raises(UsageError, match="odd"):
        kernels.gaussian(8, 1.0)
    with pytest.raises(UsageError, match="odd"):
        kernels.sinc(0, 1.0)
    with pytest.raises(UsageError, match="positive"):
        kernels.plateau(7, 0.0, beta=1.0)


@pytest.mark.parametrize("side", [3, 7, 13, 21])
def test_convolve_equals_direct_convolution_with_reflected_border(generator, side):
    image = torch.rand(3, 40, 31, generator=generator)
    kernel = kernels.gaussian(side, 0.8, 2.1, 0.5)
    reach = side // 2
    padded = functional.pad(image[:, None], (reach,) * 4, mode="reflect")
    direct = functional.conv2d(padded, kernel[None, None])[:, 0]
    assert torch.allclose(kernels.convolve(image, kernel), direct, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (9, 4)])
def test_convolve_reflects_again_and_again_on_pictures_smaller_than_the_kernel(generator, size):
    image = torch.rand(3, *size, generator=generator)
    kernel = kernels.gaussian(21, 2.0, 4.0, 0.3)
    expected = np.stack(
        [ndimage.convolve(plane.double().numpy(), kernel.numpy(), mode="mirror") for plane in image]
    )
    assert np.allclose(kernels.convolve(image, kernel).numpy(), expected, atol=2e-6)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
