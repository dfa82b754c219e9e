"""The objective of CTMSR: curriculum, shared noise, target, starting points, refusals (section 10)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctmsr_parts import (
    DROPPING,
    MODEL,
    PerLevel,
    gaussian,
    images,
    lively,
    objective,
    recorded,
    same,
    squared,
    toy_objective,
    weights,
)
from onestep import checkpoint
from onestep.checkpoint import Card
from onestep.core.config import to_dict
from onestep.core.errors import InputError, UsageError
from onestep.methods.ctmsr import ConsistencyConfig, objectives
from onestep.methods.ctmsr.objectives import charbonnier, intervals_at


def test_released_curriculum():
    """Four intervals for the first 251,000 of 502,000 steps, then three."""
    steps = (0, 250_999, 251_000, 501_999, 10**9)
    assert [intervals_at(step, (4, 3), 502_000) for step in steps] == [4, 4, 3, 3, 3]


def test_other_curricula():
    assert [intervals_at(k, (3, 3), 2_000) for k in (0, 1_999)] == [3, 3]
    assert [intervals_at(k, (2, 4), 9) for k in range(9)] == [2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert [intervals_at(k, (4, 2), 9) for k in range(9)] == [4, 4, 4, 3, 3, 3, 2, 2, 2]
    assert intervals_at(5, (8, 1), 3) == 3  # more intervals than steps: one step each


def test_charbonnier_is_absolute_error_rounded_at_zero():
    a, b = torch.randn(2, 4, 3, 8, 8)
    assert float(charbonnier(a, b)) == pytest.approx(float((a - b).abs().mean()), abs=1e-6)
    zero = torch.zeros(1, requires_grad=True)
    charbonnier(zero, torch.zeros(1)).backward()
    assert float(charbonnier(zero, torch.zeros(1)).detach()) == pytest.approx(1e-6)
    assert zero.grad is not None
    assert zero.grad.item() == 0


@pytest.mark.parametrize("draw", ["batch", "image"])
def test_a_pair_of_states_shares_image_and_noise(monkeypatch, draw):
    calls = recorded(monkeypatch)
    trained, pair = objective(draw=draw), images(8)
    seen = set()
    for step in range(30):
        calls.clear()
        list(trained.losses(pair, step))
        (x0, y, noise, alpha, sigma), (x0_, y_, noise_, alpha_, sigma_) = calls
        assert x0 is x0_ is pair.hr
        assert y is y_
        assert noise is noise_
        assert torch.allclose(alpha - alpha_, torch.full((8,), 0.25))
        assert torch.allclose(sigma, 0.5 * alpha)
        assert torch.allclose(sigma_, 0.5 * alpha_)
        seen |= {tuple(alpha.tolist())}
    levels = {level for one in seen for level in one}
    assert levels == {0.25, 0.5, 0.75, 1.0}
    assert (max(len(set(one)) for one in seen) == 1) == (draw == "batch")


def test_the_loss_of_a_step_term_by_term(monkeypatch):
    calls = recorded(monkeypatch)
    trained, pair = objective(draw="image"), images(4)
    (loss,) = trained.losses(pair, 0)
    (x0, y, noise, a_1, s_1), (*_, a_0, s_0) = calls
    with torch.no_grad():
        above = (1 - a_1).view(-1, 1, 1, 1) * x0 + a_1.view(-1, 1, 1, 1) * y + s_1.view(-1, 1, 1, 1) * noise
        below = (1 - a_0).view(-1, 1, 1, 1) * x0 + a_0.view(-1, 1, 1, 1) * y + s_0.view(-1, 1, 1, 1) * noise
        result = trained.model.clean(above, s_1, pair.lr)
        target = trained.model.clean(below, s_0, pair.lr)
    difference = result - target
    assert loss.group == "model"
    assert loss.terms.keys() == {"lpips", "charbonnier"}
    terms = {name: float(term.detach()) for name, term in loss.terms.items()}
    assert terms["lpips"] == pytest.approx(0.5 * float(difference.square().mean()), rel=1e-4)
    assert terms["charbonnier"] == pytest.approx(0.5 * float(difference.abs().mean()), rel=1e-4)


def test_no_gradient_passes_the_target():
    trained, pair = objective(), images()
    y = trained.model.lr_up(pair.lr)
    target = trained.target(pair.hr.clone().requires_grad_(), torch.tensor([0.2, 0.4]), pair.lr, y)
    assert not target.requires_grad


def test_the_target_at_level_zero_is_the_true_image():
    trained, pair = objective(), images(3)
    y = trained.model.lr_up(pair.lr)
    mixed = trained.target(pair.hr, torch.tensor([0.0, 0.3, 0.0]), pair.lr, y)
    assert torch.equal(mixed[[0, 2]], pair.hr[[0, 2]])
    alone = trained.model.clean(pair.hr[1:2], torch.tensor([0.3]), pair.lr[1:2])
    assert torch.allclose(mixed[1:2], alone.detach(), atol=1e-5)
    assert torch.equal(trained.target(pair.hr, torch.zeros(3), pair.lr, y), pair.hr)


def test_dropout_in_the_target_is_an_option():
    pair, sigma = images(), torch.tensor([0.5, 1.0])
    for mode, repeats in (("train", False), ("eval", True)):
        trained = objective(DROPPING, target=mode)
        y = trained.model.lr_up(pair.lr)
        torch.manual_seed(0)
        first, second = (trained.target(pair.hr, sigma, pair.lr, y) for _ in range(2))
        assert torch.equal(first, second) == repeats
        assert all(part.training for part in trained.model.modules())
        dropped = [trained.model.clean(pair.hr, sigma, pair.lr) for _ in range(2)]
        assert not torch.equal(*dropped)


def released(folder: Path, method: str = "ctmsr") -> Path:
    model = lively(replace(MODEL, network=replace(MODEL.network, dropout=0.25)))
    path = folder / "first.safetensors"
    card = Card("first", method, to_dict(model.config), {}, 10, "CC0-1.0", None, "0")
    checkpoint.write(path, model.state_dict(), card)
    return path


def test_a_second_run_starts_from_the_weights_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(objectives.Lpips, "load", lambda net: squared())
    path = released(tmp_path)
    settings = {"ct_steps": 0, "dtm_steps": 5, "start": str(path)}
    trained = ConsistencyConfig(
        replace(MODEL, network=replace(MODEL.network, dropout=0.1)), **settings
    ).build()
    stored = checkpoint.read(path)[0]
    assert same(weights(trained.model), stored)
    assert trained.snapshot is not None
    assert same(weights(trained.snapshot), stored)
    assert trained.model.config.sigma_max == MODEL.sigma_max
    assert trained.model.config.network.dropout == 0.1


def test_what_cannot_train_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"objective\.start=FILE"):
        ConsistencyConfig(MODEL, ct_steps=0).build()
    with pytest.raises(UsageError, match="'oftsr'; a release file of 'ctmsr'"):
        ConsistencyConfig(MODEL, start=str(released(tmp_path, "oftsr"))).build()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"ct_steps": -1}, "ct_steps"),
        ({"intervals": (0, 3)}, "intervals"),
        ({"refresh": 0}, "refresh"),
        ({"dtm_intervals": 0}, "dtm_intervals"),
        ({"dtm_range": (0.8, 0.9)}, "dtm_range"),
        ({"intervals": (1, 1), "dtm_range": (0.1, 1.0)}, "there are 1 to 1"),
        ({"perceptual_shift": -1}, "perceptual_shift"),
        ({"dtm_guard": -1.0}, "dtm_guard"),
    ],
)
def test_settings_that_mean_nothing(settings, word):
    with pytest.raises(UsageError, match=word):
        ConsistencyConfig(MODEL, **settings)


def test_a_missing_perceptual_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path))
    monkeypatch.setattr("onestep.hub._download", unreachable)
    with pytest.raises(InputError, match=r"VGG-16.*put it at"):
        ConsistencyConfig(MODEL, dtm_steps=0).build()


def unreachable(*_arguments):
    raise OSError("no network")


def test_images_are_cut_at_random_before_they_are_compared():
    sizes = []

    def noting(a: Tensor, b: Tensor) -> Tensor:
        assert a.shape == b.shape
        sizes.append(tuple(a.shape[-2:]))
        return squared()(a, b)

    trained = objective(distance=noting, perceptual_shift=3)
    a = torch.randn(1, 3, 16, 20)
    for _ in range(60):
        trained.distance(a, a)
    assert {height for height, _ in sizes} == {13, 14, 15, 16}
    assert {width for _, width in sizes} == {17, 18, 19, 20}
    plain = objective(distance=noting)
    sizes.clear()
    plain.distance(a, a)
    assert sizes == [(16, 20)]


def test_a_toy_step_moves_the_parameters():
    trained = toy_objective(PerLevel(3), 3)
    (loss,) = trained.losses(gaussian(8), 0)
    loss.total.backward()
    assert trained.groups().keys() == {"model"}
    assert any(bool(parameter.grad.any()) for parameter in trained.groups()["model"])
