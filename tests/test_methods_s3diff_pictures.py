"""S3Diff and its pictures: folded gates, any size, scores, tiles, seeds, options, release files."""

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from onestep import checkpoint
from onestep.core.config import override, to_dict
from onestep.core.errors import UsageError
from onestep.methods import build
from onestep.methods.s3diff import S3diffConfig, S3diffOptions
from onestep.upscaler import Upscaler
from prior_parts import names_hash, photo
from s3diff_parts import acting_model, fresh_model, image

# folding


def up_with(model):
    return Upscaler(model, device="cpu", dtype="float32")


def test_folded_and_live_gates_give_the_same_picture():
    model = acting_model()
    up = up_with(model)
    live = up(photo(8, 12), gates="live")
    assert not model.unet_gating.folded
    folded = up(photo(8, 12), gates="folded")
    assert model.unet_gating.folded
    assert float(np.abs(live.array - folded.array).max()) < 1e-4
    other = up(photo(8, 8), gates="folded", blur=0.9)  # another picture: folded anew
    assert float(np.abs(other.array - up(photo(8, 8), gates="live", blur=0.9).array).max()) < 1e-4
    assert not model.unet_gating.folded


def test_a_folded_model_saves_and_loads_its_plain_weights():
    model = acting_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    up_with(model)(photo(8, 12), gates="folded")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    up_with(model)(photo(8, 12), gates="folded")
    model.to(torch.float64)
    assert not model.unet_gating.folded


def test_gates_that_are_trained_are_not_folded():
    model = acting_model()
    model.gates.requires_grad_(True)
    condition = model.condition(image(1, 8), S3diffOptions(gates="folded"))
    assert float(condition["numbers"][0, 2]) == 0


def test_low_precision_stays_close():
    exact = up_with(acting_model())(photo(8, 12))
    for gates in ("live", "folded"):
        low = Upscaler(acting_model(), device="cpu", dtype="bfloat16")(photo(8, 12), gates=gates)
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
    first, again, other = (up(photo(8, 12), seed=seed).array for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    mean, same = (up(photo(8, 12), seed=seed, posterior="mean").array for seed in (0, 1))
    assert np.array_equal(mean, same)


def test_cached_prompts_change_nothing():
    model = acting_model()
    first = up_with(model)(photo(8, 12)).array
    assert np.array_equal(first, up_with(model)(photo(8, 12)).array)
    model.prior.text.forget()
    assert np.array_equal(first, up_with(model)(photo(8, 12)).array)


@pytest.mark.parametrize(("text", "value"), [("blur=0.4", 0.4), ("blur=none", None), ("noise=1", 1.0)])
def test_options_are_read_from_the_command_line(text, value):
    assert getattr(override(S3diffOptions(), [text]), text.partition("=")[0]) == value


def test_scores_outside_their_range_are_refused():
    with pytest.raises(UsageError, match=r"blur 1\.5 is impossible"):
        up_with(acting_model())(photo(8, 12), blur=1.5)


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
    assert np.array_equal(up_with(model)(photo(8, 12)).array, up_with(loaded)(photo(8, 12)).array)


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


def test_settings_without_meaning_are_refused():
    with pytest.raises(UsageError, match="rank_unet=0"):
        dataclasses.replace(fresh_model().config, rank_unet=0)
