import numpy as np
import pytest
import torch
from PIL import Image

from onestep import metrics
from onestep.core.errors import InputError
from onestep.core.resize import resize
from seeded import picture


def small(image: torch.Tensor, side: int) -> torch.Tensor:
    reduced = resize(image, (side, side), "bicubic", convention="matlab").clamp(0, 1)
    return (reduced * 255).round() / 255


@pytest.mark.parametrize("side", [16, 24])
def test_the_true_image_of_a_reduced_one_scores_highest(side: int):
    hr = picture(64)
    assert metrics.make("lr-consistency")(hr, small(hr, side)).item() == pytest.approx(80.0, abs=1e-6)


def test_an_offset_is_the_closed_form():
    """Flat images: what is left after reducing is the offset, 26 levels of 255."""
    sr, lr = torch.full((2, 3, 40, 40), 0.2), torch.full((2, 3, 10, 10), 0.2 + 26 / 255)
    wanted = -10 * torch.log10(torch.tensor((26 / 255) ** 2 + 1e-8)).item()
    assert metrics.make("lr-consistency")(sr, lr).tolist() == pytest.approx([wanted] * 2, abs=1e-4)


def test_detail_that_the_input_cannot_show_is_free_and_a_moved_picture_is_not():
    hr = picture(64)
    lr = small(hr, 16)
    checks = torch.ones(64, 64)
    checks[::2, ::2] = checks[1::2, 1::2] = -1
    score = metrics.make("lr-consistency")
    assert score((hr * 0.9 + 0.05 + checks * 0.04).clamp(0, 1), lr * 0.9 + 0.05).item() > 45
    assert score(hr.roll(3, dims=-1), lr).item() < 30


def test_it_agrees_with_pillow_away_from_borders():
    """An independent reduction: Pillow's bicubic kernel is MATLAB's, but for the border."""
    plane = (picture(64)[0, 0] * 255).round().byte().numpy()
    theirs = Image.fromarray(plane).resize((16, 16), Image.Resampling.BICUBIC)
    lr = torch.from_numpy(np.array(theirs)).expand(1, 3, 16, 16) / 255
    sr = torch.from_numpy(plane.copy()).expand(1, 3, 64, 64) / 255
    assert metrics.make("lr-consistency")(sr, lr).item() > 38


@pytest.mark.parametrize(
    ("sr", "lr"), [((64, 64), (65, 65)), ((64, 64), (16, 20)), ((8, 8), (16, 16)), ((60, 64), (16, 16))]
)
def test_what_is_no_enlargement_of_the_input_is_refused(sr: tuple[int, int], lr: tuple[int, int]):
    with pytest.raises(InputError, match="whole input"):
        metrics.make("lr-consistency")(torch.rand(1, 3, *sr), torch.rand(1, 3, *lr))


def test_a_remainder_of_the_scale_is_no_other_section():
    """HR of 67x66 pixels has an LR of 16x16 at x4, and a result of 64x64; x3.9 is no whole factor."""
    assert metrics.make("lr-consistency")(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 16, 16)).isfinite()
    assert metrics.make("lr-consistency")(torch.rand(1, 3, 62, 78), torch.rand(1, 3, 16, 20)).isfinite()
