"""Reading official checkpoints as plain data, and comparing them with a network."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onestep.core.errors import InputError

_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def open_official(path: Path) -> Any:
    """The plain data of a ``torch.save`` file, on the CPU, mapped from the file where its format allows.

    Raises:
        InputError: Not such a file, damaged, or more than plain data (nothing of it runs).
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise InputError(
                f"{path}: asks to load {asked[1]}, which is more than tensors and numbers; nothing was run, "
                "use the authors' original file"
            ) from error
        raise InputError(
            f"{path}: not a PyTorch checkpoint, or damaged; fetch the authors' file again"
        ) from error


def bare(state: Mapping[str, Any]) -> dict[str, Any]:
    """Names without the prefix that data-parallel training puts before them."""
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def first_mismatch(shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, Any]) -> str | None:
    """The first tensor that is missing, differs in shape, is no float, is not finite, or is too many."""
    for name, shape in shapes.items():
        if name not in found:
            return f"{name} should be {shape}, but is missing"
        tensor = found[name]
        if not isinstance(tensor, Tensor):
            return f"{name} should be {shape}, found a {type(tensor).__name__}"
        if tuple(tensor.shape) != shape:
            return f"{name} should be {shape}, found {tuple(tensor.shape)}"
        if not tensor.is_floating_point():
            return f"{name} should hold floats, found {tensor.dtype}"
    for name in found:
        if name not in shapes:
            return f"{name} is one too many"
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            return f"{name} holds values that are not finite"
    return None


def owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float32; those that share memory with others become copies."""
    copies: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        copies[name] = tensor.detach().to(torch.float32, copy=not alone).contiguous()
    return copies
