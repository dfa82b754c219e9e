"""Official files of OSEDiff (github.com/cswry/OSEDiff), in the two layouts in circulation.

    {"state_dict_unet", "state_dict_vae", "rank_unet", "rank_vae", three lists of module names}
        what was trained: 518 + 64 tensors; the release file names the base
    {"vae", "unet"}
        merged: whole networks, sums W + 2 B A with Stable Diffusion 2.1-base; the base must be there

The first is converted exactly. Of the second the base is subtracted; what is left has the adapters' rank, and
a singular value decomposition gives factors with the same product. Release files are alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from onestep.checkpoint import Card
from onestep.convert.cards import converted
from onestep.convert.reading import first_mismatch, open_official, owned
from onestep.core.config import override
from onestep.core.errors import InputError
from onestep.methods.osediff import Osediff, OsediffConfig
from onestep.networks import prior_folders
from onestep.networks.adapters import ALPHA, change

_PARTS = ("unet", "vae")
_LISTS = {
    "encoder": "unet_lora_encoder_modules",
    "decoder": "unet_lora_decoder_modules",
    "others": "unet_lora_others_modules",
}
_CLOSE = 2e-3
"""Largest relative rest that a merged weight may have beside its low-rank change."""


@dataclass(frozen=True)
class OsediffFacts:
    """What an OSEDiff file does not tell."""

    base: str = "sd-2.1-base"
    """Name or folder of the base that it was trained on."""
    scale: int = 4
    rank: int = 4
    """Of the adapters of a merged file."""


def from_official(path: Path, name: str, options: Mapping[str, str]) -> tuple[dict[str, Tensor], Card]:
    """The tensors and the card of a release file, from an official OSEDiff file.

    Args:
        path: The official file.
        name: The name the model will have.
        options: Overrides of `OsediffFacts`, as text.

    Raises:
        UsageError: An option is unknown or has an impossible value; the base is of another kind.
        InputError: The file is of another layout or does not fit: one line with the first mismatch; or a
            merged file's base is not there.
    """
    facts = override(OsediffFacts(), [f"{key}={value}" for key, value in options.items()])
    content = open_official(path)
    layout = cast("Mapping[str, Any]", content) if isinstance(content, Mapping) else {}
    if all(isinstance(layout.get(f"state_dict_{part}"), Mapping) for part in _PARTS):
        config = OsediffConfig(
            facts.base, scale=facts.scale, rank_unet=_rank(layout, "unet"), rank_vae=_rank(layout, "vae")
        )
        model = config.outline()
        tensors = _adapters(path, layout, model)
    elif all(isinstance(layout.get(part), Mapping) for part in _PARTS):
        config = OsediffConfig(facts.base, scale=facts.scale, rank_unet=facts.rank, rank_vae=facts.rank)
        model = config.build()
        tensors = _split(path, layout, model, facts.rank)
    else:
        holds = ", ".join(str(key) for key in list(layout)[:5]) or f"a {type(content).__name__}"
        raise InputError(
            f"{path}: not an OSEDiff checkpoint: it holds {holds}; expected state_dict_unet and "
            "state_dict_vae, or unet and vae"
        )
    prior_folders.link(facts.base)
    return tensors, _card(name, model)


def _rank(layout: Mapping[str, Any], part: str) -> int:
    found = layout.get(f"rank_{part}", 4)
    return int(found) if isinstance(found, int | Tensor) else 4


def _adapters(path: Path, layout: Mapping[str, Any], model: Osediff) -> dict[str, Tensor]:
    """What was trained, under the names of the release file; the lists of modules must be ours."""
    for part, key in _LISTS.items():
        ours, theirs = model.prior.unet_adapters.targets[part], layout.get(key)
        if isinstance(theirs, list) and set(ours) != set(cast("list[str]", theirs)):
            odd = sorted(set(ours) ^ set(cast("list[str]", theirs)))[0]
            raise InputError(
                f"{path}: adapts other modules than Stable Diffusion 2.1-base has: {odd} in {key}"
            )
    found: dict[str, Any] = {}
    for part in _PARTS:
        state = cast("Mapping[str, Any]", layout[f"state_dict_{part}"])
        found |= {f"prior.{part}.{key}": value for key, value in state.items()}
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    mismatch = first_mismatch(wanted, found)
    if mismatch:
        raise InputError(f"{path}: does not fit OSEDiff's {len(wanted)} tensors: {mismatch}")
    return owned({key: cast("Tensor", found[key]) for key in wanted})


def _split(path: Path, layout: Mapping[str, Any], model: Osediff, rank: int) -> dict[str, Tensor]:
    """Adapters whose products are the differences between merged networks and their base.

    The U-Net's first convolution is taken over whole, and its adapter does nothing.
    """
    tensors: dict[str, Tensor] = {}
    for part, adapters in (("unet", model.prior.unet_adapters), ("vae", model.prior.vae_adapters)):
        plain, merged = _plain(adapters.network), cast("Mapping[str, Any]", layout[part])
        mismatch = first_mismatch({key: tuple(value.shape) for key, value in plain.items()}, merged)
        if mismatch:
            raise InputError(f"{path}: its {part} is not that of the base: {mismatch}")
        adapted = {name: group for group, names in adapters.targets.items() for name in names}
        for key, value in plain.items():
            if part == "unet" and key.startswith("conv_in."):
                continue
            difference = merged[key].float() - value.float()
            group = adapted.get(key.removesuffix(".weight"))
            if group is not None:
                a, b = factors(difference, rank)
                start = f"prior.{part}.{key.removesuffix('.weight')}"
                tensors[f"{start}.lora_A.default_{group}.weight"] = a
                tensors[f"{start}.lora_B.default_{group}.weight"] = b
                difference = difference - change(a, b)
            if float(difference.norm()) > _CLOSE * float(value.norm().clamp_min(1e-6)):
                raise InputError(
                    f"{path}: {part} {key} is not that of {model.config.base} with a change of rank {rank}; "
                    "name the base and the rank: -O base=FOLDER -O rank=N"
                )
    state = model.state_dict()
    for key, value in state.items():
        if key.startswith("prior.unet.conv_in.base_layer."):
            tensors[key] = layout["unet"][f"conv_in.{key.rsplit('.', 1)[1]}"]
        elif key.startswith("prior.unet.conv_in."):
            tensors[key] = torch.zeros_like(value) if "lora_B" in key else value
    return owned({key: tensors[key] for key in state})


def _plain(network: nn.Module) -> dict[str, Tensor]:
    """The base's own tensors, under their names without adapters."""
    found: dict[str, Tensor] = {}
    trained = {f"conv_in.base_layer.{name}" for name in ("weight", "bias")}
    own = network.state_dict()
    if "conv_in.base_layer.copies.base.weight" not in own:
        trained = set[str]()
    for key, value in own.items():
        if "lora_" not in key and key not in trained:
            found[key.replace(".base_layer", "").replace(".copies.base", "")] = value
    return found


def factors(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A and B with (ALPHA / rank) B A equal to the part of that rank of a change of weights.

    A randomised singular value decomposition (Halko et al., 2011), exact where the rank is no higher.

    Args:
        difference: (outputs, inputs) or (outputs, inputs, k, k).
        rank: Of the factors.

    Returns:
        A (rank, inputs[, k, k]) and B (outputs, rank[, 1, 1]).
    """
    flat = difference.reshape(len(difference), -1)
    probes = torch.randn(flat.shape[1], rank + 8, generator=torch.Generator().manual_seed(0))
    basis, _ = torch.linalg.qr(flat @ probes)
    u, s, v = torch.linalg.svd(basis.T @ flat, full_matrices=False)
    root = (s[:rank] * rank / ALPHA).sqrt()
    b, a = (basis @ u[:, :rank]) * root, root[:, None] * v[:rank]
    short = rank - len(root)
    b, a = functional.pad(b, (0, short)), functional.pad(a, (0, 0, 0, short))
    if difference.ndim == 4:
        return a.reshape(rank, *difference.shape[1:]), b[..., None, None]
    return a, b


def _card(name: str, model: Osediff) -> Card:
    return converted(
        name,
        "osediff",
        model.config,
        model,
        license="Apache-2.0 (the base has its own: CreativeML Open RAIL++-M)",
        limits=[
            "Needs its base, which is not part of this file.",
            "Trained on pictures of 512 pixels, degraded by Real-ESRGAN x4; with prompts by a tagger.",
        ],
        attributions=["R. Wu et al., OSEDiff, arXiv 2406.08177; weights: github.com/cswry/OSEDiff"],
    )
