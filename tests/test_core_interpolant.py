"""The path between a clean image and its source: there and back, both ends, times as numbers and as maps."""

import pytest
import torch

from onestep.core.interpolant import Straight, like, source_vp

LINE = Straight()


@pytest.fixture
def ends() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4)


def test_like_appends_axes_to_a_time_and_keeps_a_map(ends):
    x, _ = ends
    assert like(torch.arange(3.0), x).shape == (3, 1, 1, 1)
    assert like(torch.arange(3.0), x[:, 0, 0]).flatten().tolist() == [0, 1, 2]
    chart = torch.rand(3, 1, 5, 4)
    assert like(chart, x) is chart


def test_the_ends_are_the_clean_image_and_the_source(ends):
    x, z = ends
    assert torch.equal(LINE.at(x, z, torch.zeros(3)), x)
    assert torch.equal(LINE.at(x, z, torch.ones(3)), z)


def test_every_image_is_at_its_own_time(ends):
    x, z = ends
    x_t = LINE.at(x, z, torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(x_t[0], x[0])
    torch.testing.assert_close(x_t[1], 0.75 * x[1] + 0.25 * z[1])
    assert torch.equal(x_t[2], z[2])


@pytest.mark.parametrize(
    "time",
    [torch.tensor([0.0, 0.3, 1.0]), torch.linspace(0, 1, 60).reshape(3, 1, 5, 4)],
    ids=["times", "map"],
)
def test_there_and_back(ends, time):
    """The true velocity z - x leads from anywhere on the line to its clean end."""
    x, z = ends
    torch.testing.assert_close(LINE.clean(LINE.at(x, z, time), z - x, time), x, atol=1e-6, rtol=0)


def test_a_map_acts_pixel_by_pixel(ends):
    x, z = ends
    chart = torch.zeros(3, 1, 5, 4)
    chart[..., 2:] = 1
    x_t = LINE.at(x, z, chart)
    assert torch.equal(x_t, torch.cat([x[..., :2], z[..., 2:]], -1))


def test_the_velocity_is_the_derivative_in_time(ends):
    x, z = (end.double() for end in ends)
    t = torch.full((3,), 0.4, dtype=torch.float64, requires_grad=True)
    _, derivative = torch.autograd.functional.jvp(lambda time: LINE.at(x, z, time), t, torch.ones_like(t))
    torch.testing.assert_close(derivative, z - x)


def test_the_prediction_error_is_weighted_by_time(ends):
    x, z = ends
    t = torch.tensor([0.1, 0.5, 1.0])
    wrong = LINE.clean(LINE.at(x, z, t), z - x + 1, t)
    torch.testing.assert_close(wrong, x - like(t, x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_the_source_keeps_variance_and_leaves_the_condition_alone(sigma):
    torch.manual_seed(0)
    lr_up, noise = torch.randn(1, 3, 256, 256), torch.randn(1, 3, 256, 256)
    before = lr_up.clone()
    source = source_vp(lr_up, noise, sigma)
    assert torch.equal(lr_up, before)
    assert source.var().item() == pytest.approx(1, abs=0.02)
    assert (source * noise).mean().item() == pytest.approx(sigma, abs=0.02)
    assert (source * lr_up).mean().item() == pytest.approx((1 - sigma**2) ** 0.5, abs=0.02)


def test_the_source_is_the_image_without_noise_and_the_noise_alone():
    lr_up, noise = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    assert torch.equal(source_vp(lr_up, noise, 0.0), lr_up)
    assert torch.equal(source_vp(lr_up, noise, 1.0), noise)
