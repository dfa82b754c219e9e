"""What a training run will hold in memory, estimated without running it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from onestep.core.contract import Objective, Pair
from onestep.recipe import OptimizerConfig, Recipe

_ADAM = 8
"""Bytes of the two averages that the optimizer keeps per parameter."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    """Parameters and buffers, trained or not."""
    training: int
    """Gradients, averages of the optimizers, average of the weights."""
    activations: int | None
    """What the first move of one micro-batch keeps for its backward pass; None where it cannot be counted."""

    @property
    def total(self) -> int:
        """All that is known."""
        return self.weights + self.training + (self.activations or 0)

    def __str__(self) -> str:
        """In words."""
        kept = "activations not counted"
        if self.activations is not None:
            kept = f"{self.activations / 1e9:.2f} GB of activations"
        return (
            f"about {self.total / 1e9:.2f} GB: {self.weights / 1e9:.2f} GB of weights, "
            f"{self.training / 1e9:.2f} GB of gradients and averages, {kept}"
        )


def estimate(objective: Objective, recipe: Recipe) -> Memory:
    """The memory of a run; the objective is moved to the device "meta" and is of no use afterwards."""
    tensors = [*objective.parameters(), *objective.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    average = 0 if recipe.train.ema is None else 4
    groups = objective.groups()
    trained = 0
    for name, members in groups.items():
        kept = (
            _ADAM // 4 if recipe.train.optimizers.get(name, OptimizerConfig()).kind == "adamw8bit" else _ADAM
        )
        trained += sum(parameter.numel() * (4 + kept) for parameter in members)
    trained += average * sum(parameter.numel() for parameter in groups.get("model", ()))
    return Memory(weights, trained, _activations(objective, recipe))


def _activations(objective: Objective, recipe: Recipe) -> int | None:
    """Bytes that autograd saves for the first move, parameters aside; under autocast half of float32's."""
    data, count = recipe.data, recipe.train.micro or recipe.train.batch
    objective = objective.to("meta").train()
    for parameter in objective.parameters():
        parameter.requires_grad_(False)
    for members in objective.groups().values():
        for parameter in members:
            parameter.requires_grad_(True)
    own = {id(tensor) for tensor in [*objective.parameters(), *objective.buffers()]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in own:
            kept[tensor.untyped_storage()._cdata] = tensor  # pyright: ignore[reportPrivateUsage]
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    side = data.crop // data.scale
    lr, hr = (torch.empty(count, 3, n, n, device="meta") for n in (side, data.crop))
    try:
        with saved_tensors_hooks(pack, unpack):
            loss = next(iter(objective.losses(Pair(lr, hr), 0)), None)
    except (NotImplementedError, RuntimeError, ValueError):  # something that needs numbers
        return None
    del loss
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return size // 2 if recipe.train.precision == "bfloat16" else size
