"""What the machine offers: the device, the precision that pays on it, and the memory that is free."""

import os
from contextlib import suppress
from pathlib import Path

import torch

from onestep.core.errors import UsageError
from onestep.core.memory import release_memory as release_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions a user can ask for."""
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says on Linux and macOS, on Windows, and on accelerators whose error has no class of its own."""


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes the accelerator if one is there, else the CPU.

    Raises:
        UsageError: the name means nothing here, or the device is absent.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    present = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"no device is called {name!r}; this machine has {', '.join(present)}") from None
    count = torch.accelerator.device_count() if device.type == present[-1] != "cpu" else 1
    if device.type not in present or (device.index or 0) >= count:
        raise UsageError(f"device {name!r} is not there; this machine has {', '.join(present)}")
    return device


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device calculates in bfloat16 itself; where not, bfloat16 is several times slower."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def pick_dtype(wanted: torch.dtype | str | None, device: torch.device, *, half: bool) -> torch.dtype:
    """The precision to calculate in; None or ``auto`` chooses.

    bfloat16 where the device has it natively and ``half`` says that the model keeps its quality in it,
    else float32.

    Raises:
        UsageError: an unknown name, or float16 on a CPU (about 150 times slower than float32).
    """
    if wanted is None or wanted == "auto":
        return torch.bfloat16 if half and native_bfloat16(device) else torch.float32
    dtype = DTYPES.get(wanted) if isinstance(wanted, str) else wanted
    if dtype is None or dtype not in DTYPES.values():
        raise UsageError(f"no precision is called {str(wanted)!r}; choose auto, {', '.join(DTYPES)}")
    if dtype == torch.float16 and device.type == "cpu":
        raise UsageError("float16 is about 150 times slower on a CPU; choose auto, bfloat16 or float32")
    return dtype


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be taken without harm, the limit of the container included; None where unknown."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    known = [number for number in (_host_memory(), _container_memory()) if number is not None]
    return min(known) if known else None


def _host_memory() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _container_memory() -> int | None:
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text("ascii"))
        used = int((group / "memory.current").read_text("ascii"))
        fields = (line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        cache = sum(int(size) for name, size in fields if name == "inactive_file")
        return max(limit - used + cache, 0)
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch or Python says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
