import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from onestep.core.errors import UsageError
from onestep.degrade.jpeg import jpeg, tables


@pytest.fixture(scope="module")
def photo():
    return data.astronaut()[:256, 100:356]


def tensor(pixels):
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1) / 255


def pillow(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(file)


def psnr(a, b):
    return -10 * torch.log10(((a - b) ** 2).mean()).item()


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
@pytest.mark.parametrize(("convention", "least"), [("libjpeg", 45), ("tensor", 38)])
def test_pixels_are_close_to_pillows(photo, quality, convention, least):
    ours = jpeg(tensor(photo), quality, convention=convention)
    theirs = tensor(pillow(photo, quality))
    assert psnr(ours, theirs) > least
    assert psnr(ours, theirs) > psnr(theirs, tensor(photo)) + 2


def test_odd_sides_follow_pillow_too(photo):
    part = np.ascontiguousarray(photo[40:101, 30:113])
    ours = jpeg(tensor(part), 80, convention="libjpeg")
    assert ours.shape == (3, 61, 83)
    assert psnr(ours, tensor(pillow(part, 80))) > 42


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_libjpeg_tables_are_pillows(photo, quality):
    theirs = pillow(photo, quality).quantization
    luma, chroma = tables(quality, "libjpeg")
    assert luma.tolist() == list(theirs[0])
    assert chroma.tolist() == list(theirs[1])


def test_tensor_tables_take_real_qualities():
    assert tables(50.0)[0][0].item() == pytest.approx(16)
    assert tables(30.5)[0][1].item() == pytest.approx(11 * 50 / 30.5)
    assert tables(87.5)[1][3].item() == pytest.approx(47 * 0.25)


def test_worse_quality_means_worse_picture(photo):
    clean = tensor(photo)
    scores = [psnr(jpeg(clean, quality), clean) for quality in (10, 30, 60, 95)]
    assert scores == sorted(scores)
    assert scores[0] < 29
    assert scores[-1] > 35


@pytest.mark.parametrize("convention", ["tensor", "libjpeg"])
def test_colours_of_flat_pictures_survive_the_best_quality(convention):
    colour = torch.tensor([200.0, 30.0, 90.0]) / 255
    flat = colour[:, None, None].expand(3, 32, 48)
    result = jpeg(flat, 100, convention=convention)
    assert torch.allclose(result, flat, atol=1.01 / 255)


def test_libjpeg_results_are_whole_levels(photo):
    levels = jpeg(tensor(photo), 60, convention="libjpeg") * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_gradients_pass_only_when_asked_for(photo):
    image = tensor(photo)[:, :40, :24].clone().requires_grad_()
    weights = torch.linspace(-1, 1, 3 * 40 * 24).reshape(3, 40, 24)
    straight = jpeg(image, 40, differentiable=True)
    (straight * weights).sum().backward()
    through = image.grad
    assert through is not None
    assert through.isfinite().all()
    assert through.abs().mean() > 0.1
    image.grad = None
    hard = jpeg(image, 40)
    assert torch.allclose(hard, straight, atol=1e-5)
    (hard * weights).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() == 0


@pytest.mark.parametrize("convention", ["tensor", "libjpeg"])
def test_tiny_pictures_work(convention):
    assert jpeg(torch.full((3, 1, 2), 0.5), 75, convention=convention).shape == (3, 1, 2)


@pytest.mark.parametrize("quality", [0, 100.5])
def test_impossible_quality_is_refused(quality):
    with pytest.raises(UsageError, match="quality"):
        jpeg(torch.rand(3, 8, 8), quality)


def test_other_shapes_are_refused():
    with pytest.raises(UsageError, match="RGB"):
        jpeg(torch.rand(1, 8, 8), 50)
