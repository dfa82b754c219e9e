import pytest
import torch
from torch import nn

from onestep.core.ema import Ema


def test_the_ramp_follows_its_formula():
    parameter = nn.Parameter(torch.tensor([1.0]))
    ema = Ema([parameter], 0.5)
    expected = 1.0
    for n in range(12):
        with torch.no_grad():
            parameter.fill_(float(n))
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
        assert float(ema.shadow[0]) == pytest.approx(expected, rel=1e-6)
    assert ema.updates == 12


def test_applied_swaps_and_gives_back_even_after_an_error():
    layer = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)
    ema = Ema(list(layer.parameters()), 0.9)
    averages = [shadow.clone() for shadow in ema.shadow]
    with torch.no_grad():
        layer.weight.add_(1)
    live = layer.weight.detach().clone()
    with ema.applied():
        assert torch.equal(layer.weight, averages[0])
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer.weight, live)
    with pytest.raises(ZeroDivisionError), ema.applied():
        _ = 1 / 0
    assert torch.equal(layer.weight, live)
    assert torch.equal(ema.shadow[0], averages[0])
    assert layer.weight.requires_grad


def test_a_restored_average_goes_on_as_before():
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ema, again = Ema([first], 0.99), Ema([second], 0.99)
    for _ in range(3):
        with torch.no_grad():
            first.add_(1)
        ema.update()
    with torch.no_grad():
        second.copy_(first)
    state = ema.state()
    again.restore(state["updates"], state["shadow"])
    for one, parameter in ((ema, first), (again, second)):
        with torch.no_grad():
            parameter.mul_(2)
        one.update()
    assert torch.equal(ema.shadow[0], again.shadow[0])
