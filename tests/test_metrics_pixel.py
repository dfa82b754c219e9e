import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from onestep import metrics
from onestep.core.errors import InputError
from onestep.metrics.pixel import luma


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A photograph and a damaged copy, (1, 3, 128, 120) in [0, 1], whole 8-bit values."""
    pixels = torch.from_numpy(data.astronaut()[:128, 100:220].copy()).permute(2, 0, 1)[None] / 255
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)) * 0.05
    return ((pixels + noise).clamp(0, 1) * 255).round() / 255, pixels


def array(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("name", ["psnr", "psnr-y"])
def test_psnr_of_a_constant_offset_is_a_closed_form(name: str):
    hr = torch.full((2, 3, 8, 9), 0.25)
    sr = hr + torch.tensor([0.1, 0.2]).view(2, 1, 1, 1)
    gain = 1.0 if name == "psnr" else 219 / 255
    wanted = [10 * math.log10(1 / ((step * gain) ** 2 + 1e-8)) for step in (0.1, 0.2)]
    assert metrics.make(name)(sr, hr).tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", ["psnr", "psnr-y"])
def test_equal_images_have_80_db(name: str):
    hr = pair()[1]
    assert metrics.make(name)(hr, hr).tolist() == pytest.approx([80.0])


def test_psnr_agrees_with_scikit_image():
    sr, hr = pair()
    mse = 10 ** (-peak_signal_noise_ratio(array(hr), array(sr), data_range=1.0) / 10)
    assert metrics.make("psnr")(sr, hr).item() == pytest.approx(-10 * math.log10(mse + 1e-8), abs=1e-9)


def test_ssim_agrees_with_scikit_image():
    sr, hr = pair()
    wanted = structural_similarity(
        array(hr),
        array(sr),
        data_range=1.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert metrics.make("ssim")(sr, hr).item() == pytest.approx(wanted, abs=1e-12)


def test_ssim_y_agrees_with_scikit_image_on_rounded_luma():
    sr, hr = pair()
    planes = [np.rint(luma(image.double())[0, 0].numpy() * 255) for image in (hr, sr)]
    wanted, whole = structural_similarity(
        *planes, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert whole[5:-5, 5:-5].min() > 0, "the clipped part must not matter here"
    assert metrics.make("ssim-y")(sr, hr).item() == pytest.approx(wanted, abs=1e-12)


def test_ssim_y_clips_the_contrast_structure_part_and_ssim_does_not():
    """Inverted noise: the structure is the opposite everywhere."""
    hr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert metrics.make("ssim")(1 - hr, hr).item() < -0.8
    assert metrics.make("ssim-y")(1 - hr, hr).item() == 0


@pytest.mark.parametrize("name", ["ssim", "ssim-y"])
def test_ssim_of_equal_images_is_one_and_small_ones_are_refused(name: str):
    hr = pair()[1]
    score = metrics.make(name)
    assert score(hr, hr).item() == pytest.approx(1.0)
    assert score(hr[..., :11, :11], hr[..., :11, :11]).item() == pytest.approx(1.0)
    with pytest.raises(InputError, match="at least 11 pixels"):
        score(hr[..., :10], hr[..., :10])


@pytest.mark.parametrize("name", ["psnr", "ssim", "psnr-y", "ssim-y", "ms-ssim"])
def test_scores_of_a_batch_are_the_scores_of_its_images(name: str):
    sr, hr = wide_pair() if name == "ms-ssim" else pair()
    a, b = torch.cat([sr, hr.flip(-1)]), torch.cat([hr, sr])
    score = metrics.make(name)
    both = score(a, b)
    assert both.shape == (2,)
    assert both.tolist() == pytest.approx([score(a[i : i + 1], b[i : i + 1]).item() for i in range(2)])


def wide_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 3, 192, 256), float64: a photograph and a noisy copy, whole 8-bit values."""
    pixels = torch.from_numpy(data.astronaut()[:192, 100:356].copy()).permute(2, 0, 1)[None].double() / 255
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)).double() * 0.1
    return ((pixels + noise).clamp(0, 1) * 255).round() / 255, pixels


def test_ms_ssim_agrees_with_another_implementation():
    """pytorch-msssim 1.0.0, its window given in float64 (in its own float32 the value is 0.8032031)."""
    assert metrics.make("ms-ssim")(*wide_pair()).item() == pytest.approx(0.8031992981879821, abs=1e-12)


def test_ms_ssim_of_equal_images_is_one_of_inverted_ones_zero_and_small_ones_are_refused():
    hr, score = wide_pair()[1], metrics.make("ms-ssim")
    assert score(hr, hr).item() == pytest.approx(1.0)
    assert score(1 - hr, hr).item() == 0.0
    assert score(hr[..., :176, :176], hr[..., :176, :176]).item() == pytest.approx(1.0)
    with pytest.raises(InputError, match="at least 176 pixels"):
        score(hr[..., :175, :], hr[..., :175, :])


def test_ms_ssim_of_a_contrast_change_is_a_closed_form():
    """Around a flat mean, scaling by g gives cs = 2 g / (1 + g²) at every scale where detail is strong."""
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    blocks = torch.kron(checks.repeat(8, 8), torch.ones(16, 16, dtype=torch.float64))
    hr, sr = (0.5 + gain * blocks.expand(1, 3, -1, -1) for gain in (0.4, 0.2))
    wanted = 2 * 0.5 / (1 + 0.25)
    assert metrics.make("ms-ssim")(sr, hr).item() == pytest.approx(wanted, abs=0.02)


def test_luma_of_black_white_and_primaries():
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    wanted = [16, 235, 81.481, 144.553, 40.966]
    assert (luma(colours.view(5, 3, 1, 1)).flatten() * 255).tolist() == pytest.approx(wanted)


def test_the_official_log(development_data: Path):
    folder = development_data / "dev" / "drealsr"
    log = (folder / "osediff_official_metrics.log").read_text()
    lines = re.findall(r"results_osediff/(\S+) \| PSNR: ([\d.]+); SSIM: ([\d.]+);", log)
    assert len(lines) == 31
    for name, psnr, ssim in lines:
        images = []
        for kind in ("osediff_official", "HR"):
            with Image.open(folder / kind / name) as picture:
                pixels = np.array(picture.convert("RGB"))
            images.append(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
        assert metrics.make("psnr-y")(*images).item() == pytest.approx(float(psnr), abs=1e-4)
        assert metrics.make("ssim-y")(*images).item() == pytest.approx(float(ssim), abs=1e-5)
