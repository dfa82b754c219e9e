"""State dictionaries in files of others: read as data, and put into a network only where they fit."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from onestep.core.errors import InputError


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dictionary in a file, read as data.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise InputError(f"{path}: cannot be read as weights: {type(error).__name__}") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds no dictionary of tensors")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load a state dictionary whose names and shapes must all fit.

    Args:
        network: What gets the weights.
        state: Name -> tensor.
        path: Where they come from, for the message.
        what: What the network is called, for the message.

    Raises:
        InputError: a name is missing, one is too many, or a shape differs.
    """
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        first = " ".join(str(error).split("\n")[1:2]).strip()
        raise InputError(f"{path}: not the weights that {what} needs: {first}") from error
