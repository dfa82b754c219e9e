"""What a user turns on a model: its own options, checked; realism as a number or as a map."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from onestep.core.config import from_dict
from onestep.core.errors import InputError, UsageError
from onestep.core.picture import read

_log: Final = logging.getLogger("onestep")

_STRETCHED: Final = 1.02
"""A map whose aspect is off by more is said to be stretched."""


def options_of(kind: type, defaults: Mapping[str, Any], given: Mapping[str, Any], name: str) -> Any:
    """A model's ``Options``, from what is given and, for the rest, the defaults.

    Args:
        kind: The dataclass.
        defaults: Of the card.
        given: ``realism`` may be a number, a map of numbers (array or tensor, H x W) or a picture file, whose
            grey is the realism.
        name: Of the model, for messages.

    Raises:
        UsageError: The model lacks one of them, one is of another type, ``realism`` is outside [0, 1], or its
            file cannot be read.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    values = {**defaults, **given}
    for word in values:
        if word not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"the model {name} has no option {word!r}; {has}")
    if "realism" in values:
        values["realism"] = _realism(values["realism"])
    plain = {word: value for word, value in values.items() if isinstance(value, str | float | int | None)}
    others = {word: value for word, value in values.items() if word not in plain}
    return dataclasses.replace(from_dict(kind, plain, "option "), **others)


def realism_map(path: str | Path) -> Tensor:
    """The grey of a picture file as realism, (1, 1, h, w): black 0 (faithful), white 1 (realistic).

    Raises:
        UsageError: It cannot be read.
    """
    try:
        picture = read(path)
    except InputError as error:
        raise UsageError(f"the realism map {error}") from error
    grey = dataclasses.replace(picture, alpha=None, grey=True).array
    return torch.from_numpy(grey).clamp(0, 1).permute(2, 0, 1)[None]


def warn_of_stretching(options: Any, width: int, height: int) -> None:
    """Say so where a map among the options has another aspect than the picture."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Tensor) and value.ndim == 4:
            ratio = value.shape[-1] * height / (value.shape[-2] * width)
            if not 1 / _STRETCHED <= ratio <= _STRETCHED:
                size = f"{value.shape[-1]}x{value.shape[-2]}"
                _log.warning("the map of %s (%s) is stretched to %dx%d", field.name, size, width, height)


def _realism(value: Any) -> float | Tensor:
    """A number in [0, 1], or a map (1, 1, h, w) of such numbers from anything that has rows and columns."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim >= 2:
        values = torch.as_tensor(value, dtype=torch.float32)
        values = values.reshape(1, 1, *values.shape[-2:])
        least, most = float(values.min()), float(values.max())
    else:
        try:
            values = least = most = float(value)
        except (TypeError, ValueError):
            if isinstance(value, Path) or (isinstance(value, str) and Path(value).suffix):
                return realism_map(value)
            raise UsageError(f"realism {value!r} is no number; give one from 0 to 1, or a map") from None
    if not (least >= 0 and most <= 1):
        worst = most if least >= 0 else least
        raise UsageError(f"realism {worst:g} is impossible; choose from 0 (faithful) to 1 (realistic)")
    return values
