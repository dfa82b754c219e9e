"""OneStep: one-step generative super-resolution.

The public names are imported when they are first used, so that ``import onestep`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onestep.catalog import models
    from onestep.core.errors import InputError, OneStepError, UsageError
    from onestep.core.picture import Picture
    from onestep.upscaler import Upscaler, upscale

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "OneStepError",
    "Picture",
    "Upscaler",
    "UsageError",
    "__version__",
    "models",
    "upscale",
]

_HOMES = {
    "InputError": "onestep.core.errors",
    "OneStepError": "onestep.core.errors",
    "Picture": "onestep.core.picture",
    "Upscaler": "onestep.upscaler",
    "UsageError": "onestep.core.errors",
    "models": "onestep.catalog",
    "upscale": "onestep.upscaler",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onestep' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
