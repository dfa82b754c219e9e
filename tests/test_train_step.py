"""One step of the loop: the algorithm by hand, micro-batches, random numbers, precision, mistakes."""

import pytest
import torch
from torch import nn

from onestep.core.contract import Loss, Pair
from onestep.core.errors import UsageError
from onestep.data import keyed
from onestep.recipe import OptimizerConfig
from onestep.train import train_step
from onestep.train.state import Training, learning_rate
from training_toy import OPTIMIZERS, ToyConfig, build, same, toy


def pairs(count, size=1):
    generator = torch.Generator().manual_seed(3)
    hr = torch.rand(count * size, 3, 8, 8, generator=generator) * 2 - 1
    batches = hr.split(size)
    return [Pair(nn.functional.avg_pool2d(batch, 2), batch) for batch in batches]


def test_a_step_is_the_algorithm_written_by_hand():
    recipe = toy(clip=0.05)
    looped, by_hand = build(recipe), build(recipe)
    training = Training(looped, recipe.train)
    batch = pairs(1, 4)
    log = [training.advance(batch) for _ in range(3)]

    adams = {
        "model": torch.optim.Adam(by_hand.model.parameters(), 1e-2, fused=True),
        "critic": torch.optim.AdamW(by_hand.critic.parameters(), 1e-3, weight_decay=0.1, fused=True),
    }
    for step in range(3):
        adams["model"].param_groups[0]["lr"] = learning_rate(OPTIMIZERS["model"], step, 6)
        moves = by_hand.losses(batch[0], step)
        for move, group in enumerate(("model", "critic", "model")):
            torch.manual_seed(keyed("step", 0, step, 0, move))
            by_hand.zero_grad()
            loss = next(moves)
            loss.total.backward()
            norm = nn.utils.clip_grad_norm_(by_hand.groups()[group], 0.05)
            adams[group].step()
            name = f"norm/{group}" + (".2" if move == 2 else "")
            assert log[step][name] == pytest.approx(float(norm), rel=1e-5)
    assert same(looped.state_dict(), by_hand.state_dict())


def test_the_gradients_of_all_groups_are_cleared_after_every_move():
    objective = build(toy())
    training = Training(objective, toy().train)
    losses = objective.losses

    def watched(pair, step):
        for loss in losses(pair, step):
            yield loss
            assert all(p.grad is None for p in objective.parameters())

    objective.losses = watched
    training.advance(pairs(1, 4))
    assert all(p.grad is None for p in objective.parameters())


def test_parameters_outside_the_groups_stay_as_they_are():
    objective = build(toy())
    teacher = {name: p.clone() for name, p in objective.teacher.state_dict().items()}
    critic = objective.critic.weight.detach().clone()
    training = Training(objective, toy().train)
    for _ in range(3):
        training.advance(pairs(1, 4))
    assert same(dict(objective.teacher.state_dict()), teacher)
    assert not torch.equal(objective.critic.weight, critic)
    assert not any(name.startswith("teacher") for name in training.state()["objective"])


def test_four_micro_batches_are_one_batch():
    recipe = toy(ToyConfig(noise=0.0))
    states = []
    for micro in (pairs(1, 4), pairs(4, 1)):
        training = Training(build(recipe), recipe.train)
        for _ in range(3):
            losses = training.advance(micro)
        states.append((training.objective.state_dict(), losses))
    for name, value in states[0][0].items():
        assert torch.allclose(value, states[1][0][name], atol=2e-5), name
    assert states[0][1] == pytest.approx(states[1][1], abs=1e-4)


def test_random_numbers_depend_on_step_micro_batch_and_move_alone():
    drawn = []

    class Drawing:
        weight = nn.Parameter(torch.ones(()))

        def groups(self):
            return {"model": [self.weight]}

        def losses(self, pair, step):
            for _ in range(2):
                drawn.append(float(torch.rand(())))
                yield Loss("model", {"x": self.weight * 0})

    objective = Drawing()
    optimizers = {"model": torch.optim.Adam([objective.weight])}
    for step in (0, 1, 0):
        torch.rand(step + 1)
        train_step(objective, optimizers, pairs(2), step, config=toy().train)
    assert drawn[8:] == drawn[:4]
    assert len(set(drawn[:8])) == 8


def test_mistakes_of_an_objective_are_explained():
    class Wrong:
        weight = nn.Parameter(torch.ones(()))

        def __init__(self, walk):
            self.walk = walk

        def groups(self):
            return {"model": [self.weight]}

        def losses(self, pair, step):
            return self.walk(self, pair)

    def unknown(self, pair):
        yield Loss("modle", {"x": self.weight})

    def without_gradients(self, pair):
        with torch.no_grad():
            yield Loss("model", {"x": self.weight})

    def uneven(self, pair):
        if pair.hr.sum() > 0:
            yield Loss("model", {"x": self.weight})

    plus, minus = (Pair(x, x) for x in (torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)))
    cases = {
        "group 'modle'": (unknown, [plus]),
        "without gradients": (without_gradients, [plus]),
        "disagree": (uneven, [plus, minus]),
    }
    for said, (walk, micro) in cases.items():
        with pytest.raises(UsageError, match=said):
            train_step(Wrong(walk), {}, micro, 0, config=toy().train)
        torch.set_grad_enabled(True)


def test_bfloat16_runs_the_network_and_leaves_parameters_in_float32():
    recipe = toy(precision="bfloat16")
    objective = build(recipe)
    seen = []
    objective.model.b.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    Training(objective, recipe.train).advance(pairs(1, 4))
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in objective.parameters())


def test_learning_rate_follows_its_formula():
    config = OptimizerConfig(lr=0.8, warmup=4, decay_to=0.25)
    rates = [learning_rate(config, step, 15) for step in range(15)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 0.8
    assert rates[9] == pytest.approx((0.8 + 0.2) / 2)
    assert rates[14] == pytest.approx(0.2)
    assert learning_rate(config, 99, 15) == pytest.approx(0.2)
    assert learning_rate(OptimizerConfig(lr=0.8), 7, 15) == 0.8


def test_groups_need_their_optimizers_and_batches_must_divide():
    with pytest.raises(UsageError, match=r"train\.optimizers is for model; .* groups model, critic"):
        Training(build(toy()), toy(optimizers={"model": OptimizerConfig()}).train)
    with pytest.raises(UsageError, match=r"train\.batch=4 is not a multiple of 1 rank\(s\) x train\.micro=3"):
        Training(build(toy()), toy(micro=3).train)
