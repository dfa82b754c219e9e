"""Release files (weights for users) and states (everything a stopped run continues from).

A release file is safetensors with one key of metadata, ``card``: the JSON of a :class:`Card`. It is data
only; reading it never runs code. A state is a torch file read with ``weights_only=True``. Both are written
to a temporary name in the same folder and renamed, so that no reader ever sees half a file.
"""

import dataclasses
import json
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from onestep.core.config import to_dict
from onestep.core.errors import InputError

FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What a release file says about itself."""

    name: str
    method: str
    """Name in ``onestep.methods.METHODS``."""
    config: dict[str, Any]
    """Fields of the method's configuration: what builds the network."""
    traits: dict[str, Any]
    """Fields of ``onestep.core.contract.Traits``."""
    step: int
    """Optimizer steps it was trained for."""
    license: str
    """Licence of the weights."""
    recipe: dict[str, Any] | None
    """The resolved recipe it was trained by; None for converted files."""
    version: str
    """Version of this library that wrote it."""
    scores: dict[str, Any] = field(default_factory=dict[str, Any])
    limits: list[str] = field(default_factory=list[str])
    """What it does badly, one sentence each."""
    attributions: list[str] = field(default_factory=list[str])
    """Whom the licences of the data ask to name."""
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    """Option of the model -> the value that a user gets without asking."""
    format: int = FORMAT


def replace_file(path: Path, write_to: Callable[[Path], object]) -> None:
    """Call ``write_to(temporary path)``, then rename the result to ``path`` in one move.

    Raises:
        InputError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(path: Path, tensors: Mapping[str, Tensor], card: Card, *, half: bool = False) -> None:
    """Write a release file.

    Args:
        path: Where; replaced in one move.
        tensors: Only what ships, by name.
        card: What the file says about itself.
        half: Store floating-point tensors as float16.

    Raises:
        InputError: The file cannot be written.
    """
    stored = {
        name: tensor.detach()
        .to("cpu", torch.float16 if half and tensor.is_floating_point() else None)
        .contiguous()
        for name, tensor in tensors.items()
    }
    metadata = {"card": json.dumps(to_dict(card))}
    replace_file(path, lambda temporary: temporary.write_bytes(save(stored, metadata)))


def _card(path: Path, metadata: Mapping[str, str] | None) -> Card:
    if not metadata or "card" not in metadata:
        raise InputError(
            f"{path}: a safetensors file without a card, so not a release file; use onestep convert"
        )
    try:
        values = cast("dict[str, Any]", json.loads(metadata["card"]))
        if values.get("format", 0) > FORMAT:
            raise InputError(
                f"{path}: written by a newer onestep ({values.get('version')}); upgrade onestep-sr"
            )
        known = {field.name for field in dataclasses.fields(Card)}
        return Card(**{name: value for name, value in values.items() if name in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: the card cannot be read ({error}); fetch the file again") from error


def _open(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a release file ({error}); use onestep convert for other formats"
        ) from error


def read_card(path: Path) -> Card:
    """Read the card alone.

    Raises:
        InputError: Missing file, another format, no card, or a newer format.
    """
    with _open(path) as file:
        return _card(path, file.metadata())


def read(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Read a release file; floating-point tensors come back as float32.

    Raises:
        InputError: As :func:`read_card`.
    """
    with _open(path) as file:
        card = _card(path, file.metadata())
        tensors = {name: cast("Tensor", file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}, card


def load(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a module: every name and every shape must fit, or nothing is copied.

    Raises:
        InputError: One line that names the first mismatch.
    """
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise InputError(f"{path}: does not fit the model: {name} {tuple(tensor.shape)} is missing")
        if tensors[name].shape != tensor.shape:
            have, want = tuple(tensors[name].shape), tuple(tensor.shape)
            raise InputError(f"{path}: does not fit the model: {name} is {have}, the model has {want}")
    for name in tensors:
        if name not in wanted:
            raise InputError(f"{path}: does not fit the model: {name} is not in the model")
    module.load_state_dict(dict(tensors))


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state: nested containers of tensors, numbers and text.

    Raises:
        InputError: The file cannot be written.
    """
    replace_file(path, lambda temporary: torch.save(dict(state), temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU, without running anything it may contain.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].strip()
        raise InputError(
            f"{path}: the state cannot be read ({said}); delete it to continue from the one before"
        ) from error
