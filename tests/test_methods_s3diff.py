"""S3Diff at work: what steers it, one step written out, guidance, folding, any size, files, options."""

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from onestep import checkpoint
from onestep.core.config import override, to_dict
from onestep.core.errors import UsageError
from onestep.core.picture import as_picture
from onestep.core.synthetic import synthetic
from onestep.methods import build
from onestep.methods.s3diff import NEGATIVE, POSITIVE, S3diffConfig, S3diffOptions
from onestep.methods.s3diff.model import GENERATOR
from onestep.networks.gates import Matrices
from onestep.upscaler import Upscaler
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


# folding


def up_with(model):
    return Upscaler(model, device="cpu", dtype="float32")


def photo(height=8, width=12):
    side = max(height, width)
    return as_picture(synthetic(side, torch.Generator().manual_seed(4))[:, :height, :width])


def test_folded_and_live_gates_give_the_same_picture():
    model = acting_model()
    up = up_with(model)
    live = up(photo(), gates="live")
    assert not model.unet_gating.folded
    folded = up(photo(), gates="folded")
    assert model.unet_gating.folded
    assert float(np.abs(live.array - folded.array).max()) < 1e-4
    other = up(photo(8, 8), gates="folded", blur=0.9)  # another picture: folded anew
    assert float(np.abs(other.array - up(photo(8, 8), gates="live", blur=0.9).array).max()) < 1e-4
    assert not model.unet_gating.folded


def test_a_folded_model_saves_and_loads_its_plain_weights():
    model = acting_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    up_with(model)(photo(), gates="folded")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    up_with(model)(photo(), gates="folded")
    model.to(torch.float64)
    assert not model.unet_gating.folded


def test_gates_that_are_trained_are_not_folded():
    model = acting_model()
    model.gates.requires_grad_(True)
    condition = model.condition(image(1, 8), S3diffOptions(gates="folded"))
    assert float(condition["numbers"][0, 2]) == 0


def test_low_precision_stays_close():
    exact = up_with(acting_model())(photo())
    for gates in ("live", "folded"):
        low = Upscaler(acting_model(), device="cpu", dtype="bfloat16")(photo(), gates=gates)
        assert float(np.abs(low.array - exact.array).mean()) < 0.05


# pictures


@pytest.mark.parametrize(("height", "width"), [(13, 21), (5, 3), (8, 8)])
def test_the_size_is_exactly_four_times(height, width):
    result = up_with(acting_model())(photo(height, width))
    assert (result.height, result.width) == (4 * height, 4 * width)


def test_the_scores_are_those_of_the_picture_unless_given():
    model = acting_model()
    lr = image(1, 16)
    with torch.no_grad():
        estimated = model.estimator(lr)
    free = model.condition(lr, S3diffOptions())["degradation"]
    assert torch.equal(free, estimated)
    one = model.condition(lr, S3diffOptions(noise=0.25))["degradation"]
    assert torch.equal(one, torch.stack([estimated[0, 0], torch.tensor(0.25)])[None])
    assert model.condition(lr, S3diffOptions(blur=0.0, noise=1.0))["degradation"].tolist() == [[0.0, 1.0]]


def test_the_estimator_sees_the_picture_without_padding(monkeypatch):
    model = acting_model()
    model.traits = dataclasses.replace(model.traits, multiple_of=8, minimum=16)
    seen, inner = [], model.estimator.forward
    monkeypatch.setattr(model.estimator, "forward", lambda x: (seen.append(tuple(x.shape[-2:])), inner(x))[1])
    result = up_with(model)(photo(13, 21))
    assert seen == [(13, 21)]
    assert (result.height, result.width) == (52, 84)


def test_tiles_share_the_scores_of_the_picture(monkeypatch):
    """A picture whose right half alone is noisy: every tile gets the scores of the whole."""
    model = acting_model()
    seen = []
    matrices = model.matrices
    monkeypatch.setattr(model, "matrices", lambda d: (seen.append(d.clone()), matrices(d))[1])
    up_with(model)(photo(16, 40), tile=24, overlap=8, gates="live")
    assert len(seen) > 1
    assert all(torch.equal(one, seen[0]) for one in seen)


def test_seeds_decide_samples_and_nothing_else():
    up = up_with(acting_model())
    first, again, other = (up(photo(), seed=seed).array for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    mean, same = (up(photo(), seed=seed, posterior="mean").array for seed in (0, 1))
    assert np.array_equal(mean, same)


def test_cached_prompts_change_nothing():
    model = acting_model()
    first = up_with(model)(photo()).array
    assert np.array_equal(first, up_with(model)(photo()).array)
    model.prior.text.forget()
    assert np.array_equal(first, up_with(model)(photo()).array)


@pytest.mark.parametrize(("text", "value"), [("blur=0.4", 0.4), ("blur=none", None), ("noise=1", 1.0)])
def test_options_are_read_from_the_command_line(text, value):
    assert getattr(override(S3diffOptions(), [text]), text.partition("=")[0]) == value


def test_scores_outside_their_range_are_refused():
    with pytest.raises(UsageError, match=r"blur 1\.5 is impossible"):
        up_with(acting_model())(photo(), blur=1.5)


# files


def test_a_release_file_restores_bit_by_bit(tmp_path):
    model = acting_model()
    card = checkpoint.Card(
        "mine", "s3diff", to_dict(model.config), to_dict(model.traits), 1, "CC0", None, "0"
    )
    checkpoint.write(tmp_path / "mine.safetensors", model.state_dict(), card)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        loaded = build(card.method, checkpoint.read_card(tmp_path / "mine.safetensors").config)
    assert not torch.equal(loaded.gates.w, model.gates.w)
    checkpoint.load(loaded, checkpoint.read(tmp_path / "mine.safetensors")[0], tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    loaded.latent_tile = model.latent_tile
    assert np.array_equal(up_with(model)(photo()).array, up_with(loaded)(photo()).array)


def test_what_ships_beside_a_base_is_what_was_trained():
    """62 + 516 tensors of the published shape, W, the estimator; nothing of the base."""
    names = set(S3diffConfig().outline().state_dict())
    unet = {name for name in names if name.startswith("prior.unet.")}
    vae = {name for name in names if name.startswith("prior.vae.")}
    assert (len(unet), len(vae)) == (516, 62)
    assert {"prior.unet.conv_in.weight", "prior.unet.conv_in.bias"} <= unet
    assert "prior.unet.down_blocks.0.attentions.0.proj_in.lora_A.default.weight" in unet
    assert "prior.vae.encoder.conv_in.lora_A.vae_skip.weight" in vae
    estimator = {name for name in names if name.startswith("estimator.")}
    assert len(estimator) == 80
    rest = names - unet - vae - estimator
    assert len(rest) == 1 + 2 * 7
    assert names_hash(rest) == names_hash(
        ["gates.w"]
        + [
            f"gates.{net}.{part}"
            for net in ("vae", "unet")
            for part in (
                "de_mlp.0.weight",
                "de_mlp.0.bias",
                "block_mlp.0.weight",
                "block_mlp.0.bias",
                "fuse_mlp.weight",
                "fuse_mlp.bias",
                "block_embeddings.weight",
            )
        ]
    )


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


def test_settings_without_meaning_are_refused():
    with pytest.raises(UsageError, match="rank_unet=0"):
        dataclasses.replace(fresh_model().config, rank_unet=0)
