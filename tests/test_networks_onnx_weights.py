import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from onestep.core.errors import InputError
from onestep.networks.onnx_weights import initializers


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    """A field of a Protocol Buffers message, written from the specification of the wire format."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, kind: int, dims: bytes, content: bytes) -> bytes:
    return field(5, dims + field(2, kind) + field(8, name.encode()) + content)


def model(*tensors: bytes) -> bytes:
    graph = field(2, b"a graph") + b"".join(tensors)
    return field(1, 8) + field(2, b"some producer") + field(7, graph)


def test_types_shapes_and_both_ways_of_packing(tmp_path: Path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 3
    long = np.linspace(-1, 1, 300, dtype=np.float16)
    single, packed = field(1, 2) + field(1, 3), field(1, varint(2) + varint(3))
    content = model(
        tensor("raw", 1, single, field(9, values.tobytes())),
        tensor("floats", 1, packed, field(4, values.tobytes())),
        tensor("half", 10, field(1, 300), field(9, long.tobytes())),
        tensor("scalar", 1, b"", field(9, struct.pack("<f", 2.5))),
        tensor("whole numbers", 7, field(1, 1), field(9, bytes(8))),
    )
    (tmp_path / "model.onnx").write_bytes(content)
    found = initializers(tmp_path / "model.onnx")
    assert set(found) == {"raw", "floats", "half", "scalar"}
    assert all(one.dtype == torch.float32 for one in found.values())
    torch.testing.assert_close(found["raw"], torch.from_numpy(values))
    torch.testing.assert_close(found["floats"], torch.from_numpy(values))
    torch.testing.assert_close(found["half"], torch.from_numpy(long.astype(np.float32)))
    assert found["scalar"].shape == ()
    assert found["scalar"].item() == 2.5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no model at all",
        model(),
        model(tensor("short", 1, field(1, 4), field(9, bytes(12)))),
        model(tensor("cut", 1, field(1, 4), field(9, bytes(16))))[:-5],
        b"\xff" * 20,
    ],
    ids=["empty", "text", "no weights", "too few values", "cut off", "endless number"],
)
def test_what_holds_no_weights_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "other.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"other\.onnx: not an ONNX file") as caught:
        initializers(tmp_path / "other.onnx")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.onnx: cannot be read"):
        initializers(tmp_path / "none.onnx")


def test_the_published_network(development_data: Path):
    """Names, shapes and a checksum as the onnx package reads them."""
    found = initializers(development_data / "metrics" / "squeezenet" / "SqueezeNet_fp16.onnx")
    assert len(found) == 52
    assert found["conv1_w_0"].shape == (64, 3, 3, 3)
    assert found["fire9/expand3x3_w_0"].shape == (256, 64, 3, 3)
    assert sum(one.numel() for one in found.values()) == 1_235_496
