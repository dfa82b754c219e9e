"""The methods: one paper, one file; no file imports another.

``METHODS`` names them for release files. A file that names anything else does not load: a downloaded file can
never make us import code.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from onestep.core.config import from_dict
from onestep.core.contract import OneStepModel
from onestep.core.errors import UsageError
from onestep.methods.ctmsr import CtmsrConfig
from onestep.methods.degradation import EstimatorModelConfig
from onestep.methods.oftsr import StudentConfig, TeacherConfig
from onestep.methods.osediff import OsediffConfig
from onestep.methods.prior import AutoencoderConfig, PriorModelConfig
from onestep.methods.resample import ResampleConfig
from onestep.methods.s3diff import S3diffConfig


class ModelConfig(Protocol):
    """A frozen dataclass that builds its model."""

    def build(self) -> OneStepModel:
        """A model with fresh weights."""
        ...


METHODS: Mapping[str, type[ModelConfig]] = {
    "ctmsr": CtmsrConfig,
    "degradation-estimator": EstimatorModelConfig,
    "oftsr": StudentConfig,
    "oftsr-teacher": TeacherConfig,
    "osediff": OsediffConfig,
    "prior": PriorModelConfig,
    "prior-vae": AutoencoderConfig,
    "resample": ResampleConfig,
    "s3diff": S3diffConfig,
}


def build(method: str, config: Mapping[str, Any]) -> OneStepModel:
    """A model with fresh weights from the method's name and its configuration (as in a card).

    Raises:
        UsageError: if the method or a field of the configuration is unknown.
    """
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise UsageError(f"unknown method {method!r}: this version knows {known}; is onestep up to date?")
    return from_dict(METHODS[method], config).build()
