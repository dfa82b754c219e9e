"""OSEDiff's training against closed forms: the value and gradient of VSD, isolation, order, times, ranks."""

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from onestep.core.contract import Pair
from onestep.core.errors import UsageError
from onestep.methods.osediff import OsediffConfig, OsediffTraining, ScoreDistillation
from onestep.methods.osediff.objectives import guided, score_distillation
from onestep.networks.prior_config import Schedule
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train.state import Training
from prior_parts import TINY, shaken

ABAR = Schedule().remaining()


def objective(**changes) -> ScoreDistillation:
    torch.manual_seed(0)
    config = OsediffTraining(
        OsediffConfig(base="tiny", prior=TINY), perceptual=0.0, prompt="a", negative="b", **changes
    )
    made = config.build()
    shaken(made.model.prior.parameters_of("generator"), by=0.02)
    return made


def freed(made: ScoreDistillation) -> ScoreDistillation:
    """As the loop has it: groups are trained, and nothing else."""
    for members in made.groups().values():
        for parameter in members:
            parameter.requires_grad_(True)
    return made.train()


def pair(batch: int = 2, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(*(torch.rand(batch, 3, side, side, generator=generator) * 2 - 1 for side in (4, 16)))


def gaussian_clean(z_t, t: int, mean: float, variance: float):
    """E[z | z_t] for z ~ N(mean, variance): section 10, A7."""
    a, s2 = ABAR[t].sqrt(), 1 - ABAR[t]
    return mean + a * variance * (z_t - a * mean) / (a**2 * variance + s2)


@settings(max_examples=30, deadline=None)
@given(
    t=st.integers(20, 979),
    ours=st.floats(-2, 2),
    theirs=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
def test_scores_of_unit_gaussians_differ_by_the_shift(t: int, ours: float, theirs: float, seed: int):
    """x_u - x_f = (1 - abar) (mu_q - mu_p), elementwise, from noise predictions as the method has them."""
    generator = torch.Generator().manual_seed(seed)
    z_t = torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64)
    a, s = ABAR[t].sqrt(), (1 - ABAR[t]).sqrt()

    def clean(mean: float):
        epsilon = (z_t - a * mean) * s  # of N(mean, 1): the score times -s
        return (z_t - s * epsilon) / a

    assert float((clean(ours) - clean(theirs) - (1 - ABAR[t]) * (ours - theirs)).abs().max()) < 1e-10
    assert torch.allclose(clean(ours), gaussian_clean(z_t, t, ours, 1.0), atol=1e-10)


def test_value_and_gradient_of_distillation_are_the_closed_form():
    torch.manual_seed(0)
    z, fake, real = (torch.randn(3, 4, 5, 5, dtype=torch.float64) for _ in range(3))
    z.requires_grad_(True)
    fake.requires_grad_(True)
    loss = score_distillation(z, fake, real)
    loss.backward()
    weight = (z - real).abs().mean((1, 2, 3), keepdim=True)
    g = ((fake - real) / weight).detach()
    assert float(loss.detach()) == pytest.approx(float(g.square().mean()), rel=1e-12)
    assert torch.allclose(z.grad, 2 * g / z.numel(), rtol=1e-12)
    assert fake.grad is None


def test_the_weight_is_per_sample():
    """Scaling one sample's distance leaves the others' gradients as they are."""
    torch.manual_seed(0)
    z, fake, real = (torch.randn(2, 4, 5, 5) for _ in range(3))
    z.requires_grad_(True)
    (first,) = torch.autograd.grad(score_distillation(z, fake, real), z)
    real2 = torch.cat([z[:1].detach() + 3 * (real[:1] - z[:1].detach()), real[1:]])
    (second,) = torch.autograd.grad(score_distillation(z, fake, real2), z)
    assert torch.allclose(first[1], second[1])
    assert not torch.allclose(first[0], second[0])


def test_equal_scores_give_no_gradient_even_without_distance():
    z = torch.zeros(1, 4, 2, 2, requires_grad=True)
    loss = score_distillation(z, torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not bool(z.grad.any())


def test_guidance_extrapolates_from_the_negative_prompt():
    wanted, unwanted = torch.tensor([2.0]), torch.tensor([1.0])
    assert guided(wanted, unwanted, 1.0) == wanted
    assert guided(wanted, unwanted, 0.0) == unwanted
    assert guided(wanted, unwanted, 7.5) == torch.tensor([8.5])


def test_descent_reaches_the_prior_on_a_gaussian():
    """A10.8: mean 2 and log-deviation 0.5 go to the prior's -1 and 0.5 with exact scores and w = 1."""
    torch.manual_seed(0)
    mean = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    log_std = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_std], lr=2e-2)
    tail = []
    for step in range(1500):
        n = torch.randn(512, dtype=torch.float64)
        z = mean + log_std.exp() * torch.cat([n, -n])
        with torch.no_grad():
            t = torch.randint(20, 980, z.shape)
            a, s = ABAR[t].sqrt(), (1 - ABAR[t]).sqrt()
            z_t = a * z + s * torch.randn_like(z)
            clean = [
                m + a * v * (z_t - a * m) / (a**2 * v + s**2)
                for m, v in ((mean, (2 * log_std).exp()), (-1.0, 0.25))
            ]
            goal = z - (clean[0] - clean[1])
        optimizer.zero_grad()
        (z - goal).square().mean().backward()
        optimizer.step()
        if step >= 1300:
            tail.append((float(mean.detach()), float(log_std.detach().exp())))
    reached = torch.tensor(tail).mean(0)
    assert float(reached[0]) == pytest.approx(-1.0, abs=0.02)
    assert float(reached[1]) == pytest.approx(0.5, abs=0.02)


def test_distillation_moves_the_generator_alone():
    made = freed(objective(mse=0.0))
    moves = made.losses(pair(), 0)
    next(moves).total.backward()
    fake, model = made.groups()["fake"], made.groups()["model"]
    assert all(parameter.grad is None for parameter in fake)
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model)


def test_distillation_value_through_the_networks_is_mean_g_squared(monkeypatch: pytest.MonkeyPatch):
    """With both scores replaced by exact ones of unit Gaussians the term is known: section 10, A7 and A8."""
    made = objective()
    prior = made.model.prior
    z = torch.randn(4, 4, 6, 6, requires_grad=True)
    times: list[torch.Tensor] = []

    def exact(z_t, t, text):
        acting = prior.unet_adapters.state[1]
        mean = 0.5 if acting == "fake" else -1.0
        times.append(t)
        a, s = (
            ABAR[t].sqrt().float().reshape(-1, 1, 1, 1),
            (1 - ABAR[t]).sqrt().float().reshape(-1, 1, 1, 1),
        )
        return (z_t - a * mean) * s

    monkeypatch.setattr(prior, "epsilon", exact)
    text = torch.zeros(4, 77, 16)
    torch.manual_seed(1)
    loss = made.distilled(z, text, text[:1])
    loss.backward()
    shift = (1 - ABAR[times[0]].float()).reshape(-1, 1, 1, 1) * 1.5
    g = z.grad * z.numel() / 2
    ratio = g / shift  # 1 / w, one number per sample
    assert float((ratio - ratio.mean((1, 2, 3), keepdim=True)).abs().max()) < 2e-3
    assert float(loss.detach()) == pytest.approx(float(g.square().mean()), rel=1e-5)


def test_the_real_score_is_the_base_guided_and_the_fake_one_is_not(monkeypatch: pytest.MonkeyPatch):
    made = objective()
    prior, seen = made.model.prior, []
    real = prior.epsilon

    def note(z, t, text):
        seen.append((prior.unet_adapters.state[1], len(z), text))
        return real(z, t, text)

    monkeypatch.setattr(prior, "epsilon", note)
    wanted, unwanted = torch.randn(2, 77, 16), torch.randn(1, 77, 16)
    made.distilled(torch.randn(2, 4, 6, 6), wanted, unwanted)
    (fake, real_call) = seen
    assert fake[:2] == ("fake", 2)
    assert real_call[:2] == (None, 4)
    assert torch.equal(real_call[2], torch.cat([unwanted, unwanted, wanted]))


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
