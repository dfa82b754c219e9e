"""``onestep doctor``."""

import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata, util

import typer

from onestep import __version__
from onestep.cli import options as o
from onestep.cli.screen import Screen, megabytes

PACKAGES = ("torch", "numpy", "scipy", "pillow", "tifffile", "safetensors", "huggingface_hub", "pydantic")
"""What OneStep cannot do without, by the names they are installed by."""
EXTRAS = {"tensorboard": "train", "skimage": "demo"}
"""Optional packages, by the name they are imported by -> the extra that brings them."""
_FAST = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "bf16", "sve")
"""What a CPU may have that decides how fast it is here."""


@dataclass(frozen=True)
class Fact:
    """One thing that was looked at."""

    what: str
    found: str
    to_do: str = ""
    """How to get it, where it is missing."""
    needed: bool = False
    """Whether nothing works without it."""


def doctor(
    as_json: o.Json = False, quiet: o.Quiet = False, verbose: o.Verbose = False, debug: o.Debug = False
) -> None:
    """Show what is installed, which device is used, which weights are there, and how to get what is not."""
    del debug
    screen = Screen(as_json, quiet, verbose)
    facts = [Fact("onestep", __version__), Fact("python", platform.python_version()), *_packages()]
    works = not any(fact.needed for fact in facts)
    facts += [*_machine(), *_models(), *_weights()] if works else []
    facts += _extras()
    for fact in facts:
        screen.record(asdict(fact))
    screen.table("", ("what", "found", "to do"), [(f.what, f.found, f.to_do) for f in facts])
    if not works:
        raise typer.Exit(1)


def _packages() -> list[Fact]:
    """Versions of what is needed, and whether torch can be imported at all."""
    facts: list[Fact] = []
    for name in PACKAGES:
        try:
            facts.append(Fact(name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            facts.append(Fact(name, "missing", f"{_pip()} {name}", needed=True))
    try:
        import torch

        torch.zeros(1)
    except (ImportError, OSError, RuntimeError) as error:
        line = " ".join(str(error).split())
        facts.append(Fact("torch works", f"no: {line}", f"{_pip()} --force-reinstall torch", needed=True))
    return facts


def _machine() -> list[Fact]:
    import torch

    from onestep.runtime import free_memory, native_bfloat16, pick_device, pick_dtype

    device = pick_device("auto")
    capabilities = torch.cpu.get_capabilities()
    fast = [name for name in _FAST if capabilities.get(name)]
    dtype = str(pick_dtype(None, device, half=True)).removeprefix("torch.")
    native = "native" if native_bfloat16(device) else "not native, so not used"
    free = free_memory(device)
    return [
        Fact("device", str(device)),
        Fact("processor", f"{capabilities.get('cpu_name') or platform.machine()}, {' '.join(fast)}"),
        Fact("threads", f"{torch.get_num_threads()}"),
        Fact("precision", f"{dtype} (bfloat16 is {native})"),
        Fact("free memory", "unknown" if free is None else megabytes(free)),
    ]


def _models() -> list[Fact]:
    from onestep import catalog

    facts = [Fact(f"model {entry.name}", entry.where) for entry in catalog.models()]
    if catalog.default() != catalog.PREFERRED:
        facts.append(Fact(f"model {catalog.PREFERRED}", "missing", "install a release of onestep-sr"))
    return facts


def _weights() -> list[Fact]:
    from onestep import hub

    there = "" if hub.home().is_dir() else " (not there yet; made when something is fetched)"
    facts = [Fact(hub.HOME_VARIABLE, f"{hub.home()}{there}")]
    for name, weights in hub.FILES.items():
        path, file = hub.locate(name), weights.copies[0].path
        remedy = "" if path else f"onestep models --pull {name}, or put {file} into {hub.HOME_VARIABLE}"
        facts.append(Fact(f"weights {name}", str(path) if path else "missing", remedy))
    return facts


def _extras() -> list[Fact]:
    facts: list[Fact] = []
    for module, extra in EXTRAS.items():
        there = util.find_spec(module) is not None
        remedy = "" if there else f"{_pip()} 'onestep-sr[{extra}]'"
        facts.append(Fact(module, "installed" if there else "missing", remedy))
    return facts


def _pip() -> str:
    return f"{sys.executable} -m pip install"
