"""From the files that the authors of a method published to a release file.

Official files are pickles. They are read as plain data only: a file that asks for anything else is refused
and nothing in it runs. Before a value is taken over, the number, the names where there are any, and the shape
of every tensor are compared with the network. One module per method; `ADAPTERS` names them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from onestep import checkpoint
from onestep.checkpoint import Card
from onestep.convert import ctmsr, de_net, oftsr, osediff, s3diff
from onestep.core.errors import InputError, UsageError

__all__ = ["ADAPTERS", "Adapter", "convert_file"]

Adapter = Callable[[Path, str, Mapping[str, str]], tuple[dict[str, Tensor], Card]]

ADAPTERS: Mapping[str, Adapter | None] = MappingProxyType(
    {
        "oftsr": oftsr.from_official,
        "ctmsr": ctmsr.from_official,
        "osediff": osediff.from_official,
        "s3diff": s3diff.from_official,
        "de_net": de_net.from_official,
    }
)
"""Method -> its adapter; None: the name is known, but files of it cannot be converted yet."""


def convert_file(path: Path, method: str, out: Path, options: Mapping[str, str] | None = None) -> Card:
    """Convert an official checkpoint to a release file.

    Args:
        path: The authors' file.
        method: The method's name, such as "oftsr".
        out: The release file to write, ``*.safetensors``.
        options: What the file and its name do not tell, as text; for "oftsr" the fields of
            `onestep.convert.oftsr.OftsrFacts`, for "ctmsr" those of `onestep.convert.ctmsr.CtmsrFacts`.

    Returns:
        The card of the release file.

    Raises:
        UsageError: An unknown method, or one that cannot be converted yet; an unknown or missing option; an
            ``out`` that is no ``.safetensors`` file.
        InputError: The file cannot be read or written, or does not fit the method's networks.
    """
    if method not in ADAPTERS:
        known = ", ".join(name for name, adapter in ADAPTERS.items() if adapter)
        raise UsageError(f"--method {method}: no such method; files of {known} can be converted")
    adapter = ADAPTERS[method]
    if adapter is None:
        raise UsageError(f"--method {method}: this version cannot convert files of {method} yet")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a release file ends in .safetensors")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    tensors, card = adapter(path, out.stem, options or {})
    checkpoint.write(out, tensors, card)
    return card
