"""OSEDiff's training: the order of moves, what is frozen, times, sizes, continued runs, published numbers."""

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("diffusers")

from onestep.core.contract import Pair
from onestep.core.errors import UsageError
from onestep.methods.osediff import OsediffTraining, ScoreDistillation
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train.state import Training
from osediff_parts import freed, objective, pair


def test_the_fake_score_moves_everywhere_or_as_published_in_the_middle_alone():
    for parts, moved in (("all", {"encoder", "decoder", "others"}), ("middle", {"others"})):
        made = freed(objective(fake_parts=parts))
        made.tracked(torch.randn(2, 4, 6, 6), torch.randn(2, 77, 16)).backward()
        adapters = made.model.prior.unet_adapters
        found = {
            part
            for part in ("encoder", "decoder", "others")
            if any(p.grad is not None and bool(p.grad.any()) for p in adapters.parameters("fake", [part]))
        }
        assert found == moved


def test_the_fake_score_learns_from_what_came_before_the_generator_moved(monkeypatch: pytest.MonkeyPatch):
    made = freed(objective())
    given: list[torch.Tensor] = []
    restored: list[torch.Tensor] = []
    track, restore = made.tracked, made.model.restore
    monkeypatch.setattr(made, "tracked", lambda z, text: (given.append(z), track(z, text))[1])

    def keep(*inputs):
        out = restore(*inputs)
        restored.append(out[0])
        return out

    monkeypatch.setattr(made.model, "restore", keep)
    moves = made.losses(pair(), 0)
    first = next(moves)
    first.total.backward()
    with torch.no_grad():
        for parameter in made.groups()["model"]:
            parameter.add_(1.0)
    second = next(moves)
    assert (first.group, second.group) == ("model", "fake")
    assert list(first.terms) == ["mse", "vsd"]
    assert list(second.terms) == ["noise"]
    assert next(moves, None) is None
    assert len(restored) == 1
    assert torch.equal(given[0], restored[0])
    assert not given[0].requires_grad


def test_without_distillation_there_is_one_group_and_one_move():
    made = freed(objective(vsd=0.0))
    assert list(made.groups()) == ["model"]
    assert [loss.group for loss in made.losses(pair(), 0)] == ["model"]
    assert made.model.prior.unet_adapters.roles.keys() == {"generator"}


def test_times_are_those_of_the_paper_and_independent(monkeypatch: pytest.MonkeyPatch):
    made = objective()
    seen: list[torch.Tensor] = []

    def blank(z, t, text):
        seen.append(t)
        return torch.zeros_like(z)

    monkeypatch.setattr(made.model.prior, "epsilon", blank)
    z, text = torch.zeros(20_000, 4, 1, 1), torch.zeros(1, 1, 1).expand(20_000, 1, 1)
    torch.manual_seed(0)
    made.distilled(z, text, text[:1])
    made.tracked(z, text)
    distil, track = seen[0], seen[-1]
    assert (int(distil.min()), int(distil.max())) == (20, 979)
    assert (int(track.min()), int(track.max())) == (0, 999)
    assert len(distil.unique()) > 900
    assert torch.equal(seen[1], seen[0].repeat(2))


def test_lr_images_come_to_size_in_three_ways_and_as_a_file_holds_them():
    made = objective()
    lr = torch.rand(60, 3, 4, 4) * 2 - 1
    torch.manual_seed(0)
    up = made.upsampled(lr)
    assert up.shape == (60, 3, 16, 16)
    levels = (up + 1) * 127.5
    assert float((levels - levels.round()).abs().max()) < 1e-4
    assert -1 <= float(up.min()) <= float(up.max()) <= 1
    made.config = dataclasses.replace(made.config, upsampling="bicubic")
    bicubic = made.upsampled(lr)
    blocks = lr.repeat_interleave(4, 2).repeat_interleave(4, 3)
    replicated = ((up - blocks).abs().amax((1, 2, 3)) < 0.01).float().mean()
    same = ((up - bicubic).abs().amax((1, 2, 3)) < 1e-6).float().mean()
    assert float(replicated) == pytest.approx(1 / 3, abs=0.15)
    assert float(same) == pytest.approx(1 / 3, abs=0.15)


def run(made: ScoreDistillation, steps: int, **settings) -> dict[str, torch.Tensor]:
    moves = OptimizerConfig(lr=1e-3, kind="adamw", weight_decay=1e-2)
    config = TrainConfig(
        steps=10,
        batch=4,
        optimizers=dict.fromkeys(made.groups(), moves),
        ema=None,
        precision="float32",
        channels_last=False,
        **settings,
    )
    training = Training(made, config)
    made.train()
    for step in range(steps):
        micro = training.size
        training.advance(
            [
                Pair(*(part[at : at + micro] for part in (pair(4, step).lr, pair(4, step).hr)))
                for at in range(0, 4, micro)
            ]
        )
    return {name: parameter.detach().clone() for name, parameter in made.named_parameters()}


def test_what_is_frozen_stays_bit_for_bit():
    made = objective()
    before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
    after = run(made, 3)
    trained = {id(p) for members in made.groups().values() for p in members}
    ids = {name: id(parameter) for name, parameter in made.named_parameters()}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(ids[name] in trained for name in moved)
    base = [name for name in before if ids[name] not in trained]
    assert any("copies.base" in name for name in base)
    still = [name for name in ids if ids[name] in trained and name not in moved]
    assert not [name for name in still if "lora_A" in name and "middle" not in name]


def test_a_state_goes_round_and_continues(tmp_path):
    def training(made) -> Training:
        moves = OptimizerConfig(lr=1e-3, kind="adamw")
        config = TrainConfig(
            steps=4, batch=2, optimizers=dict.fromkeys(made.groups(), moves), ema=0.9, precision="float32"
        )
        return Training(made, config)

    whole = training(objective())
    for step in range(4):
        whole.advance([pair(2, step)])
    first = training(objective())
    for step in range(2):
        first.advance([pair(2, step)])
    file = tmp_path / "state.pt"
    torch.save(first.state(), file)
    second = training(objective())
    second.restore(torch.load(file, weights_only=True))
    for step in range(2, 4):
        second.advance([pair(2, step)])
    for one, other in zip(whole.objective.parameters(), second.objective.parameters(), strict=True):
        assert torch.equal(one, other)
    shipped = whole.objective.model.state_dict()
    assert not [name for name in shipped if "fake" in name]


def test_weights_of_the_loss_are_the_published_ones():
    config = OsediffTraining()
    assert (config.mse, config.perceptual, config.vsd, config.guidance) == (1.0, 2.0, 1.0, 7.5)
    assert config.times == (20, 980)
    assert config.perceptual_net == "vgg"


def test_impossible_times_are_refused():
    with pytest.raises(UsageError, match=r"objective\.times"):
        OsediffTraining(times=(980, 20))
    with pytest.raises(UsageError, match="1000 times"):
        objective(times=(20, 2000))


def test_mse_is_of_images_in_minus_one_to_one(monkeypatch: pytest.MonkeyPatch):
    made = objective(vsd=0.0)
    image = torch.full((2, 3, 16, 16), 0.5)
    monkeypatch.setattr(made.model, "restore", lambda *inputs: (torch.zeros(1), image))
    hr = torch.full((2, 3, 16, 16), -0.5)
    moves: Iterator = made.losses(Pair(pair().lr, hr), 0)
    assert float(next(moves).terms["mse"].detach()) == 1.0
    assert math.isclose(made.config.mse, 1.0)
