"""``onestep doctor``."""

import platform
from importlib import metadata, util
from typing import Any

from onestep import __version__
from onestep.cli import options as o
from onestep.cli.screen import Screen, megabytes

EXTRAS = {"tensorboard": "train", "skimage": "demo"}
"""Optional packages, by the name they are imported by -> the extra that brings them."""


def doctor(
    as_json: o.Json = False, quiet: o.Quiet = False, verbose: o.Verbose = False, debug: o.Debug = False
) -> None:
    """Show what is installed, which device is used, which weights are there, and how to get what is not."""
    del debug
    screen = Screen(as_json, quiet, verbose)
    facts = [*_machine(), *_weights(), *_extras()]
    for name, value, _ in facts:
        screen.record({"what": name, "found": value})
    screen.table(
        "", ("what", "found", "to do"), [(name, str(value), remedy) for name, value, remedy in facts]
    )


def _machine() -> list[tuple[str, Any, str]]:
    import torch

    from onestep.runtime import free_memory, native_bfloat16, pick_device, pick_dtype

    device = pick_device("auto")
    dtype = str(pick_dtype(None, device, half=True)).removeprefix("torch.")
    free = free_memory(device)
    rows: list[tuple[str, Any, str]] = [
        ("onestep", __version__, ""),
        ("python", platform.python_version(), ""),
        *((name, metadata.version(name), "") for name in ("torch", "numpy", "pillow", "safetensors")),
        ("device", f"{device}, {torch.get_num_threads()} threads", ""),
        ("precision", f"{dtype} (bfloat16 {'native' if native_bfloat16(device) else 'not native'})", ""),
    ]
    return [*rows, ("free memory", "unknown" if free is None else megabytes(free), "")]


def _weights() -> list[tuple[str, Any, str]]:
    from onestep import catalog, hub

    rows: list[tuple[str, Any, str]] = [("ONESTEP_HOME", str(hub.home()), "")]
    rows += [(f"model {entry.name}", entry.where, "") for entry in catalog.models()]
    for name, weights in hub.FILES.items():
        path, file = hub.locate(name), weights.copies[0].path
        remedy = "" if path else f"onestep models --pull {name}, or put {file} into ONESTEP_HOME"
        rows.append((f"weights {name}", str(path) if path else "missing", remedy))
    return rows


def _extras() -> list[tuple[str, Any, str]]:
    rows: list[tuple[str, Any, str]] = []
    for module, extra in EXTRAS.items():
        found = util.find_spec(module) is not None
        rows.append((module, "installed" if found else "missing", "" if found else _install(extra)))
    return rows


def _install(extra: str) -> str:
    return f"pip install 'onestep-sr[{extra}]'"
