"""The mini prior: what its objectives teach, that runs continue exactly, what its release file holds."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from onestep import checkpoint
from onestep.core.config import to_dict
from onestep.core.contract import NoOptions, Pair
from onestep.core.errors import UsageError
from onestep.methods import build
from onestep.methods.prior import (
    CLEAN,
    DEGRADED,
    AutoencoderConfig,
    NoisePredictionConfig,
    PriorModelConfig,
    PriorOptions,
    Reconstruction,
    ReconstructionConfig,
)
from onestep.networks.prior_config import PriorConfig
from onestep.recipe import OptimizerConfig
from onestep.recipes import recipe
from onestep.train import train

TINY = PriorConfig.tiny()


def quick(name: str, **train_settings):
    found = recipe(name)
    settings = {"steps": 3, "batch": 2, "save_every": 1, "log_every": 1, **train_settings}
    check = dataclasses.replace(found.check, every=0)
    return dataclasses.replace(found, train=dataclasses.replace(found.train, **settings), check=check)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    return train(quick("prior-toy-vae"), folder, device="cpu")


def prior_recipe(autoencoder: Path, **settings):
    found = quick("prior-toy", **settings)
    objective = dataclasses.replace(found.objective, autoencoder=str(autoencoder))
    return dataclasses.replace(found, objective=objective)


def test_latents_are_scaled_to_unit_deviation():
    torch.manual_seed(0)
    objective = Reconstruction(ReconstructionConfig(AutoencoderConfig(TINY.vae), perceptual=0.0))
    hr = torch.rand(4, 3, 32, 32) * 2 - 1
    next(iter(objective.losses(Pair(hr, hr), 0)))
    moments = objective.model.moments(hr).detach()
    mean, logvar = moments.chunk(2, 1)
    sample = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
    assert float((sample * objective.model.scaling).std()) == pytest.approx(1, abs=0.05)


def test_the_autoencoder_learns_to_reconstruct(tmp_path: Path):
    log = tmp_path / "run"
    fast = {"model": OptimizerConfig(lr=3e-3)}
    train(quick("prior-toy-vae", steps=40, batch=4, save_every=40, optimizers=fast), log, device="cpu")
    tensors, card = checkpoint.read(next(log.glob("release-*.safetensors")))
    model = build(card.method, card.config)
    checkpoint.load(model, tensors, log)
    from onestep.core.synthetic import synthetic

    image = synthetic(32, torch.Generator().manual_seed(9))[None] * 2 - 1
    fresh = build(card.method, card.config)
    none = image.new_empty(1, 0, 32, 32)
    with torch.no_grad():
        before, after = (float((m(image, none, {}) - image).abs().mean()) for m in (fresh, model))
    assert after < 0.75 * before
    assert model.condition(image, NoOptions()) == {}


def test_prior_ships_vae_unet_and_text_and_comes_back(autoencoder: Path, tmp_path: Path):
    path = train(prior_recipe(autoencoder), tmp_path / "run", device="cpu")
    tensors, card = checkpoint.read(path)
    assert {name.split(".")[1] for name in tensors} == {"vae", "unet", "text", "scaling"}
    assert card.method == "prior"
    model = build(card.method, card.config).eval()
    checkpoint.load(model, tensors, path)
    vae, _ = checkpoint.read(autoencoder)
    assert torch.equal(
        model.prior.vae.state_dict()["encoder.conv_in.weight"],
        vae["vae.encoder.conv_in.weight"].half().float(),
    )
    assert float(model.prior.scaling) == pytest.approx(float(vae["scaling"]), rel=1e-3)


def test_a_stopped_run_continues_bit_for_bit(autoencoder: Path, tmp_path: Path):
    whole = train(prior_recipe(autoencoder, steps=4), tmp_path / "whole", device="cpu")
    train(prior_recipe(autoencoder, steps=4), tmp_path / "parts", max_minutes=0, device="cpu")
    parts = train(prior_recipe(autoencoder, steps=4), tmp_path / "parts", device="cpu")
    one, other = checkpoint.read(whole)[0], checkpoint.read(parts)[0]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_each_picture_has_its_caption(autoencoder: Path, monkeypatch: pytest.MonkeyPatch):
    """Clean pictures go with one caption, degraded with another, and a tenth with none."""
    objective = NoisePredictionConfig(str(autoencoder), TINY).build()
    prior = objective.model.prior
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    images: list[torch.Tensor] = []
    real_encode, real = prior.encode, prior.epsilon
    monkeypatch.setattr(
        prior, "encode", lambda image, noise: (images.append(image), real_encode(image, noise))[1]
    )
    monkeypatch.setattr(prior, "epsilon", lambda z, t, text: (seen.append((t, text)), real(z, t, text))[1])
    torch.manual_seed(0)
    pair = Pair(torch.full((300, 3, 2, 2), -0.5), torch.full((300, 3, 8, 8), 0.5))
    next(iter(objective.losses(pair, 0)))
    captions = prior.text.embed([CLEAN, DEGRADED, ""])
    distance = torch.stack([(seen[0][1] - c).abs().amax((1, 2)) for c in captions])
    which, degraded = distance.argmin(0), images[0].mean((1, 2, 3)) < 0
    assert float(distance.amin(0).max()) < 1e-5
    assert bool((which[degraded] != 0).all())
    assert bool((which[~degraded] != 1).all())
    assert float(degraded.float().mean()) == pytest.approx(0.4, abs=0.08)
    assert float((which == 2).float().mean()) == pytest.approx(0.1, abs=0.05)
    assert 0 <= int(seen[0][0].min()) <= 60
    assert 940 <= int(seen[0][0].max()) <= 999


def test_the_sampler_inverts_a_known_prior(monkeypatch: pytest.MonkeyPatch):
    """With the exact noise predictor of N(m, v) DDIM carries noise n to m + sqrt(v) n, up to its steps."""
    model = build("prior", to_dict(PriorModelConfig(TINY)))
    mean, variance = 0.7, 0.25
    left = model.prior.abar.double()

    def exact(z, t, text):
        a, s2 = left[t].sqrt(), 1 - left[t]
        return ((z.double() - a * mean) * s2.sqrt() / (a**2 * variance + s2)).float()

    monkeypatch.setattr(model.prior, "epsilon", exact)
    monkeypatch.setattr(model.prior, "decode", lambda z: z)
    lr = torch.zeros(1, 3, 8, 8)
    noise = torch.randn(model.noise_shape(lr.shape), generator=torch.Generator().manual_seed(0))
    condition = model.condition(lr, PriorOptions(strength=1.0, evaluations=500))
    z = model(lr, noise, condition)
    start = left[-1].sqrt() * mean, left[-1] * variance + 1 - left[-1]
    expected = mean + (variance**0.5) * (noise - start[0]) / start[1].sqrt()
    assert float((z - expected).abs().max()) < 0.02


def test_guidance_one_is_the_prompt_alone_and_zero_the_negative():
    torch.manual_seed(1)
    model = build("prior", to_dict(PriorModelConfig(TINY))).eval()
    lr = torch.rand(1, 3, 8, 8) * 2 - 1
    noise = torch.randn(model.noise_shape(lr.shape))

    def run(**options):
        return model(lr, noise, model.condition(lr, PriorOptions(evaluations=2, **options)))

    with torch.no_grad():
        plain, negative = run(prompt="a", negative="b"), run(prompt="b", negative="a")
        assert torch.allclose(run(prompt="a", negative="b", guidance=1.0 + 1e-6), plain, atol=1e-4)
        assert torch.allclose(run(prompt="a", negative="b", guidance=0.0), negative, atol=1e-4)
        assert not torch.allclose(plain, negative, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "message"),
    [("", "objective.autoencoder=FILE"), ("prior", "release file of 'prior-vae' is needed")],
)
def test_a_missing_or_wrong_autoencoder_is_one_line(file: str, message: str, tmp_path: Path):
    if file:
        model = PriorModelConfig(TINY).build()
        card = checkpoint.Card("x", "prior", to_dict(model.config), {}, 0, "x", None, "0")
        file = str(tmp_path / "prior.safetensors")
        checkpoint.write(Path(file), model.state_dict(), card)
    with pytest.raises(UsageError, match=message) as caught:
        NoisePredictionConfig(file, TINY).build()
    assert "\n" not in str(caught.value)


def test_no_warning_is_given_when_a_prior_is_built():
    with warnings.catch_warnings(action="error"):
        PriorModelConfig(TINY).build()


def test_the_mini_prior_fits_the_tree():
    with torch.device("meta"):
        model = PriorModelConfig().build()
    assert sum(p.numel() for p in model.state_dict().values()) * 2 < 15_500_000
