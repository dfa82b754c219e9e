import numpy as np
import pytest
import torch

from onestep.core.errors import UsageError
from onestep.core.noise import BLOCK, NoiseCanvas


@pytest.mark.parametrize(
    ("top", "left", "height", "width"),
    [
        (0, 0, 1, 1),
        (3, 250, 40, 12),
        (250, 3, 12, 300),
        (200, 200, 300, 120),
        (255, 511, 2, 2),
        (512, 0, 5, 5),
    ],
)
def test_a_window_cuts_the_one_field(top, left, height, width):
    whole = NoiseCanvas(7, 2).window(0, 0, 520, 520)
    part = NoiseCanvas(7, 2).window(top, left, height, width)
    assert part.shape == (1, 2, height, width)
    assert part.dtype == torch.float32
    expected = NoiseCanvas(7, 2).window(0, 0, top + height, left + width)[..., top:, left:]
    assert torch.equal(part, expected)
    assert torch.equal(whole[..., top : top + height, left : left + width], part)


def test_windows_do_not_depend_on_what_was_drawn_before():
    canvas = NoiseCanvas(1, 1)
    first = canvas.window(0, 0, 8, 8)
    canvas.window(900, 20, 30, 30)
    first_again = canvas.window(0, 0, 8, 8)
    assert torch.equal(first, first_again)
    first_again.zero_()
    assert torch.equal(canvas.window(0, 0, 8, 8), first), "a caller must not be able to change the canvas"


def test_the_cache_of_blocks_may_overflow():
    canvas = NoiseCanvas(1, 1)
    corner = canvas.window(0, 0, 4, 4)
    canvas.window(0, 0, 1, 40 * BLOCK)
    assert torch.equal(canvas.window(0, 0, 4, 4), corner)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (1, 0), (2, 3)])
def test_a_block_comes_from_its_own_key(row, column):
    key = np.random.SeedSequence(5, spawn_key=(row, column))
    block = np.random.Generator(np.random.PCG64(key)).standard_normal((3, 256, 256), dtype=np.float32)
    window = NoiseCanvas(5, 3).window(row * 256, column * 256, 256, 256)
    assert torch.equal(window, torch.from_numpy(block)[None])


def test_blocks_and_seeds_are_unrelated():
    canvas = NoiseCanvas(0, 1)
    fields = [canvas.window(row * 256, column * 256, 256, 256) for row in (0, 1) for column in (0, 1)]
    fields += [NoiseCanvas(seed, 1).window(0, 0, 256, 256) for seed in (1, 2, 2**40)]
    flat = torch.stack(fields).flatten(1)
    correlation = torch.corrcoef(flat).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 5 / 256  # five standard deviations of chance


def test_the_moments_are_those_of_the_standard_normal():
    noise = NoiseCanvas(3, 3).window(100, 100, 400, 400).double()
    deviation = noise.numel() ** -0.5
    assert abs(float(noise.mean())) < 4 * deviation
    assert float(noise.square().mean()) == pytest.approx(1, abs=4 * 2**0.5 * deviation)
    assert abs(float(noise.pow(3).mean())) < 4 * 15**0.5 * deviation
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=4 * 96**0.5 * deviation)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean()
    assert abs(float(neighbours)) < 4 * deviation


def test_golden_values():
    noise = NoiseCanvas(0, 1).window(255, 255, 2, 2).flatten()
    expected = torch.tensor([0.4823491, 0.6859741, -0.4452868, 0.4141626])
    assert torch.allclose(noise, expected, rtol=0, atol=1e-6)


def test_a_model_without_noise_gets_no_channels():
    assert NoiseCanvas(0, 0).window(10, 20, 3, 4).shape == (1, 0, 3, 4)


@pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 0, 2), (0, 0, 2, -2)])
def test_windows_outside_of_the_canvas_are_refused(window):
    with pytest.raises(ValueError, match="no such window"):
        NoiseCanvas(0, 1).window(*window)


def test_negative_seeds_and_channels_are_refused():
    with pytest.raises(UsageError, match="seed -1 is negative"):
        NoiseCanvas(-1, 3)
    with pytest.raises(ValueError, match="channels"):
        NoiseCanvas(0, -1)
