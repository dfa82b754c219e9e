"""Official files of CTMSR (github.com/LabShuHangGU/CTMSR, hub ywy123/CTMSR, file CTMSR.pth).

The layout of the published file was inferred from the code that writes it, so all that this code can leave
behind are accepted:

    {"params": {name: tensor}, "params_ema": {name: tensor}}    raw and averaged weights
    either of the two alone
    {name: tensor}                                              a bare state dict

Names may carry the prefix "module.". Averaged weights are taken where there are any, as the official test
does; ``-O weights=params`` takes the raw ones. Beside 909 weights a file holds 33 tables that follow from
the architecture; those that are there must have the values they should.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from onestep.checkpoint import Card
from onestep.convert.cards import converted
from onestep.convert.reading import bare, first_mismatch, open_official, owned
from onestep.core.config import override
from onestep.core.errors import InputError
from onestep.methods.ctmsr import CtmsrConfig
from onestep.networks.window_attention import relative_index


@dataclass(frozen=True)
class CtmsrFacts:
    """What a user may choose about a CTMSR file."""

    weights: Literal["params_ema", "params"] | None = None
    """Averaged or raw weights; None: averaged ones where there are any."""


def official_state(path: Path, config: CtmsrConfig, wanted: str | None = None) -> dict[str, Tensor]:
    """The tensors of an official file under the model's names, tables included.

    Args:
        path: A file in one of the layouts above.
        config: The network that it should be of.
        wanted: "params_ema" or "params"; None: the first of these that is there.

    Raises:
        InputError: Another layout, or tensors that do not fit: one line with the first mismatch.
    """
    found = bare(_weights(path, open_official(path), wanted))
    with torch.device("meta"):
        model = config.build()
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tables = {name: _table(name, buffer, config) for name, buffer in model.named_buffers()}
    problem = first_mismatch(shapes, {name: one for name, one in found.items() if name not in tables})
    for name, table in tables.items():
        if problem is None and name in found and not _equal(found[name], table):
            problem = f"{name} is not the table that follows from the architecture"
    if problem:
        raise InputError(
            f"{path}: does not fit the CTMSR network of {len(shapes)} weights (the file has {len(found)} "
            f"tensors): {problem}"
        )
    return owned({name: found[name] for name in shapes}) | tables


def _weights(path: Path, content: Any, wanted: str | None) -> Mapping[str, Any]:
    """The weights of any layout, by name."""
    if isinstance(content, Mapping):
        layout = cast("Mapping[str, Any]", content)
        for name in (wanted,) if wanted else ("params_ema", "params"):
            if isinstance(layout.get(name), Mapping):
                return cast("Mapping[str, Any]", layout[name])
        if layout and all(isinstance(value, Tensor) for value in layout.values()) and not wanted:
            return layout
        holds = ", ".join(str(key) for key in list(layout)[:5]) or "nothing"
    else:
        holds = f"a {type(content).__name__}"
    expected = wanted or "params_ema, params, or named tensors"
    raise InputError(f"{path}: not the CTMSR checkpoint asked for: it holds {holds}; expected {expected}")


def _table(name: str, buffer: Tensor, config: CtmsrConfig) -> Tensor:
    """The values of a buffer of the network."""
    if name.endswith("relative_position_index"):
        return relative_index(config.network.window)
    return torch.full(buffer.shape, 0.25, dtype=buffer.dtype)


def _equal(found: Any, table: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == table.shape and bool((found == table).all())


def from_official(
    path: Path, name: str, options: Mapping[str, str], config: CtmsrConfig | None = None
) -> tuple[dict[str, Tensor], Card]:
    """The tensors and the card of a release file, from an official CTMSR file.

    Args:
        path: The official file.
        name: The name the model will have.
        options: Fields of `CtmsrFacts`, as text.
        config: What the file should hold; None: the released x4 model.

    Raises:
        UsageError: An option is unknown or has an impossible value.
        InputError: As `official_state`.
    """
    facts = override(CtmsrFacts(), [f"{key}={value}" for key, value in options.items()])
    config = config or CtmsrConfig()
    tensors = official_state(path, config, facts.weights)
    with torch.device("meta"):
        model = config.build()
    card = converted(
        name,
        "ctmsr",
        config,
        model,
        license="none stated by the authors",
        limits=[
            "Made for LR images by the two-stage degradation of ResShift x4 (preset resshift).",
            "Trained on 256x256 crops of ImageNet.",
        ],
        attributions=["W. You et al., CTMSR, arXiv 2503.20349; weights: huggingface.co/ywy123/CTMSR"],
    )
    return tensors, card
