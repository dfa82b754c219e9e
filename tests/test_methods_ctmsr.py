"""The consistency function: boundary, preconditioning, path, sizes, tiles, determinism (section 10)."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ctmsr_parts import RELEASED, TINY, lively
from onestep import Upscaler, methods
from onestep.core.config import to_dict
from onestep.core.errors import UsageError
from onestep.methods.ctmsr import Ctmsr, CtmsrConfig
from onestep.methods.ctmsr.model import levels, preconditioning, q_sample, tile_starts
from onestep.networks.swin_unet import SwinUNetConfig

COMPACT = replace(TINY, residual=True)
NETWORKS = {"released": RELEASED, "compact": COMPACT, "compact without residual": TINY}

TABLE = {
    0: (1, 0, -1.553652),
    1 / 4: (0.038462, 0.980581, -0.344582),
    1 / 3: (0.022005, 0.988936, -0.273158),
    1 / 2: (0.009901, 0.995037, -0.172289),
    2 / 3: (0.005594, 0.997199, -0.100617),
    3 / 4: (0.004425, 0.997785, -0.071255),
    1: (0.002494, 0.998752, 0.000500),
}


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_at_level_zero_the_model_is_the_identity(network):
    """Bit for bit, whatever the weights."""
    model = lively(CtmsrConfig(NETWORKS[network]))
    lr, x = torch.randn(2, 3, 16, 24), torch.randn(2, 3, 64, 96)
    assert torch.equal(model.clean(x, torch.zeros(2), lr), x)
    assert not torch.equal(model.clean(x, torch.tensor([0.0, 0.1]), lr)[1], x[1])


@pytest.mark.parametrize(("s", "row"), TABLE.items())
def test_preconditioning(s, row):
    found = [float(value) for value in preconditioning(torch.tensor(s, dtype=torch.float64))]
    assert found == pytest.approx(row, abs=1e-6)


@torch.no_grad()
def test_the_model_is_the_stated_combination():
    model = lively(CtmsrConfig(TINY))
    lr, x = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 32, 32)
    s = torch.tensor([0.25, 1.0])
    for i, level in enumerate(s.tolist()):
        c_skip, c_out, c_noise = TABLE[level]
        network = model.model(x[i : i + 1], torch.tensor([c_noise]), lr[i : i + 1])
        expected = c_skip * x[i] + c_out * network[0]
        assert torch.allclose(model.clean(x, s, lr)[i], expected, atol=1e-4)


@torch.no_grad()
def test_the_compact_model_adds_to_the_upsampled_image():
    """f = c_skip x + (1 - c_skip) y + c_out F(x - y)."""
    model = lively(CtmsrConfig(COMPACT))
    lr, x = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 32, 32)
    y = F.interpolate(lr, scale_factor=4, mode="bicubic")
    c_skip, c_out, c_noise = (float(one) for one in preconditioning(torch.tensor(0.5)))
    expected = c_skip * x + (1 - c_skip) * y + c_out * model.model(x - y, torch.tensor([c_noise]), lr)
    assert torch.allclose(model.clean(x, torch.tensor([0.5]), lr), expected, atol=1e-5)


def test_the_first_answer_of_an_untrained_compact_model_is_the_upsampled_image():
    torch.manual_seed(0)
    model = CtmsrConfig(SwinUNetConfig.compact()).build().eval()
    lr, noise = torch.rand(1, 3, 16, 16), torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        out = model(lr, noise, model.condition(lr, model.Options()))
    assert float((out - model.lr_up(lr)).abs().max()) < 0.1


def test_levels_rise_from_clean_to_noisy():
    assert levels(4, 0.0, 1.0).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert torch.allclose(levels(3, 0.0, 1.0), torch.arange(4) / 3)
    assert torch.allclose(levels(2, 0.0, 4.0, rho=2.0), torch.tensor([0.0, 1.0, 4.0]))
    assert torch.allclose(levels(2, 1.0, 9.0, rho=2.0), torch.tensor([1.0, 4.0, 9.0]))


@pytest.mark.parametrize("intervals", [1, 3, 4])
def test_ends_of_the_path_are_exact(intervals):
    x0, y, noise = torch.randn(3, 2, 3, 8, 8)
    alpha = levels(intervals, 0.0, 1.0)
    assert torch.equal(q_sample(x0, y, noise, alpha[:1].expand(2), alpha[:1].expand(2)), x0)
    assert torch.equal(q_sample(x0, y, noise, alpha[-1:].expand(2), alpha[-1:].expand(2)), y + noise)


@given(st.integers(1, 8), st.data())
@settings(max_examples=20, deadline=None)
def test_a_state_lies_between_the_image_and_the_next_state(intervals, data):
    n = data.draw(st.integers(0, intervals - 1))
    x0, y, noise = torch.randn(3, 1, 3, 4, 4, dtype=torch.float64)
    t = levels(intervals, 0.0, 1.0).double()
    below, above = (q_sample(x0, y, noise, t[k], t[k]) for k in (n, n + 1))
    assert torch.allclose(below, x0 + n / (n + 1) * (above - x0), atol=1e-5)


def test_upsampling_is_plain_bicubic_and_keeps_overshoots():
    model = CtmsrConfig(TINY).build()
    lr = torch.full((1, 3, 8, 8), -1.0)
    lr[..., 4:] = 1.0
    y = model.lr_up(lr)
    assert y.shape == (1, 3, 32, 32)
    assert float(y.max()) > 1.02
    assert torch.equal(y, F.interpolate(lr, (32, 32), mode="bicubic", align_corners=False, antialias=False))


def stub(scale: int = 4, **changes) -> Ctmsr:
    """The released traits around a network that answers the LR image, every pixel repeated."""

    class Repeat(nn.Module):
        def forward(self, x: Tensor, c: Tensor, lr: Tensor) -> Tensor:
            return lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)

    model = CtmsrConfig(replace(RELEASED, **changes), scale=scale).build()
    model.model = Repeat()
    return model


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (64, 128), (65, 70), (33, 200), (32, 32), (7, 31), (1, 1), (1, 90)]
)
def test_sizes(height, width):
    picture = torch.rand(1, 3, height, width)
    upscaler = Upscaler(stub(), device="cpu")
    assert upscaler.model.traits.multiple_of == 64
    assert upscaler(picture).rgb.shape == (1, 3, 4 * height, 4 * width)


@pytest.mark.parametrize(("height", "width"), [(512, 512), (513, 600)])
def test_large_sizes_in_tiles(height, width):
    picture = torch.rand(1, 3, height, width)
    assert Upscaler(stub(), device="cpu")(picture, tile=256).rgb.shape == (1, 3, 4 * height, 4 * width)


@pytest.mark.parametrize("network", ["released", "compact"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 33), (5, 70)])
def test_sizes_through_a_real_network(network, height, width):
    upscaler = Upscaler(lively(CtmsrConfig(NETWORKS[network])), device="cpu", dtype="float32")
    out = upscaler(torch.rand(1, 3, height, width)).rgb
    assert out.shape == (1, 3, 4 * height, 4 * width)
    assert float(out.std()) > 0.01


def test_tiles_share_one_canvas():
    """A network that looks at single pixels gives the same picture whole and in tiles."""
    picture = torch.rand(1, 3, 150, 200)
    upscaler = Upscaler(stub(), device="cpu")
    whole = upscaler(picture, tile="off").rgb
    assert torch.allclose(upscaler(picture, tile=64).rgb, whole, atol=1e-6)
    assert torch.allclose(upscaler(picture, tile=128, overlap=16).rgb, whole, atol=1e-6)


def test_compact_scales():
    for scale in (2, 3, 4):
        model = lively(CtmsrConfig(COMPACT, scale=scale))
        out = Upscaler(model, device="cpu")(torch.rand(1, 3, 21, 30)).rgb
        assert out.shape == (1, 3, 21 * scale, 30 * scale)


def test_official_tile_starts():
    assert tile_starts(1000) == [0, 448, 488]
    assert tile_starts(512) == tile_starts(64) == [0]
    assert tile_starts(513) == [0, 1]
    assert tile_starts(960) == [0, 448]
    assert tile_starts(961) == [0, 448, 449]


@torch.no_grad()
def test_official_tiling_averages_with_equal_weight():
    model = stub()
    lr, noise = torch.rand(1, 3, 64, 576), torch.randn(1, 3, 256, 2304)
    out = model(lr, noise, model.condition(lr, model.Options(tiling="official")))
    plain = model(lr, noise, model.condition(lr, model.Options()))
    first = model(lr[..., :512], noise[..., :2048], {})
    assert torch.equal(out[..., : 64 * 4], first[..., : 64 * 4])
    c_skip, c_out, _ = (float(one) for one in preconditioning(torch.tensor(1.0)))
    repeated = lr.repeat_interleave(4, -1).repeat_interleave(4, -2)
    noisy = (out - c_skip * model.lr_up(lr) - c_out * repeated) / c_skip
    inside = (..., slice(0, 256))
    assert float(noisy[inside].std()) == pytest.approx(1, abs=0.02)
    overlap = (..., slice(80 * 4, 496 * 4))  # away from the ends of the tiles
    assert float(noisy[overlap].std()) == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert not torch.equal(out, plain)
    small = lr[..., :128]
    same = model(small, noise[..., :512], model.condition(small, model.Options(tiling="official")))
    assert torch.equal(same, model(small, noise[..., :512], {}))


def test_official_tiling_is_asked_for_by_name():
    model = stub()
    with pytest.raises(UsageError, match="canvas or official"):
        model.condition(torch.zeros(1, 3, 64, 64), model.Options(tiling="offical"))
    picture = torch.rand(1, 3, 20, 30)
    upscaler = Upscaler(model, device="cpu")
    assert torch.equal(upscaler(picture, tiling="official").rgb, upscaler(picture).rgb)


def test_the_seed_decides():
    upscaler = Upscaler(lively(CtmsrConfig(COMPACT)), device="cpu")
    picture = torch.rand(1, 3, 24, 24)
    first, again, other = (upscaler(picture, seed=seed).rgb for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((first - other).square().mean().sqrt()) > 1e-3


def test_a_card_builds_the_same_model():
    for network in NETWORKS.values():
        config = CtmsrConfig(network, scale=4, sigma_max=0.2)
        assert methods.build("ctmsr", to_dict(config)).config == config


@pytest.mark.parametrize(("settings_", "word"), [({"scale": 0}, "scale"), ({"sigma_max": 0.0}, "sigma_max")])
def test_what_has_no_meaning_is_refused(settings_, word):
    with pytest.raises(UsageError, match=word):
        CtmsrConfig(TINY, **settings_)
