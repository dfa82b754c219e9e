"""Where the base of a prior comes from: a folder in diffusers layout, by path or by name, checked and read.

A name is looked up as :func:`onestep.hub.fetch_folder` does (``ONESTEP_HOME`` first, then mirrors); any other
folder name means a folder of that name in ``ONESTEP_HOME``.
"""

import json
import logging
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from onestep import hub
from onestep.core.errors import InputError, UsageError
from onestep.networks.diffusion_prior import DiffusionPrior, library
from onestep.networks.prior_config import PriorConfig, Schedule, TextShape
from onestep.networks.prompt_encoder import PromptEncoder, byte_tokenizer, folder_encoder, text_model

_log = logging.getLogger("onestep")

KNOWN = {"sd-2.1-base": PriorConfig(), "sd-turbo": PriorConfig()}
"""Shapes of bases, for estimates where the base itself is not there."""

_CONFIGS = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)


def find(base: str) -> Path:
    """The folder that a path or a name means.

    Raises:
        UsageError: No such folder.
        InputError: A known base is not here and cannot be downloaded; the line says what to put where.
    """
    path = Path(base).expanduser()
    if len(path.parts) > 1 or path.is_dir():
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder; a base model is a folder in diffusers layout")
        return path
    if base in hub.FOLDERS:
        return hub.fetch_folder(base)
    if base and (hub.home() / base).is_dir():
        return hub.home() / base
    raise UsageError(
        f"base model {base!r}: there is no folder {hub.home() / base}; put it, or a link to it, there; known "
        f"names: {', '.join(hub.FOLDERS)}"
    )


def link(base: str) -> None:
    """Let a folder be found by its name: a link in ``ONESTEP_HOME``, where nothing has that name yet.

    A release file names its base and holds no path of this machine; so a base that was given as a path when
    the file was made would not be found when it is used.
    """
    folder = Path(base).expanduser()
    place = hub.home() / folder.name
    if not folder.is_dir() or (place.exists() and place.samefile(folder)):
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder.resolve(), target_is_directory=True)
        _log.warning("the base will be looked for as %s: linked to %s", place, folder)
    except OSError as error:
        why = "another folder is there" if place.exists() else error.strerror
        _log.warning("the base will be looked for as %s, and no link could be made (%s)", place, why)


def load(base: str, own: PriorConfig | None = None) -> DiffusionPrior:
    """The prior of a folder, frozen; its state dict holds only what roles train.

    Args:
        base: Path or name of the folder.
        own: Shape of a prior that is part of a release file: it is built with fresh weights, and no folder
            is looked for.

    Raises:
        UsageError: The folder holds another kind of prior, or a part of it is missing.
        InputError: A part cannot be read.
    """
    if own is not None:
        return DiffusionPrior.build(own)
    folder = find(base)
    schedule = checked(folder)
    with library():
        from diffusers import AutoencoderKL, UNet2DConditionModel

        vae, unet = _part(AutoencoderKL, folder / "vae"), _part(UNet2DConditionModel, folder / "unet")
        text = folder_encoder(folder)
    return DiffusionPrior(vae, unet, text, schedule, whole=False)


def outline(base: str, own: PriorConfig | None = None) -> DiffusionPrior:
    """What ``load`` gives, without any numbers, on the device "meta".

    Raises:
        UsageError: The base is not known by name, and no folder of it is there.
    """
    with torch.device("meta"):
        if own is not None:
            return DiffusionPrior.build(own)
        if base in KNOWN and hub.locate_folder(base) is None:
            prior = DiffusionPrior.build(KNOWN[base])
        else:
            prior = _outline_of(find(base))
    prior.whole = False
    return prior


def checked(folder: Path) -> Schedule:
    """The schedule of a folder that holds a prior of the kind that is needed.

    Raises:
        UsageError: It holds another kind, or a part is missing; one line says which.
        InputError: A configuration cannot be read.
    """
    unet, vae, text, scheduler = (_settings(folder, name) for name in _CONFIGS)
    if (folder / "text_encoder_2").exists() or unet.get("addition_embed_type") is not None:
        raise UsageError(
            f"{folder}: a Stable Diffusion XL model; a Stable Diffusion 2.1-base (512) is needed"
        )
    kind = scheduler.get("prediction_type", "epsilon")
    if kind != "epsilon":
        raise UsageError(
            f"{folder}: predicts {kind!r}, as Stable Diffusion 2.1 for 768 pixels does; a model that "
            "predicts noise (epsilon) is needed: Stable Diffusion 2.1-base"
        )
    if unet.get("in_channels") != vae.get("latent_channels", 4):
        raise UsageError(
            f"{folder}: its U-Net takes {unet.get('in_channels')} channels and latents have "
            f"{vae.get('latent_channels', 4)}; an inpainting or depth model will not do"
        )
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        raise UsageError(
            f"{folder}: its U-Net wants {unet.get('cross_attention_dim')} numbers per token and its text "
            f"encoder gives {text.get('hidden_size')}; take all parts from one model"
        )
    if scheduler.get("beta_schedule", "linear") != "scaled_linear":
        raise UsageError(
            f"{folder}: its schedule is {scheduler.get('beta_schedule')}; scaled_linear is needed"
        )
    return Schedule(
        int(scheduler.get("num_train_timesteps", 1000)),
        float(scheduler.get("beta_start", 0.0001)),
        float(scheduler.get("beta_end", 0.02)),
    )


def _settings(folder: Path, name: str) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads((folder / name).read_text("utf-8")))
    except FileNotFoundError:
        raise UsageError(f"{folder}: not a prior in diffusers layout: {name} is missing") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / name}: cannot be read ({error}); fetch it again") from error


def _part(kind: Any, folder: Path) -> nn.Module:
    """U-Net or VAE of a folder, in float32."""
    plain = list(folder.glob("*.safetensors")) + list(folder.glob("*.bin"))
    if not plain:
        raise UsageError(f"{folder}: holds no weights (*.safetensors); fetch them")
    half = all(".fp16." in path.name for path in plain)
    try:
        return cast(
            "nn.Module",
            kind.from_pretrained(
                str(folder),
                local_files_only=True,
                torch_dtype=torch.float32,
                variant="fp16" if half else None,
            ),
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        said = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
        raise InputError(
            f"{folder}: its weights cannot be loaded ({said[:160]}); fetch them again"
        ) from error


def _outline_of(folder: Path) -> DiffusionPrior:
    schedule = checked(folder)
    with library():
        from diffusers import AutoencoderKL, UNet2DConditionModel

        kinds: tuple[Any, Any] = (AutoencoderKL, UNet2DConditionModel)
        vae, unet = (
            kind.from_config(_settings(folder, f"{part}/config.json"))
            for kind, part in zip(kinds, ("vae", "unet"), strict=True)
        )
        width = int(_settings(folder, "text_encoder/config.json")["hidden_size"])
        shape = TextShape(width=width, inner=4 * width, layers=1, heads=1)
        text = PromptEncoder(byte_tokenizer(), text_model(shape))
    return DiffusionPrior(vae, unet, text, schedule, whole=False)
