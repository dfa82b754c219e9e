"""The card of a release file that was made of an official file."""

from dataclasses import asdict
from typing import Any

from onestep import __version__
from onestep.checkpoint import Card
from onestep.core.config import to_dict
from onestep.core.contract import OneStepModel


def converted(
    name: str, method: str, config: Any, model: OneStepModel, *, step: int = 0, **said: Any
) -> Card:
    """A card with what the model tells, and no recipe: its training was elsewhere.

    Args:
        name: The name the model will have.
        method: Registry name.
        config: What builds the model.
        model: Built from it, of its traits alone; numbers do not matter.
        step: Training steps, where the file tells.
        said: More fields of `Card`: license, limits, attributions, defaults.
    """
    return Card(
        name=name,
        method=method,
        config=to_dict(config),
        traits=asdict(model.traits),
        step=step,
        recipe=None,
        version=__version__,
        **said,
    )
