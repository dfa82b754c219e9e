"""The models without parameters are Pillow's kernels, in [-1, 1] and at the model's scale."""

import numpy as np
import pytest
import torch
from PIL import Image

from onestep.core.errors import UsageError
from onestep.methods import build
from onestep.methods.resample import Resample, ResampleConfig

KERNELS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def picture(height=9, width=13):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def restored(model, lr):
    noise = torch.zeros(model.noise_shape(lr.shape))
    return model(lr, noise, model.condition(lr, model.Options()))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kernel", KERNELS)
def test_float_images_are_resized_as_by_pillow(kernel, scale):
    lr = torch.from_numpy(picture()).permute(2, 0, 1)[None] / 127.5 - 1
    out = restored(build("resample", {"kernel": kernel, "scale": scale}), lr)
    assert out.shape == (1, 3, 9 * scale, 13 * scale)
    for plane, result in zip(lr[0], out[0], strict=True):
        expected = Image.fromarray(plane.numpy()).resize((13 * scale, 9 * scale), KERNELS[kernel])
        np.testing.assert_allclose(result.numpy(), np.asarray(expected), atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_8_bit_pictures_are_pillows_within_rounding(kernel):
    array = 96 + picture() // 4  # Pillow limits to 0..255 between its two passes, so nothing may overshoot
    lr = torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1
    out = restored(Resample(ResampleConfig(kernel, 4)), lr)[0].permute(1, 2, 0)
    ours = ((out + 1) * 127.5).round().numpy()
    pillows = np.asarray(Image.fromarray(array).resize((52, 36), KERNELS[kernel]), dtype=np.float32)
    assert np.abs(ours - pillows).max() <= 1
    assert np.abs(ours - pillows).mean() < 0.3


def test_images_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    model, lr = build("resample", {"kernel": "lanczos"}), torch.rand(2, 3, 5, 4)
    both = restored(model, lr)
    assert torch.equal(both, torch.cat([restored(model, lr[:1]), restored(model, lr[1:])]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_flat_stays_flat_and_edges_overshoot(kernel):
    model = build("resample", {"kernel": kernel})
    torch.testing.assert_close(
        restored(model, torch.full((1, 3, 5, 6), 0.3)), torch.full((1, 3, 20, 24), 0.3)
    )
    edge = torch.full((1, 3, 8, 8), -1.0)
    edge[..., 4:] = 1
    assert restored(model, edge).max() > 1.02


def test_it_has_no_weights_no_noise_and_no_options():
    model = build("resample", {})
    lr = torch.zeros(2, 3, 5, 7)
    assert not list(model.parameters())
    assert model.traits.scale == 4
    assert model.noise_shape(lr.shape).numel() == 0
    assert model.condition(lr, model.Options()) == {}


def test_an_unknown_kernel_is_refused():
    with pytest.raises(UsageError, match="kernel"):
        build("resample", {"kernel": "gaussian"})
