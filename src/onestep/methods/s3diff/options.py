"""What a user may decide about a restoration by S3Diff."""

from dataclasses import dataclass
from typing import Literal

from onestep.core.errors import UsageError


@dataclass(frozen=True)
class S3diffOptions:
    """Knobs of the model."""

    blur: float | None = None
    """How blurred the picture is taken to be, 0 to 1; None: as the estimator says."""
    noise: float | None = None
    """How noisy (JPEG counts as noise), likewise."""
    guidance: float = 1.07
    """How far predictions are moved from the negative prompt's to the prompt's and beyond; 1 is faster."""
    prompt: str | None = None
    """What the picture is said to be; None: as the model was trained."""
    negative: str | None = None
    """What guidance moves away from, likewise."""
    posterior: Literal["sample", "mean"] = "sample"
    """What of the encoder's distribution is restored: a sample, as published (of the seed), or its mean."""
    gates: Literal["auto", "live", "folded"] = "auto"
    """folded: weights are changed for each picture; live: never; auto: where a picture is large enough."""

    def __post_init__(self) -> None:
        """Refuse scores that are none.

        Raises:
            UsageError: One line that names the option.
        """
        for name in ("blur", "noise"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} {value:g} is impossible; choose from 0 (none) to 1 (worst)")
