"""The memory estimate of a run: exact where it can be counted by hand."""

import dataclasses
import sys
import types

import pytest
import torch
from torch import nn

from onestep.core.contract import Loss, Objective
from onestep.core.errors import UsageError
from onestep.data import DataConfig
from onestep.recipe import OptimizerConfig, Recipe, TrainConfig, outlined
from onestep.train.memory import estimate
from onestep.train.state import make_optimizers
from training_toy import ToyConfig


class Squares(Objective):
    """One linear layer whose input and output are what autograd keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(3 * 8 * 8, 10)
        self.frozen = nn.Linear(5, 5)

    def groups(self):
        return {"model": list(self.model.parameters())}

    def losses(self, pair, step):
        yield Loss("model", {"square": self.model(pair.hr.flatten(1)).square().mean()})


class Needy(Squares):
    def losses(self, pair, step):
        if float(pair.hr.mean()) > 0:
            yield Loss("model", {"square": self.model(pair.hr.flatten(1)).square().mean()})


def recipe(**train) -> Recipe:
    settings = {"steps": 1, "batch": 4, "precision": "float32", "ema": None, **train}
    return Recipe(
        "x",
        "x",
        ToyConfig(),
        "bicubic",
        DataConfig(crop=8, scale=2),
        TrainConfig(**settings, optimizers={"model": OptimizerConfig()}),
    )


def test_bytes_are_those_counted_by_hand():
    found = estimate(Squares(), recipe())
    trained = 3 * 64 * 10 + 10
    assert found.weights == 4 * (trained + 5 * 5 + 5)
    assert found.training == 12 * trained
    assert found.activations == 4 * (4 * 3 * 64 + 4 * 10)
    assert found.total == found.weights + found.training + found.activations
    assert "GB of activations" in str(found)


def test_micro_batches_precision_and_average_count():
    whole = estimate(Squares(), recipe())
    assert estimate(Squares(), recipe(micro=1)).activations * 4 == whole.activations
    assert estimate(Squares(), recipe(precision="bfloat16")).activations * 2 == whole.activations
    trained = 3 * 64 * 10 + 10
    assert estimate(Squares(), recipe(ema=0.9)).training == whole.training + 4 * trained


def test_averages_in_eight_bits_are_a_quarter():
    eight = {"model": OptimizerConfig(kind="adamw8bit")}
    trained = 3 * 64 * 10 + 10
    small = dataclasses.replace(recipe(), train=dataclasses.replace(recipe().train, optimizers=eight))
    assert estimate(Squares(), small).training == (4 + 2) * trained


def test_an_eight_bit_optimizer_is_the_librarys(monkeypatch: pytest.MonkeyPatch):
    """With a stand-in for the library; without it the refusal is one line that says how to get it."""
    train = dataclasses.replace(
        recipe().train, optimizers={"model": OptimizerConfig(kind="adamw8bit", lr=0.5, weight_decay=0.1)}
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UsageError, match=r"onestep-sr\[eight-bit\]"):
        make_optimizers(Squares(), train)
    library = types.ModuleType("bitsandbytes.optim")
    library.AdamW8bit = torch.optim.AdamW
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", library)
    made = make_optimizers(Squares(), train)["model"]
    assert isinstance(made, torch.optim.AdamW)
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.5, 0.1)


def test_what_cannot_be_counted_is_said():
    found = estimate(Needy(), recipe())
    assert found.activations is None
    assert "not counted" in str(found)


def test_a_configuration_without_outline_is_built():
    objective = outlined(ToyConfig())
    assert next(objective.parameters()).device.type == "cpu"
    made = estimate(objective, dataclasses.replace(recipe(), data=DataConfig(crop=16, scale=2)))
    assert made.weights > 0


def test_an_outline_has_no_numbers():
    pytest.importorskip("diffusers")
    from onestep.methods.osediff import OsediffConfig, OsediffTraining
    from prior_parts import TINY

    config = OsediffTraining(OsediffConfig(prior=TINY), perceptual=0.0)
    objective = outlined(config)
    assert {p.device for p in objective.parameters()} == {torch.device("meta")}
    full = sum(p.numel() for members in config.build().groups().values() for p in members)
    assert sum(p.numel() for members in objective.groups().values() for p in members) == full
