"""What changes from step to step: parameters, optimizers, average; and how it is saved and restored."""

import importlib
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onestep.core.contract import Objective, OneStepModel, Pair
from onestep.core.ema import Ema
from onestep.core.errors import UsageError
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train.step import ALONE, Ranks, train_step


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then constant, halved or half a cosine."""
    lr = config.lr * 0.5 ** sum(step >= halved for halved in config.halve_at)
    if step < config.warmup:
        return lr * (step + 1) / config.warmup
    done = min(1.0, (step - config.warmup) / max(1, steps - 1 - config.warmup))
    return lr * (config.decay_to + (1 - config.decay_to) * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizers(objective: Objective, config: TrainConfig) -> dict[str, Optimizer]:
    """One optimizer per group; parameters outside the groups are frozen.

    Raises:
        UsageError: A group without optimizer settings, or settings without a group.
    """
    groups = objective.groups()
    if groups.keys() != config.optimizers.keys():
        have, want = ", ".join(config.optimizers), ", ".join(groups)
        raise UsageError(f"train.optimizers is for {have}; the objective has the groups {want}")
    trained = {id(parameter) for members in groups.values() for parameter in members}
    for parameter in objective.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return {name: _optimizer(members, config.optimizers[name]) for name, members in groups.items()}


def _optimizer(members: list[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    settings: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    if config.kind == "adamw8bit":
        try:
            library: Any = importlib.import_module("bitsandbytes.optim")
        except ImportError as error:
            raise UsageError(
                "kind=adamw8bit needs bitsandbytes, not installed here: pip install 'onestep-sr[eight-bit]'"
            ) from error
        return cast("Optimizer", library.AdamW8bit(members, **settings))
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.kind](members, **settings, fused=True)


class Training:
    """Everything of a run that changes from step to step, and how it is saved."""

    def __init__(self, objective: Objective, config: TrainConfig, ranks: Ranks = ALONE) -> None:
        """Make optimizers and average; nothing is read or written.

        Raises:
            UsageError: Batch, ranks and micro-batches do not divide, or optimizers do not fit the groups.
        """
        self.objective, self.config, self.ranks = objective, config, ranks
        self.size = config.micro or max(1, config.batch // ranks.count)
        if config.batch % (ranks.count * self.size):
            raise UsageError(
                f"train.batch={config.batch} is not a multiple of {ranks.count} rank(s)"
                f" x train.micro={self.size}"
            )
        self.count = config.batch // self.size // ranks.count
        """Micro-batches per step on this rank."""
        self.optimizers = make_optimizers(objective, config)
        self.ema = None if config.ema is None else Ema(objective.groups()["model"], config.ema)
        self.step = 0
        """Steps done."""

    def positions(self) -> Iterator[list[int]]:
        """Data positions of each micro-batch of this rank, from the current step to the last."""
        for step in range(self.step, self.config.steps):
            for index in range(self.ranks.index * self.count, (self.ranks.index + 1) * self.count):
                start = step * self.config.batch + index * self.size
                yield list(range(start, start + self.size))

    def advance(self, micro: Sequence[Pair]) -> dict[str, float]:
        """One step: learning rates, moves, average; the losses, norms and learning rates of it."""
        rates: dict[str, float] = {}
        for name, optimizer in self.optimizers.items():
            rates[f"lr/{name}"] = learning_rate(self.config.optimizers[name], self.step, self.config.steps)
            for group in optimizer.param_groups:
                group["lr"] = rates[f"lr/{name}"]
        self.objective.begin(self.step, self.shipped)
        losses = train_step(
            self.objective, self.optimizers, micro, self.step, config=self.config, ranks=self.ranks
        )
        if self.ema:
            self.ema.update()
        self.step += 1
        return losses | rates

    def state(self) -> dict[str, Any]:
        """What a stopped run continues from: no random numbers, for every step seeds itself."""
        return {
            "step": self.step,
            "objective": self._kept(),
            "optimizers": {name: one.state_dict()["state"] for name, one in self.optimizers.items()},
            "ema": self.ema.state() if self.ema else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state` returned.

        Raises:
            UsageError: It belongs to another objective.
        """
        wanted, saved = self._kept(), cast("Mapping[str, Tensor]", state["objective"])
        for name in [*wanted, *saved]:
            if name not in saved or name not in wanted or saved[name].shape != wanted[name].shape:
                raise UsageError(
                    f"the saved state does not fit the objective at {name}; choose another folder"
                )
        self.objective.load_state_dict(dict(saved), strict=False)
        for name, optimizer in self.optimizers.items():
            settings = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state["optimizers"][name], "param_groups": settings})
        if self.ema and state["ema"]:
            self.ema.restore(state["ema"]["updates"], state["ema"]["shadow"])
        self.step = int(state["step"])

    @contextmanager
    def shipped(self) -> Generator[OneStepModel]:
        """The model as it would ship: averaged, in evaluation mode."""
        model = self.objective.model
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with self.ema.applied() if self.ema else nullcontext():
                yield model
        finally:
            for module in training:
                module.training = True

    def _kept(self) -> dict[str, Tensor]:
        """Trained parameters, buffers, moving helpers; other frozen ones are built again from the recipe."""
        moving = {id(parameter) for helper in self.objective.moving() for parameter in helper.parameters()}
        named = self.objective.named_parameters(remove_duplicate=False)
        frozen = {name for name, one in named if not one.requires_grad and id(one) not in moving}
        return {name: tensor for name, tensor in self.objective.state_dict().items() if name not in frozen}
