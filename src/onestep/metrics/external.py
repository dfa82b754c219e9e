"""Metrics that pyiqa computes, for who has installed it: it is no part of this package, for its licence.

pyiqa is for non-commercial use, and so are scores that it computes; its licence is shown before it is
imported. It downloads the weights of its metrics itself.
"""

import logging
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any, Final

import torch
from torch import Tensor

from onestep.core.errors import InputError

LICENSE: Final = "PolyForm-Noncommercial-1.0.0 (pyiqa); weights under licences of their own"
_log: Final = logging.getLogger("onestep")


def pyiqa_metric(name: str, theirs: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A scorer for images (B, 3, H, W) in [0, 1]; it returns (B,).

    Args:
        name: The metric as users of this package type it.
        theirs: Its name in pyiqa.
        device: Where it runs.

    Raises:
        InputError: (at once) pyiqa is not installed, cannot be imported, or cannot have its weights.
    """
    try:
        version, terms = metadata.version("pyiqa"), license_of("pyiqa")
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"{name} is computed by pyiqa, which is not installed: pip install pyiqa, if its licence "
            f"({LICENSE}) allows your use"
        ) from error
    _log.warning("%s is computed by pyiqa %s, whose licence is %s", name, version, terms)
    try:
        library: Any = import_module("pyiqa")
        metric: Any = library.create_metric(theirs, device=device, as_loss=False)
    except (ImportError, OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{name}: pyiqa {version} cannot compute {theirs!r} here: {reason}") from error

    def score(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return metric(image.to(device).float().clamp(0, 1)).reshape(len(image)).float().cpu()

    return score


def license_of(package: str) -> str:
    """The licence that an installed package declares, in one line.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    declared = metadata.metadata(package)
    for field in ("License-Expression", "License"):
        lines = declared[field].strip().splitlines() if field in declared else []
        if lines:
            return lines[0][:100]
    classified = [line for line in declared.get_all("Classifier") or [] if line.startswith("License ::")]
    return classified[0].rsplit(" :: ", 1)[-1] if classified else "not declared: see its home page"
