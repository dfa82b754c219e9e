"""Official files of the degradation estimator (github.com/TencentARC/MM-RealSR; S3Diff's ``de_net.pth``).

{name: tensor}                          de_net.pth: 80 tensors
{"params": {"de_net." + name: tensor}}  a checkpoint of MM-RealSR, which holds the restorer too
{"params_ema": ...}                     the same, averaged; taken where it is there
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from onestep.checkpoint import Card
from onestep.convert.cards import converted
from onestep.convert.reading import bare, first_mismatch, open_official, owned
from onestep.core.errors import InputError, UsageError
from onestep.estimates import METHOD
from onestep.methods.degradation import EstimatorModelConfig
from onestep.networks.degradation_estimator import EstimatorConfig

_PREFIX = "de_net."


def from_official(
    path: Path, name: str, options: Mapping[str, str], network: EstimatorConfig | None = None
) -> tuple[dict[str, Tensor], Card]:
    """The tensors and the card of a release file, from an official file of the estimator.

    Args:
        path: The official file.
        name: The name the model will have.
        options: None is known.
        network: Its shape; None: the published one.

    Raises:
        UsageError: An option is given.
        InputError: The file cannot be read, or its tensors do not fit: one line with the first mismatch.
    """
    if options:
        raise UsageError(f"--option {next(iter(options))}: files of de_net need no options")
    config = EstimatorModelConfig(network or EstimatorConfig())
    with torch.device("meta"):
        model = config.build()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.net.state_dict().items()}
    found = state_in(open_official(path), path)
    mismatch = first_mismatch(shapes, found)
    if mismatch:
        raise InputError(
            f"{path}: does not fit the estimator of {len(shapes)} tensors (the file has {len(found)}): "
            f"{mismatch}"
        )
    card = converted(
        name,
        METHOD,
        config,
        model,
        license="Apache-2.0 (as S3Diff's card says; MM-RealSR is under BSD-3-Clause)",
        limits=["It ranks, it does not measure: a score is no sigma and no quality."],
        attributions=["C. Mou et al., MM-RealSR, arXiv 2205.04910; weights: github.com/TencentARC/MM-RealSR"],
    )
    return {f"net.{key}": tensor for key, tensor in owned({k: found[k] for k in shapes}).items()}, card


def state_in(content: Any, path: Path) -> dict[str, Any]:
    """The estimator's tensors by name, in any of the layouts.

    Raises:
        InputError: Another layout.
    """
    state = content
    if isinstance(content, Mapping):
        for key in ("params_ema", "params"):
            if isinstance(content.get(key), Mapping):
                state = content[key]
                break
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a file of the degradation estimator: it holds no named tensors")
    named = bare(cast("Mapping[str, Any]", state))
    inner = {key.removeprefix(_PREFIX): value for key, value in named.items() if key.startswith(_PREFIX)}
    return inner or named
