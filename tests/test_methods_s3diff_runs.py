"""S3Diff's training runs: from the files of prior and estimator, continued, refused, as published."""

import dataclasses
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from onestep import checkpoint
from onestep.core.config import to_dict
from onestep.core.errors import InputError, UsageError
from onestep.estimates import load_estimator
from onestep.methods.degradation import EstimatorModelConfig
from onestep.methods.prior import PriorModelConfig
from onestep.methods.s3diff import S3diffTraining
from onestep.recipes import recipe
from onestep.train import train
from prior_parts import TINY
from s3diff_parts import ESTIMATOR


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> tuple[Path, Path]:
    """Release files of a tiny prior and of a tiny estimator."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    for name, method, config in (
        ("tiny-prior", "prior", PriorModelConfig(TINY)),
        ("estimator", "degradation-estimator", EstimatorModelConfig(ESTIMATOR)),
    ):
        model = config.build()
        card = checkpoint.Card(name, method, to_dict(config), to_dict(model.traits), 1, "CC0", None, "0")
        checkpoint.write(folder / f"{name}.safetensors", model.state_dict(), card)
    return folder / "tiny-prior.safetensors", folder / "estimator.safetensors"


def toy(parts, **settings):
    found = recipe("s3diff-toy")
    made = dataclasses.replace(found.objective, prior=str(parts[0]), estimator=str(parts[1]), **settings)
    quick = dataclasses.replace(found.train, steps=2, batch=2, save_every=1, log_every=1)
    check = dataclasses.replace(found.check, every=0)
    return dataclasses.replace(found, objective=made, train=quick, check=check)


def test_a_run_starts_from_the_files_of_prior_and_estimator(parts, tmp_path):
    released = train(toy(parts), tmp_path / "run", device="cpu")
    tensors, card = checkpoint.read(released)
    assert (card.method, card.config["base"]) == ("s3diff", "tiny-prior")
    prior, estimator = (checkpoint.read(path)[0] for path in parts)
    assert torch.equal(tensors["estimator.conv_first.0.weight"], estimator["net.conv_first.0.weight"])
    name = "prior.unet.mid_block.resnets.0.conv1"
    assert torch.equal(tensors[f"{name}.base_layer.weight"], prior[f"{name}.weight"])
    assert not torch.equal(tensors["prior.unet.conv_in.weight"], prior["prior.unet.conv_in.weight"])
    known = load_estimator(released)  # what it was trained with can be taken out again
    assert torch.equal(known.conv_first[0].weight, estimator["net.conv_first.0.weight"])


@pytest.mark.parametrize(("start", "size"), [("zero", 0.0), ("plain", 1.0)])
def test_gates_start_closed_or_as_plain_adapters(parts, start, size):
    model = toy(parts, start=start).objective.build().model
    matrices = model.matrices(torch.tensor([[0.3, 0.8]]))
    for found in (matrices.vae, matrices.unet):
        wanted = size * torch.eye(found.shape[-1]).expand_as(found)
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


def test_a_stopped_run_continues_bit_by_bit(parts, tmp_path):
    whole = train(toy(parts), tmp_path / "whole", device="cpu")
    one = toy(parts)
    half = dataclasses.replace(one, train=dataclasses.replace(one.train, steps=1))
    train(half, tmp_path / "parts", device="cpu")
    (tmp_path / "parts" / "recipe.json").unlink()
    resumed = train(one, tmp_path / "parts", device="cpu")
    first, second = (checkpoint.read(path)[0] for path in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_wrong_files_are_refused_in_one_line(parts, tmp_path):
    prior, estimator = parts
    with pytest.raises(UsageError, match="a release file of 'prior' is needed"):
        S3diffTraining(prior=str(estimator), estimator=str(estimator)).build()
    with pytest.raises(UsageError, match="'degradation-estimator' is needed"):
        S3diffTraining(prior=str(prior), estimator=str(prior)).build()
    with pytest.raises(InputError, match="no such file"):
        S3diffTraining(prior=str(tmp_path / "none.safetensors"), estimator=str(estimator)).build()
    with pytest.raises(UsageError, match="negatives=2"):
        S3diffTraining(negatives=2)


def test_the_published_recipe_has_the_published_numbers():
    made = recipe("s3diff-x4")
    one, loop = made.objective, made.train
    assert (one.mse, one.perceptual, one.perceptual_net, one.adversarial) == (2.0, 5.0, "vgg", 0.5)
    assert (one.negatives, one.clean, one.up, one.leak) == (0.05, 0.01, "bicubic", False)
    assert one.discriminator.features == "dino"
    assert (loop.batch, loop.clip, loop.ema, made.degradation, made.data.crop) == (
        64,
        1.0,
        None,
        "s3diff",
        512,
    )
    for moves in loop.optimizers.values():
        assert (moves.kind, moves.lr, moves.betas, moves.weight_decay) == ("adamw", 2e-5, (0.9, 0.999), 1e-2)
        assert (moves.warmup, moves.decay_to, moves.eps) == (0, 1.0, 1e-8)
