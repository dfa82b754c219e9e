"""S3Diff at work: what steers it, one step written out, guidance, prompts."""

import pytest
import torch

pytest.importorskip("diffusers")

from onestep.methods.s3diff import NEGATIVE, POSITIVE, S3diffConfig, S3diffOptions
from onestep.methods.s3diff.model import GENERATOR
from onestep.networks.gates import Matrices
from prior_parts import names_hash
from s3diff_parts import BAD, GOOD, acting_model, fresh_model, image, scores


@pytest.fixture(scope="module")
def model():
    return acting_model()


def embedded(model, *texts):
    return model.prior.text.embed(texts)


def restored(model, x, d, guidance=1.0, noise=None):
    """Of images at HR size; the mean of the posterior unless noise is given."""
    noise = torch.zeros(len(x), 4, *(side // 2 for side in x.shape[-2:])) if noise is None else noise
    wanted, unwanted = (one.expand(len(x), -1, -1) for one in embedded(model, GOOD, BAD)[:, None])
    with torch.no_grad():
        return model.restore(x, noise, model.matrices(d), wanted, unwanted, guidance)


def latents(model, x, d):
    with torch.no_grad(), model._acting(model.matrices(d)):
        return model.prior.encode(x)


def predicted(model, z, d):
    with torch.no_grad(), model._acting(model.matrices(d)):
        return model.prior.epsilon(z, 999, embedded(model, GOOD))


# what steers it


def test_a_fresh_model_is_the_prior_exactly():
    model = fresh_model()
    x, d = image(2), scores((0.2, 0.7), (0.9, 0.1))
    with torch.no_grad():
        base = model.prior.encode(x), model.prior.epsilon(torch.ones(2, 4, 8, 8), 999, embedded(model, ""))
        with model._acting(model.matrices(d)):
            adapted = (
                model.prior.encode(x),
                model.prior.epsilon(torch.ones(2, 4, 8, 8), 999, embedded(model, "")),
            )
    for one, other in zip(base, adapted, strict=True):
        assert torch.equal(one, other)
    for gating in (model.unet_gating, model.vae_gating):
        for one in gating.gated:
            a, b = one.layer.lora_A[one.adapter].weight, one.layer.lora_B[one.adapter].weight
            assert float(b.detach().abs().max()) == 0
            assert one.layer.scaling[one.adapter] == 8 / len(a)
    a = torch.cat([one.layer.lora_A["default"].weight.detach().flatten() for one in model.unet_gating.gated])
    assert a.std().item() == pytest.approx(1 / 4, rel=0.05)


@pytest.mark.parametrize("other", [(0.8, 0.3), (0.2, 0.6), (0.3, 0.2)])
def test_each_score_steers_encoder_and_unet_and_their_order_counts(model, other):
    """Item 6; the last case is the two scores exchanged."""
    first, second = scores((0.2, 0.3)), scores(other)
    x, z = image(), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float((latents(model, x, first) - latents(model, x, second)).abs().max()) > 1e-3
    assert float((predicted(model, z, first) - predicted(model, z, second)).abs().max()) > 1e-3


def test_an_embedding_steers_the_layers_of_its_block_alone():
    model = acting_model()
    x, d = image(), scores((0.4, 0.6))
    changed = []
    outputs = {}

    def keep(name):
        return lambda module, inputs, output: outputs.setdefault(name, []).append(output.clone())

    for one in model.vae_gating.gated:
        one.layer.lora_A["vae_skip"].register_forward_hook(keep(one.block))
    latents(model, x, d)
    with torch.no_grad():
        model.gates.vae.block_embeddings.weight[2] += 1.0  # the middle block of two levels
    first = {block: list(found) for block, found in outputs.items()}
    outputs.clear()
    latents(model, x, d)
    for block, found in outputs.items():
        if not all(torch.equal(a, b) for a, b in zip(found, first[block], strict=True)):
            changed.append(block)
    assert 2 in changed
    assert not {0, 1} & set(changed)  # they come before the middle


def test_each_image_of_a_batch_is_steered_by_its_own_scores(model):
    x, d = image(2), scores((0.1, 0.9), (0.8, 0.2))
    both = restored(model, x, d, guidance=1.5)
    for index in range(2):
        one = slice(index, index + 1)
        torch.testing.assert_close(
            both[one], restored(model, x[one], d[one], guidance=1.5), atol=2e-5, rtol=0
        )


def test_a_batch_under_one_prompt_each_is_two_passes(model):
    """Item 5: positive and negative stacked are the two alone, with the same gates."""
    z, d = torch.randn(2, 4, 16, 16), scores((0.1, 0.9), (0.8, 0.2))
    texts = embedded(model, GOOD, BAD)
    m = model.matrices(d)
    with torch.no_grad():
        with model._acting(m):
            alone = [model.prior.epsilon(z, 999, text[None]) for text in texts]
        with model._acting(Matrices(*(torch.cat([one] * 2) for one in (m.vae, m.unet)))):
            both = model.prior.epsilon(torch.cat([z, z]), 999, texts.repeat_interleave(2, 0))
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-4, rtol=0)


def test_plain_adapters_are_identity_gates():
    model = acting_model(gated=False)
    x = image()
    with torch.no_grad(), model.prior.using(GENERATOR):
        plain = model.prior.encode(x)
    assert torch.equal(latents(model, x, scores((0.5, 0.5))), plain)
    assert model.gates is None
    assert not [name for name in model.state_dict() if "gates" in name or "estimator" in name]


# one step


def test_one_step_is_that_of_the_ddpm_scheduler():
    """Item 8: z = 14.6488189 z_L - 14.6146466 eps, as a scheduler of one step has it."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [999]
    model = fresh_model()
    z, eps = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    found = model.prior.clean(z, eps, model.time)
    torch.testing.assert_close(found, scheduler.step(eps, 999, z).prev_sample, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found, 14.6488189 * z - 14.6146466 * eps, atol=1e-4, rtol=1e-6)


def stubbed(monkeypatch, model):
    """Latents are the image's corner, noise is 0.01 under the prompt and 0.02 else, decoding repeats."""
    monkeypatch.setattr(model.prior, "encode", lambda x, noise: x[:, :1, ::2, ::2].repeat(1, 4, 1, 1) * 0.01)
    positive = embedded(model, GOOD)

    def epsilon(z, t, text):
        is_wanted = (text == positive).flatten(1).all(1).reshape(-1, 1, 1, 1)
        return torch.where(is_wanted, 0.01, 0.02).expand(len(z), *z.shape[1:])

    monkeypatch.setattr(model.prior, "epsilon", epsilon)
    monkeypatch.setattr(
        model.prior, "decode", lambda z: z[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    )


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.07, 3.0])
def test_guidance_is_linear_in_the_noise(monkeypatch, guidance):
    """1 is the prompt's prediction alone, 0 the negative prompt's alone."""
    model = fresh_model()
    stubbed(monkeypatch, model)
    x = torch.full((1, 3, 16, 16), 0.3)
    found = restored(model, x, scores((0.5, 0.5)), guidance)
    eps = 0.02 + guidance * (0.01 - 0.02)
    wanted = 14.6488189 * 0.003 - 14.6146466 * eps
    torch.testing.assert_close(found, torch.full_like(x, max(-1.0, min(1.0, wanted))), atol=1e-5, rtol=0)


def test_guidance_one_asks_once_and_any_other_asks_in_one_batch(monkeypatch):
    model = fresh_model()
    stubbed(monkeypatch, model)
    inner, batches = model.prior.epsilon, []
    monkeypatch.setattr(
        model.prior, "epsilon", lambda z, t, text: (batches.append(len(z)), inner(z, t, text))[1]
    )
    for guidance in (1.0, 1.07):
        restored(model, image(3, 16), scores(*[(0.5, 0.5)] * 3), guidance)
    assert batches == [3, 6]


def test_images_come_up_bilinear_or_bicubic_and_clamped():
    model = fresh_model()
    lr = image(1, 8) * 1.5
    for up in ("bilinear", "bicubic"):
        wanted = torch.nn.functional.interpolate(lr, (32, 32), mode=up).clamp(-1, 1)
        assert torch.equal(model.enlarged(lr, up), wanted)


def test_prompts_are_those_of_the_model_unless_given():
    """The published ones letter by letter, for the published model."""
    config = S3diffConfig()
    assert (config.prompt, config.negative) == (POSITIVE, NEGATIVE)
    assert names_hash([POSITIVE]) == "0a636db9c28317c2"
    assert names_hash([NEGATIVE]) == "aaff042f6be5d9c8"
    model = acting_model()
    lr = image(1, 16)
    own = model.condition(lr, S3diffOptions())["text"][0]
    assert torch.equal(own, embedded(model, GOOD, BAD))
    given = model.condition(lr, S3diffOptions(prompt="another", negative=""))["text"][0]
    assert torch.equal(given, embedded(model, "another", ""))
