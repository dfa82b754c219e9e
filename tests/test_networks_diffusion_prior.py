"""The prior: where adapters sit, how many numbers they have, the closed forms of its schedule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from onestep.core.errors import UsageError
from onestep.networks.adapters import unet_targets, vae_targets
from onestep.networks.diffusion_prior import DiffusionPrior, posterior
from onestep.networks.prior_config import PriorConfig, Schedule, UNetShape, VaeShape
from prior_parts import TINY, names_hash, tiny_prior


@pytest.fixture(scope="module")
def full() -> DiffusionPrior:
    """Stable Diffusion 2.1-base without numbers, with both roles."""
    with torch.device("meta"):
        prior = DiffusionPrior.build(PriorConfig())
        prior.add_role("generator", 4, vae_rank=4, prefix="default", full=True)
        prior.add_role("fake", 4, full=False)
    prior.ships = "generator"
    return prior


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


def test_stable_diffusion_has_its_published_size():
    with torch.device("meta"):
        prior = DiffusionPrior.build(PriorConfig())
    assert count(prior.unet.parameters()) == 865_910_724
    assert count(prior.vae.parameters()) == 83_653_863
    assert count(prior.text.parameters()) == 340_387_840


def test_modules_that_are_adapted_are_the_official_ones():
    with torch.device("meta"):
        plain = DiffusionPrior.build(PriorConfig())
    parts = plain.unet_adapters.targets
    assert {part: (len(names), names_hash(names)) for part, names in parts.items()} == {
        "encoder": (94, "5ddbc19b93776787"),
        "decoder": (148, "4a12815a540839ad"),
        "others": (16, "40aae9844b6df9af"),
    }
    vae = plain.vae_adapters.targets["encoder"]
    assert (len(vae), len(set(vae)), names_hash(vae)) == (32, 32, "e249564275d39553")


def test_trained_numbers_are_the_published_ones(full: DiffusionPrior):
    unet, vae = full.unet_adapters, full.vae_adapters
    parts = [count(unet.parameters("fake", [part])) for part in ("encoder", "decoder", "others")]
    assert parts == [1_253_776, 2_425_104, 376_832]
    assert sum(parts) == 4_055_712
    assert count(vae.parameters("generator")) == 369_356
    generator = full.parameters_of("generator")
    assert count(generator) == 4_055_712 + 369_356 + 11_840 == 4_436_908
    assert count(generator) + count(full.parameters_of("fake")) == 8_492_620
    assert len({id(parameter) for parameter in generator}) == len(generator) == 582


def test_the_state_has_the_official_names_and_nothing_else(full: DiffusionPrior):
    full.whole = False
    names = list(full.state_dict())
    full.whole = True
    unet = [name.removeprefix("unet.") for name in names if name.startswith("unet.")]
    vae = [name.removeprefix("vae.") for name in names if name.startswith("vae.")]
    assert len(names) == 518 + 64
    assert (len(unet), names_hash(unet)) == (518, "883b3c9a5b154cf4")
    assert (len(vae), names_hash(vae)) == (64, "985bd803562049ec")
    assert not [name for name in vae if name.startswith("decoder") or "post_quant" in name]


def test_the_schedule_has_the_published_constants():
    abar = Schedule().remaining()
    assert float(abar[999]) == pytest.approx(0.00466010, abs=1e-8)
    for t, value in ((20, 0.981314), (500, 0.276333), (979, 0.005913)):
        assert float(abar[t]) == pytest.approx(value, abs=1e-6)
    a, s = math.sqrt(float(abar[999])), math.sqrt(1 - float(abar[999]))
    assert (a, s) == pytest.approx((0.06826489, 0.99766725), abs=1e-7)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), half=st.booleans())
def test_one_step_is_the_published_formula(seed: int, half: bool):
    prior = _one_prior()
    kind = torch.float16 if half else torch.float32
    generator = torch.Generator().manual_seed(seed)
    z, eps = (torch.randn(2, 4, 6, 6, generator=generator).to(kind) for _ in range(2))
    found = prior.clean(z, eps, 999)
    expected = 14.648819 * z.double() - 14.614648 * eps.double()
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=2e-5)


def _one_prior(kept: list[DiffusionPrior] = []) -> DiffusionPrior:  # noqa: B006
    if not kept:
        kept.append(tiny_prior())
    return kept[0]


def test_clean_undoes_noised():
    prior = _one_prior()
    z, n, t = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4), torch.tensor([0, 500, 999])
    assert torch.allclose(prior.clean(prior.noised(z, n, t), n, t), z, atol=1e-4)


def test_a_posterior_is_sampled_or_its_mean_taken():
    moments = torch.cat([torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), math.log(0.25))], 1)
    noise = torch.randn(1, 4, 2, 2)
    assert torch.equal(posterior(moments, None), torch.full((1, 4, 2, 2), 3.0))
    assert torch.allclose(posterior(moments, noise), 3 + 0.5 * noise)


def test_latents_of_diffusers_and_ours_agree():
    """The whole VAE as diffusers runs it, times the scaling factor."""
    prior = _one_prior()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        theirs = prior.vae.encode(image).latent_dist.mode() * TINY.vae.scaling
        assert torch.allclose(prior.encode(image), theirs, atol=1e-6)
        back = prior.vae.decode(theirs / TINY.vae.scaling).sample
        assert torch.allclose(prior.decode(theirs), back, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vae": VaeShape(channels=(8, 12), groups=8)}, "multiples of groups"),
        ({"unet": UNetShape(channels=(32, 64), heads=(4,))}, "do not divide"),
    ],
)
def test_impossible_shapes_are_refused(settings, message: str):
    with pytest.raises(UsageError, match=message):
        PriorConfig(**settings)


def test_rules_of_placement_skip_biases_norms_and_time():
    found = [name for names in unet_targets(DiffusionPrior.build(TINY).unet).values() for name in names]
    assert not [name for name in found if "norm" in name or "time" in name or "bias" in name]
    assert not [name for name in vae_targets(DiffusionPrior.build(TINY).vae)["encoder"] if "decoder" in name]


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"pip install 'onestep-sr\[diffusion\]'"):
        DiffusionPrior.build(TINY)
