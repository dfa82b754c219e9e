"""Bases as they are published: older names, a tokenizer in four files, half precision."""

import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file

from onestep import hub
from onestep.networks import prior_folders
from onestep.networks.diffusion_prior import DiffusionPrior
from prior_parts import as_published, plain_folder

TEXTS = ["a dog!", ""]


def seen(prior: DiffusionPrior) -> list[torch.Tensor]:
    """What every part of a prior makes of the same things."""
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    text = prior.text.embed(TEXTS)
    with torch.no_grad():
        latent = prior.encode(image)
        return [text, latent, prior.epsilon(latent, 999, text[:1]), prior.decode(latent)]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(hub.HOME_VARIABLE, str(tmp_path))
    return plain_folder(tmp_path / "base")


def test_a_published_folder_is_the_same_prior(base: Path):
    before = seen(prior_folders.load(str(base)))
    shutil.rmtree(base.parent / "prompts")
    prior = prior_folders.load(str(as_published(base)))
    for one, other in zip(before, seen(prior), strict=True):
        assert torch.equal(one, other)
    assert prior.text.tokenizer.pad_token_id == 0
    assert prior.text.tokens([""])[0, 2:].eq(0).all(), "padded with '!', as SD 2 was trained"


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_half_precision_is_read_into_single(base: Path, variant: str):
    for part in ("unet", "vae"):
        file = base / part / "diffusion_pytorch_model.safetensors"
        half = {name: tensor.half() for name, tensor in load_file(file).items()}
        file.unlink()
        save_file(half, file.with_name(f"diffusion_pytorch_model{variant}.safetensors"), {"format": "pt"})
    prior = prior_folders.load(str(base))
    assert {parameter.dtype for parameter in prior.parameters()} == {torch.float32}
    weight = prior.get_parameter("unet.conv_out.weight")
    assert torch.equal(weight, half_of(base, variant)["conv_out.weight"].float())


def half_of(base: Path, variant: str) -> dict[str, torch.Tensor]:
    return load_file(base / "unet" / f"diffusion_pytorch_model{variant}.safetensors")
