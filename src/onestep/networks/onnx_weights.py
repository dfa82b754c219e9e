"""The named tensors of an ONNX file, read as data.

An ONNX file is one Protocol Buffers message; its initializers are the weights. Only they are read: four
kinds of message and a dozen fields, which needs no library. Field numbers are those of ``onnx.proto3``.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from onestep.core.errors import InputError

_GRAPH: Final = 7  # of ModelProto
_INITIALIZER: Final = 5  # of GraphProto
_DIMS, _TYPE, _FLOATS, _NAME, _RAW = 1, 2, 4, 8, 9  # of TensorProto
_FLOAT32, _FLOAT16 = 1, 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def initializers(path: Path) -> dict[str, Tensor]:
    """Every floating-point initializer by its name, as float32; half precision is widened.

    Raises:
        InputError: the file cannot be read, or is no ONNX file with weights inside.
    """
    try:
        content = memoryview(path.read_bytes())
        tensors = [
            _tensor(message)
            for field, graph in _fields(content)
            if field == _GRAPH and isinstance(graph, memoryview)
            for inner, message in _fields(graph)
            if inner == _INITIALIZER and isinstance(message, memoryview)
        ]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: not an ONNX file with weights inside") from error
    found = {name: tensor for name, tensor in tensors if tensor is not None}
    if not found:
        raise InputError(f"{path}: not an ONNX file with weights inside")
    return found


def _tensor(message: memoryview) -> tuple[str, Tensor | None]:
    """Name and values of a TensorProto; None for types that are no weights."""
    held: dict[int, list[int | memoryview]] = {}
    for field, value in _fields(message):
        held.setdefault(field, []).append(value)
    name = b"".join(_bytes(held, _NAME)).decode()
    kind = held.get(_TYPE, [0])[0]
    if kind not in (_FLOAT32, _FLOAT16):
        return name, None
    shape = [
        size for one in held.get(_DIMS, []) for size in ((one,) if isinstance(one, int) else _varints(one))
    ]
    packed = _bytes(held, _RAW) or (_bytes(held, _FLOATS) if kind == _FLOAT32 else [])
    values = np.frombuffer(b"".join(packed), "<f4" if kind == _FLOAT32 else "<f2")
    if values.size != prod(shape):
        raise ValueError(f"{name} has {values.size} values for shape {shape}")
    return name, torch.from_numpy(values.astype(np.float32).reshape(shape))


def _bytes(held: Mapping[int, list[int | memoryview]], field: int) -> list[memoryview]:
    return [one for one in held.get(field, []) if isinstance(one, memoryview)]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message in order: number and content (bytes for all but whole numbers)."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(message):
            raise ValueError("a field runs over the end")
        yield key >> 3, message[at : at + length]
        at += length


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number of variable length that starts at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
