"""The compact network: shapes, what it costs, how far it sees, where time enters, and its precision."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from onestep.core.errors import UsageError
from onestep.networks.compact import Block, CompactConfig, CompactFlow, time_features
from onestep.networks.unet import time_embedding

SMALL = CompactConfig(width=8, trunk=1, head=1, time_width=8)


def network(config=SMALL, scale=2, seed=0):
    """A network whose every parameter matters (a fresh one ignores the time)."""
    torch.manual_seed(seed)
    made = CompactFlow(config, scale)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter) / math.sqrt(max(1, parameter[0].numel())))
    return made


def inputs(scale, height=6, width=7, batch=1):
    generator = torch.Generator().manual_seed(1)
    lr = torch.randn(batch, 3, height, width, generator=generator)
    lr_up = torch.nn.functional.interpolate(lr, scale_factor=scale)
    return lr_up + 0.2 * torch.randn(lr_up.shape, generator=generator), lr_up, lr


def at(t, shape=(1, 1, 1, 1)):
    return torch.full(shape, 999.0 * t)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(6, 7), (1, 1), (5, 2)])
def test_any_size_and_every_scale(scale, height, width):
    made = network(scale=scale)
    x, lr_up, lr = inputs(scale, height, width, batch=2)
    features, residual = made.prepare(x, lr_up, lr)
    assert features.shape == (2, SMALL.width, height, width)
    assert residual.shape == (2, 3 * scale**2, height, width)
    velocity = made.finish((features, residual), at(0.4))
    assert velocity.shape == x.shape
    assert velocity.dtype == torch.float32


def test_the_state_enters_as_its_folded_difference():
    x, lr_up, lr = inputs(2)
    _, residual = network().prepare(x, lr_up, lr)
    for channel, row, column in ((0, 0, 0), (1, 0, 1), (2, 1, 0)):
        expected = (x - lr_up)[0, channel, row::2, column::2]
        assert torch.equal(residual[0, channel * 4 + row * 2 + column], expected)


def test_a_fresh_network_takes_the_noise_away_and_ignores_the_time():
    """It starts near v = -(x - lr_up): right at t = 0 if HR were the upsampled LR."""
    torch.manual_seed(0)
    made = CompactFlow(CompactConfig(), 4)
    prepared = made.prepare(*inputs(4, 12, 12))
    first, second = made.finish(prepared, at(0.1)), made.finish(prepared, at(0.9))
    assert torch.equal(first, second)
    x, lr_up, _ = inputs(4, 12, 12)
    assert (first + (x - lr_up)).square().mean().sqrt() < 0.1


def test_time_features_are_cosines_then_sines():
    features = time_features(torch.tensor([500.25]).reshape(1, 1, 1, 1), 8).flatten()
    frequencies = torch.tensor([10_000 ** (-i / 4) for i in range(4)])
    angles = 500.25 * frequencies
    torch.testing.assert_close(features, torch.cat([angles.cos(), angles.sin()]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        features, time_embedding(torch.tensor([500.25]), 8).flatten(), atol=1e-4, rtol=0
    )


def test_time_is_fractional():
    """999 t is not rounded: a hundredth of a step changes the fastest feature."""
    one, other = (time_features(torch.full((1, 1, 1, 1), t), 8)[0, 0].item() for t in (100.0, 100.01))
    assert abs(one - other) > 1e-3


def test_the_time_scales_then_shifts_the_inner_features():
    """The first half of the modulation scales, the second shifts: trained weights rest on this order."""
    torch.manual_seed(0)
    block, x, time = Block(4, 6), torch.randn(1, 4, 5, 5), torch.randn(1, 6, 1, 1)
    torch.nn.init.normal_(block.modulation.weight)
    scale, shift = (block.modulation.weight.flatten(1) @ time.flatten()).reshape(2, 1, 4, 1, 1)
    inner = block.conv1(x) * (1 + scale) + shift
    torch.testing.assert_close(block(x, time), x + block.conv2(torch.nn.functional.silu(inner)))
    torch.testing.assert_close(block(x), x + block.conv2(torch.nn.functional.silu(block.conv1(x))))


def test_a_map_of_one_time_is_that_time():
    made = network()
    prepared = made.prepare(*inputs(2))
    torch.testing.assert_close(made.finish(prepared, at(0.3, (1, 1, 6, 7))), made.finish(prepared, at(0.3)))


def test_a_map_acts_where_it_differs():
    """Two halves of one map are the two times, away from the line between them."""
    made, radius = network(), 2 * SMALL.head + 1
    prepared = made.prepare(*inputs(2, 6, 20))
    chart = at(0.2, (1, 1, 6, 20))
    chart[..., 10:] = 999 * 0.8
    both, low, high = (made.finish(prepared, t) for t in (chart, at(0.2), at(0.8)))
    left, right = 2 * (10 - radius), 2 * (10 + radius)
    torch.testing.assert_close(both[..., :left], low[..., :left])
    torch.testing.assert_close(both[..., right:], high[..., right:])
    assert (both[..., left:right] - low[..., left:right]).abs().max() > 1e-3
    assert (low - high).abs().max() > 1e-2


def test_times_of_a_batch_belong_to_their_images():
    made = network()
    x, lr_up, lr = inputs(2, batch=2)
    both = made.finish(made.prepare(x, lr_up, lr), torch.tensor([100.0, 900.0]).reshape(2, 1, 1, 1))
    for i, t in enumerate((100.0, 900.0)):
        one = slice(i, i + 1)
        alone = made.finish(made.prepare(x[one], lr_up[one], lr[one]), torch.full((1, 1, 1, 1), t))
        torch.testing.assert_close(both[one], alone)


def test_how_far_it_sees():
    """Two pixels per block, one for the stem and one for the tail: what the overlap of tiles rests on."""
    made, radius = network(scale=2), 2 * (SMALL.trunk + SMALL.head) + 2
    x, lr_up, lr = inputs(2, 3, 31)

    def middle(column):
        changed = lr.clone()
        changed[..., column] += 1
        return made.finish(made.prepare(x, lr_up, changed), at(0.5))[..., 30:32]

    before = made.finish(made.prepare(x, lr_up, lr), at(0.5))[..., 30:32]
    assert torch.equal(middle(15 - radius - 1), before)
    assert torch.equal(middle(15 + radius + 1), before)
    assert not torch.equal(middle(15 - radius), before)
    assert not torch.equal(middle(15 + radius), before)


def test_the_prepared_part_is_left_as_it_was():
    made = network()
    prepared = made.prepare(*inputs(2))
    copies = [part.clone() for part in prepared]
    first = made.finish(prepared, at(0.2))
    made.finish(prepared, at(0.9))
    assert torch.equal(made.finish(prepared, at(0.2)), first)
    assert all(torch.equal(a, b) for a, b in zip(prepared, copies, strict=True))


def test_every_parameter_is_used():
    made = network()
    made.finish(made.prepare(*inputs(2)), at(0.4)).square().sum().backward()
    unused = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not unused


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_seed_builds_one_network(scale):
    one, other = network(scale=scale), network(scale=scale)
    x, lr_up, lr = inputs(scale)
    results = [made.finish(made.prepare(x, lr_up, lr), at(0.7)) for made in (one, other)]
    assert torch.equal(*results)


def multiply_adds(scale, values):
    """Multiply-adds per LR pixel of the default network for a sweep of so many values."""
    with torch.device("meta"):
        made = CompactFlow(CompactConfig(), scale)
        side = 32
        x, lr = torch.empty(1, 3, side * scale, side * scale), torch.empty(1, 3, side, side)
        with FlopCounterMode(display=False) as counter:
            prepared = made.prepare(x, x, lr)
            for _ in range(values):
                made.finish(prepared, torch.empty(1, 1, 1, 1))
    return counter.get_total_flops() / 2 / side**2


def test_it_fits_a_cpu():
    parameters = sum(p.numel() for p in CompactFlow(CompactConfig(), 4).parameters())
    assert parameters <= 8_000_000
    assert multiply_adds(4, 1) <= 2_000_000
    assert multiply_adds(4, 5) <= 2.5 * multiply_adds(4, 1)


def test_the_documented_size_is_true():
    parameters = sum(p.numel() for p in CompactFlow(CompactConfig(), 4).parameters())
    assert parameters / 1e6 == pytest.approx(1.0, abs=0.05)
    assert multiply_adds(4, 1) / 1e6 == pytest.approx(0.95, abs=0.01)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def test_bfloat16_stays_close():
    """As a module in bfloat16 and under autocast; the result and the path of the residual stay float32."""
    made = network(CompactConfig(width=16, trunk=2, head=2, time_width=16), scale=4)
    x, lr_up, lr = inputs(4, 10, 10)
    exact = made.finish(made.prepare(x, lr_up, lr), at(0.8))
    with torch.autocast("cpu", torch.bfloat16):
        cast = made.finish(made.prepare(x, lr_up, lr), at(0.8))
    made.bfloat16()
    halved = made.finish(made.prepare(x, lr_up, lr), at(0.8))
    for found in (cast, halved):
        assert found.dtype == torch.float32
        assert 0 < relative(found, exact) < 0.015


@pytest.mark.parametrize(
    "settings", [{"width": 0}, {"trunk": -1}, {"head": 0}, {"time_width": 0}, {"time_width": 7}]
)
def test_sizes_that_are_no_network_are_refused(settings):
    (name,) = settings
    with pytest.raises(UsageError, match=rf"network\.{name}="):
        CompactConfig(**settings)
