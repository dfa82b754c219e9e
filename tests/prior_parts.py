"""Tiny priors and their folders, for the tests of everything that stands on a prior."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onestep.core.picture import Picture, as_picture
from onestep.core.synthetic import synthetic
from onestep.methods.osediff import Osediff, OsediffConfig
from onestep.networks.diffusion_prior import DiffusionPrior
from onestep.networks.prior_config import PriorConfig

TINY = PriorConfig.tiny()


def names_hash(names: Iterable[str]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the sorted distinct names, one per line."""
    return hashlib.sha256("\n".join(sorted(set(names))).encode()).hexdigest()[:16]


def shaken(parameters: Iterable[nn.Parameter], by: float = 0.05, seed: int = 0) -> None:
    """Move parameters by noise, so that what was zero acts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * by)


def tiny_prior(*, fake: bool = False) -> DiffusionPrior:
    """A prior with the role of a generator, and of a fake score where asked for."""
    torch.manual_seed(0)
    prior = DiffusionPrior.build(TINY).eval()
    prior.add_role("generator", 4, vae_rank=4, prefix="default", full=True)
    prior.ships = "generator"
    if fake:
        prior.add_role("fake", 4, full=False)
    return prior


def tiny_model(**settings: Any) -> Osediff:
    """A generator on a tiny prior that is part of it, whose adapters act."""
    torch.manual_seed(0)
    model = OsediffConfig(base="tiny", prior=TINY, **settings).build().eval()
    shaken(model.prior.parameters_of("generator"))
    return model


def photo(height: int = 20, width: int = 28) -> Picture:
    """A synthetic picture, always the same."""
    side = max(height, width)
    return as_picture(synthetic(side, torch.Generator().manual_seed(4))[:, :height, :width])


def folder_of(prior: DiffusionPrior, folder: Path, prediction: str = "epsilon") -> Path:
    """Write a prior in diffusers layout."""
    any_prior: Any = prior
    any_prior.unet.save_pretrained(folder / "unet")
    any_prior.vae.save_pretrained(folder / "vae")
    any_prior.text.model.save_pretrained(folder / "text_encoder")
    any_prior.text.tokenizer.save_pretrained(folder / "tokenizer")
    schedule = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        "clip_sample": False,
        "steps_offset": 1,
    }
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    return folder


def plain_folder(folder: Path, prediction: str = "epsilon") -> Path:
    """A folder with a tiny prior without adapters."""
    torch.manual_seed(0)
    return folder_of(DiffusionPrior.build(TINY), folder, prediction)


def as_published(folder: Path) -> Path:
    """Write a folder of ``plain_folder`` anew, as published ones are.

    The tokenizer is in four files, and padding is "!" in one of them and the end marker in another. The text
    encoder's names have a prefix and its positions are stored; the VAE's attention has the older names.
    """
    import shutil

    from safetensors.torch import load_file, save_file
    from transformers import CLIPTokenizer

    words = CLIPTokenizer.from_pretrained(str(folder / "tokenizer")).get_vocab()
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    markers = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    files = {
        "vocab.json": json.dumps(words),
        "merges.txt": "#version: 0.2\n",
        "special_tokens_map.json": json.dumps({**markers, "pad_token": "!"}),
        "tokenizer_config.json": json.dumps(
            {**markers, "pad_token": "<|endoftext|>", "model_max_length": 77, "do_lower_case": True}
        ),
    }
    for name, content in files.items():
        (folder / "tokenizer" / name).write_text(content)
    file = folder / "text_encoder" / "model.safetensors"
    state = {f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    save_file({**state, "text_model.embeddings.position_ids": torch.arange(77)[None]}, file, {"format": "pt"})
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = load_file(file)
    for new, old in older.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    save_file(state, file, {"format": "pt"})
    return folder
