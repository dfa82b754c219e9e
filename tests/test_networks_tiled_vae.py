"""The tiled VAE is the untiled one: any window, borders, group statistics, attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from onestep.networks.diffusion_prior import DiffusionPrior, build_vae
from onestep.networks.prior_config import PriorConfig, VaeShape
from onestep.networks.tiled_vae import decode, encode, moments, spans
from prior_parts import shaken


def vae(**shape):
    torch.manual_seed(0)
    made = build_vae(VaeShape(channels=(8, 16, 16), layers=1, groups=4, **shape)).eval().requires_grad_(False)
    shaken(made.parameters(), by=0.1)
    return made


@pytest.fixture(scope="module")
def small():
    return vae()


def ramp(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """A hostile input: brightness that differs between tiles, so that their means do."""
    y, x = torch.meshgrid(torch.linspace(-3, 3, height), torch.linspace(-2, 2, width), indexing="ij")
    return torch.stack([y + i * x for i in range(channels)])[None]


@settings(max_examples=12, deadline=None)
@given(height=st.integers(3, 12), width=st.integers(3, 12), window=st.integers(4, 24))
def test_encoding_is_the_whole_images(small, height: int, width: int, window: int):
    image = ramp(4 * height, 4 * width)
    whole = small.quant_conv(small.encoder(image))
    assert torch.allclose(encode(small, image, window), whole, rtol=1e-4, atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(3, 14), width=st.integers(3, 14), window=st.integers(4, 24))
def test_decoding_is_the_whole_latents(small, height: int, width: int, window: int):
    latent = ramp(height, width, 4)
    whole = small.decoder(small.post_quant_conv(latent))
    assert torch.allclose(decode(small, latent, window), whole, rtol=1e-4, atol=1e-4)


def test_averaged_variances_would_be_wrong():
    """The published statistics on a ramp: without the variance of the means, half of it is lost."""
    parts = [torch.full((1, 4, 2, 2), value) + torch.randn(1, 4, 2, 2) * 0.1 for value in (-1.0, 1.0)]
    mean, variance = moments(iter(parts), 2)
    whole = torch.cat(parts, -1).reshape(1, 2, -1).double()
    assert torch.allclose(mean, whole.mean(-1), atol=1e-6)
    assert torch.allclose(variance, whole.var(-1, correction=0), atol=1e-6)
    averaged = torch.stack([part.reshape(1, 2, -1).var(-1, correction=0) for part in parts]).mean(0)
    assert float(averaged.max()) < 0.1 * float(variance.min())


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_moments_of_parts_are_those_of_the_whole(sizes: list[int], seed: int):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(2, 6, 3, n, generator=generator) * n for n in sizes]
    mean, variance = moments(iter(parts), 3)
    whole = torch.cat(parts, -1).reshape(2, 3, -1).double()
    assert torch.allclose(mean, whole.mean(-1), atol=1e-5)
    assert torch.allclose(variance, whole.var(-1, correction=0), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 200), window=st.integers(1, 60), step=st.sampled_from([1, 2]))
def test_windows_cover_a_side_once(length: int, window: int, step: int):
    found = spans(length, window, step)
    assert [a for a, _ in found[1:]] == [b for _, b in found[:-1]]
    assert (found[0][0], found[-1][1]) == (0, length)
    assert all(a % step == 0 and b > a for a, b in found)
    assert max(b - a for a, b in found) <= max(window, step) + step


def test_a_batch_and_low_precision_pass(small):
    image = torch.cat([ramp(32, 24), -ramp(32, 24)])
    with torch.autocast("cpu", torch.bfloat16):
        found = encode(small, image, 8)
        whole = small.quant_conv(small.encoder(image))
    assert found.dtype == whole.dtype
    assert float((found.float() - whole.float()).abs().max()) < 0.06 * float(whole.abs().max())


def test_a_prior_uses_it_above_a_side_and_below_not(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    prior = DiffusionPrior.build(PriorConfig.tiny()).eval()
    prior.add_role("generator", 4, vae_rank=4, full=True)
    shaken(prior.parameters_of("generator"))
    calls: list[str] = []
    from onestep.networks import tiled_vae

    for name in ("encode", "decode"):
        real = getattr(tiled_vae, name)
        monkeypatch.setattr(tiled_vae, name, lambda *a, _r=real, _n=name: (calls.append(_n), _r(*a))[1])
    image = ramp(40, 24)
    with torch.no_grad(), prior.using("generator"):
        whole = prior.encode(image)
        back = prior.decode(whole)
        assert calls == []
        prior.untiled = 32
        assert torch.allclose(prior.encode(image), whole, atol=1e-4)
        assert torch.allclose(prior.decode(whole), back, atol=1e-4)
    assert calls == ["encode", "decode"]
    prior.encode(image)
    assert calls == ["encode", "decode"], "gradients need the layers as they are"
