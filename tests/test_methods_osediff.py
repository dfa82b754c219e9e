"""OSEDiff at work: one step written out, any size, seeds, colours, tiles, prompts, merging."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from onestep.core.errors import UsageError
from onestep.core.picture import Picture, as_picture
from onestep.core.resize import resize
from onestep.methods.osediff import Osediff, OsediffConfig
from onestep.methods.osediff import prompts as words
from onestep.methods.osediff.model import OsediffOptions
from onestep.upscaler import Upscaler
from prior_parts import photo, shaken, tiny_model, tiny_prior


def test_one_step_is_encode_predict_solve_decode(monkeypatch: pytest.MonkeyPatch):
    """z = 14.648819 z_L - 14.614648 eps at t = 999, in scaled latents; the image is its decoding, clamped."""
    model = tiny_model()
    prior = model.prior
    latent, seen = torch.randn(1, 4, 8, 8) * 0.05, []
    monkeypatch.setattr(prior, "encode", lambda image, noise: latent)
    monkeypatch.setattr(prior, "epsilon", lambda z, t, text: (seen.append(int(t)), 0.5 * z)[1])
    monkeypatch.setattr(
        prior, "decode", lambda z: z[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3) * 3
    )
    z, image = model.restore(torch.zeros(1, 3, 16, 16), torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, 16))
    expected = 14.648819 * latent - 14.614648 * 0.5 * latent
    assert torch.allclose(z, expected, rtol=1e-5)
    assert seen == [999]
    wanted = (expected[:, :3] * 3).clamp(-1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(image, wanted, atol=1e-5)


def test_traits_follow_the_base():
    with torch.device("meta"):
        from onestep.networks.diffusion_prior import DiffusionPrior
        from onestep.networks.prior_config import PriorConfig

        model = Osediff(OsediffConfig(), DiffusionPrior.build(PriorConfig()))
    traits = model.traits
    assert (traits.scale, traits.multiple_of, traits.minimum, traits.color) == (4, 2, 128, "adain")
    assert (model.latent_tile, model.latent_overlap, model.time) == (96, 32, 999)
    assert model.noise_shape(torch.Size((1, 3, 128, 96))) == (1, 4, 64, 48)


@pytest.mark.parametrize(("height", "width", "scale"), [(20, 28, 4.0), (5, 3, 4.0), (17, 13, 2.5)])
def test_the_size_is_exactly_the_one_asked_for(height: int, width: int, scale: float):
    """Also below the size that the base was trained at, where the official code forgets its last resize."""
    result = Upscaler(tiny_model(), device="cpu", dtype="float32")(photo(height, width), scale=scale)
    assert (result.height, result.width) == (round(scale * height), round(scale * width))


@pytest.mark.parametrize("scale", [2, 3])
def test_other_scales_work(scale: int):
    model = tiny_model(scale=scale)
    assert Upscaler(model, device="cpu", dtype="float32")(photo(20, 18)).width == scale * 18


def test_seeds_decide_samples_and_nothing_else():
    up = Upscaler(tiny_model(), device="cpu", dtype="float32")
    first, again, other = (up(photo(), seed=seed).array for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    mean, same = (up(photo(), seed=seed, posterior="mean").array for seed in (0, 1))
    assert np.array_equal(mean, same)


def test_merged_and_active_adapters_give_the_same_picture():
    merged = Upscaler(tiny_model(), device="cpu", dtype="float32")
    active = Upscaler(tiny_model(), device="cpu", dtype="float32")
    one, other = merged(photo()), active(photo(), merge=False)
    assert merged.model.prior.settled == "generator"
    assert active.model.prior.settled is None
    assert float(np.abs(one.array - other.array).max()) < 1e-5


def test_adapters_that_are_trained_are_not_merged():
    model = tiny_model()
    for parameter in model.prior.parameters_of("generator"):
        parameter.requires_grad_(True)
    model.condition(torch.zeros(1, 3, 8, 8), OsediffOptions())
    assert model.prior.settled is None


def test_low_precision_stays_close():
    exact = Upscaler(tiny_model(), device="cpu", dtype="float32")(photo())
    low = Upscaler(tiny_model(), device="cpu", dtype="bfloat16")
    assert float(np.abs(low(photo()).array - exact.array).mean()) < 0.05
    assert next(low.model.prior.unet.parameters()).dtype == torch.bfloat16


def test_colours_are_those_of_the_upsampled_input():
    """Section 5.4: mean and deviation per channel equal the bicubic LR image's (before clipping)."""
    picture = as_picture(photo(24, 24).rgb * 0.3 + 0.35)
    model = tiny_model()
    result = Upscaler(model, device="cpu", dtype="float32")(picture)
    lr_up = resize(picture.rgb, (96, 96)).clamp(0, 1)
    assert float(result.rgb.min()) > 0
    assert float(result.rgb.max()) < 1
    assert torch.allclose(result.rgb.mean((2, 3)), lr_up.mean((2, 3)), atol=1e-4)
    assert torch.allclose(result.rgb.std((2, 3)), lr_up.std((2, 3)), rtol=2e-2)
    plain = Upscaler(model, device="cpu", dtype="float32")(picture, color="none")
    assert float((plain.rgb.mean((2, 3)) - lr_up.mean((2, 3))).abs().max()) > 1e-3


def test_alpha_is_kept():
    picture = photo()
    with_alpha = dataclasses.replace(picture, alpha=torch.full((1, 1, 20, 28), 0.5))
    result = Upscaler(tiny_model(), device="cpu", dtype="float32")(with_alpha)
    assert result.alpha is not None
    assert tuple(result.alpha.shape) == (1, 1, 80, 112)


def test_the_memory_of_its_layers_is_told_and_not_tried(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model()
    monkeypatch.setattr(model, "restore", lambda *_: pytest.fail("nothing is run"))
    up = Upscaler(model, device="cpu", dtype="float32")
    assert up.engine.layer_bytes() == 3 * 16 * 4 * 4**2
    assert Upscaler(tiny_model(), device="cpu", dtype="bfloat16").engine.layer_bytes() == 3 * 16 * 2 * 4**2
    assert up.plan(2000, 2000).memory > 0


def test_large_latents_are_tiled(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model()
    sizes: list[tuple[int, ...]] = []
    real = model.prior.epsilon

    def note(z, t, text):
        sizes.append(tuple(z.shape[-2:]))
        return real(z, t, text)

    monkeypatch.setattr(model.prior, "epsilon", note)
    Upscaler(model, device="cpu", dtype="float32")(photo(8, 12), tile="off")
    assert set(sizes) == {(12, 12)}
    assert len(sizes) == 2 * 3


def test_prompts_are_put_together_as_published():
    assert words.prompt(["a", "b"], "") == "a, b, ,"
    assert words.prompt(["a"], "old photo") == "a, old photo,"
    assert words.prompt([], "old photo") == "old photo"
    assert words.prompt([], "") == ""


def test_tags_that_do_not_fit_are_dropped_and_the_users_words_kept():
    encoder = tiny_prior().text
    text = words.shortened([f"thing number {i}" for i in range(40)], "my words", encoder.fits)
    assert encoder.fits(text)
    assert text.startswith("thing number 0, ")
    assert text.endswith(", my words,")


def test_a_prompt_that_is_too_long_is_one_line():
    up = Upscaler(tiny_model(), device="cpu", dtype="float32")
    with pytest.raises(UsageError, match="77 are possible") as caught:
        up(photo(), prompt="very " * 40)
    assert "\n" not in str(caught.value)


def test_prompts_change_the_picture_and_may_come_from_a_function():
    up = Upscaler(tiny_model(), device="cpu", dtype="float32")
    shaken(up.model.prior.unet.parameters(), by=0.02)
    seen: list[Picture] = []

    def look(picture: Picture) -> str:
        seen.append(picture)
        return "a dog"

    by_text, by_look, empty = (up(photo(), prompt=p).array for p in ("a dog", look, ""))
    assert np.array_equal(by_text, by_look)
    assert not np.array_equal(by_text, empty)
    assert float((seen[0].rgb[..., :20, :28] - photo().rgb).abs().max()) < 1e-6


def test_a_tagger_speaks_before_the_user(monkeypatch: pytest.MonkeyPatch):
    class Two:
        def tags(self, picture: Picture) -> list[str]:
            return ["a dog", "grass"]

    model = tiny_model()
    monkeypatch.setattr(words, "installed_tagger", Two)
    image = torch.zeros(3, 8, 8)
    assert model.text_of(image, OsediffOptions()) == "a dog, grass, ,"
    assert model.text_of(image, OsediffOptions("in rain")) == "a dog, grass, in rain,"
    assert model.text_of(image, OsediffOptions("in rain", tagger="none")) == "in rain"


def test_published_outputs_have_the_colours_of_their_inputs(development_data: Path):
    """Section 5.4 on the authors' own results: AdaIN, then two cuts to 8 bits that darken by half a level."""
    folder = development_data / "dev" / "drealsr"
    shifts, ratios = [], []
    for file in sorted((folder / "osediff_official").glob("*.png"))[::6]:
        result = as_picture(file).rgb * 255
        lr = as_picture(folder / "LR" / file.name).rgb
        lr_up = resize(lr, (512, 512), convention="pillow").clamp(0, 1) * 255
        shifts.append(result.mean((2, 3)) - lr_up.mean((2, 3)))
        ratios.append(result.std((2, 3)) / lr_up.std((2, 3)))
    assert len(shifts) >= 5
    assert float(torch.cat(shifts).mean()) == pytest.approx(-0.5, abs=0.05)
    assert float(torch.cat(ratios).mean()) == pytest.approx(1.0, abs=0.01)
