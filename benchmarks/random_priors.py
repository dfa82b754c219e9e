"""A home for ``benchmarks/priors.py``: two bases with random weights, and files of the published layouts.

    python benchmarks/random_priors.py HOME [--tiny]

Writes Stable Diffusion 2.1-base and SD-Turbo as their published folders are laid out, in half precision and
full size (2.7 GB; the second one by links to the first), and what the authors of OSEDiff and S3Diff
published, with random numbers; then converts these as a user would. HOME is an ``ONESTEP_HOME``.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onestep.methods.s3diff.model import NEGATIVE, POSITIVE
from onestep.networks.degradation_estimator import DegradationEstimator, EstimatorConfig
from onestep.networks.prior_config import PriorConfig
from onestep.networks.prompt_encoder import byte_tokenizer


def tiny() -> PriorConfig:
    """The same in small, for rehearsals."""
    config = PriorConfig.tiny()
    return replace(config, text=replace(config.text, vocabulary=1024))


def make(home: Path, config: PriorConfig) -> None:
    """Two bases in the layout and under the names of the published ones, and files to convert."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    base, turbo = home / "sd-2.1-base", home / "sd-turbo"
    text = CLIPTextConfig(**config.text.arguments())
    with torch.device("meta"):
        vae = AutoencoderKL(**config.vae.arguments())
        unet = UNet2DConditionModel(**config.unet.arguments(config.vae.latent, config.text.width))
        encoder = CLIPTextModel(text)
    for part, network in (("vae", vae), ("unet", unet)):
        network.save_config(base / part)
        fill(network, base / part / "diffusion_pytorch_model.safetensors")
    text.save_pretrained(base / "text_encoder")
    fill(encoder, base / "text_encoder" / "model.safetensors", "text_model.")
    words, merges = vocabulary()
    markers = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    for file, content in {
        "vocab.json": json.dumps(words),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "special_tokens_map.json": json.dumps({**markers, "pad_token": "!"}),
        "tokenizer_config.json": json.dumps({**markers, "model_max_length": config.text.length}),
    }.items():
        (base / "tokenizer").mkdir(exist_ok=True)
        (base / "tokenizer" / file).write_text(content)
    schedule = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
    schedule |= {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", "clip_sample": False}
    for folder, kind in ((base, "DDPMScheduler"), (turbo, "EulerDiscreteScheduler")):
        (folder / "scheduler").mkdir(parents=True, exist_ok=True)
        content = json.dumps({"_class_name": kind, **schedule})
        (folder / "scheduler" / "scheduler_config.json").write_text(content)
    for file in base.rglob("*.*"):
        if file.is_file() and file.parent.name != "scheduler":
            (turbo / file.parent.name).mkdir(exist_ok=True)
            with suppress(FileExistsError):
                os.link(file, turbo / file.relative_to(base))
    official(home)


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """Bytes, and the words of the fixed prompts of S3Diff, which would not fit as bytes."""
    known, merges = byte_tokenizer().get_vocab(), dict[str, None]()
    for word in re.findall(r"[a-z]+", f"{POSITIVE} {NEGATIVE}".lower()):
        start, *rest = [*word[:-1], f"{word[-1]}</w>"]
        for letter in rest:
            merges[f"{start} {letter}"], start = None, start + letter
            known.setdefault(start, len(known))
    return known, list(merges)


def fill(network: nn.Module, path: Path, prefix: str = "") -> None:
    """Write random weights of a network on the device "meta", in half precision, as a fresh one has them."""
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            value = torch.full(parameter.shape, float(name.endswith("weight")))
        else:
            bound = 0.02 if "embedding" in name else parameter[0].numel() ** -0.5
            value = torch.empty(parameter.shape).uniform_(-bound, bound)
        state[prefix + name] = value.half()
    save_file(state, path, {"format": "pt"})


def official(home: Path) -> None:
    """Files of the published layouts with random numbers: what ``onestep convert`` is for."""
    from onestep.methods.osediff import OsediffConfig
    from onestep.methods.s3diff import S3diffConfig

    def numbers(state: dict[str, Tensor], start: str) -> dict[str, Tensor]:
        chosen = {k.removeprefix(start): v.shape for k, v in state.items() if k.startswith(start)}
        size = {key: 1e-3 if "lora_B" in key else shape[-1] ** -0.5 for key, shape in chosen.items()}
        return {key: torch.randn(shape) * size[key] for key, shape in chosen.items()}

    for part in ("sd-2.1-base", "sd-turbo"):
        assert (home / part).is_dir(), "the bases must be there first"
    ose, s3 = OsediffConfig().outline(), S3diffConfig().outline()
    state, targets = ose.state_dict(), ose.prior.unet_adapters.targets
    lists = {f"unet_lora_{part}_modules": targets[part] for part in ("encoder", "decoder", "others")}
    lists["vae_lora_encoder_modules"] = ose.prior.vae_adapters.targets["encoder"]
    parts = {f"state_dict_{part}": numbers(state, f"prior.{part}.") for part in ("unet", "vae")}
    torch.save({**lists, "rank_unet": 4, "rank_vae": 4, **parts}, home / "osediff.pkl")
    state = s3.state_dict()
    layout: dict[str, Any] = {"rank_unet": s3.config.rank_unet, "rank_vae": s3.config.rank_vae}
    layout |= {"unet_lora_target_modules": [], "vae_lora_target_modules": "", "w": torch.randn(64)}
    layout["state_embeddings"] = {}
    for part in ("unet", "vae"):
        layout[f"state_dict_{part}"] = numbers(state, f"prior.{part}.")
        for mlp in ("de_mlp", "block_mlp", "fuse_mlp"):
            layout[f"state_dict_{part}_{mlp}"] = numbers(state, f"gates.{part}.{mlp}.")
        blocks = numbers(state, f"gates.{part}.block_embeddings.")
        layout["state_embeddings"][f"state_dict_{part}_block"] = blocks
    torch.save(layout, home / "s3diff.pkl")
    torch.save(DegradationEstimator(EstimatorConfig()).state_dict(), home / "de_net.pth")


def commands(home: Path) -> list[list[str]]:
    """What a user types to convert both files."""
    words = {"osediff": [], "s3diff": ["-O", f"estimator={home / 'de_net.pth'}"]}
    return [
        ["convert", f"{home / name}.pkl", "--method", name, "-o", f"{home / name}.safetensors", *more]
        for name, more in words.items()
    ]


def main() -> None:
    """Make the folder, and convert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    home = given.home.resolve()
    os.environ["ONESTEP_HOME"] = str(home)
    make(home, tiny() if given.tiny else PriorConfig())
    for words in commands(home):
        subprocess.run([sys.executable, "-m", "onestep", *words], check=True)


if __name__ == "__main__":
    main()
