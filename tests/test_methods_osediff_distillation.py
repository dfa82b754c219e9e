"""OSEDiff's score distillation against closed forms: its value and gradient, guidance, where it leads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from onestep.methods.osediff.objectives import guided, score_distillation
from onestep.networks.prior_config import Schedule
from osediff_parts import freed, objective, pair

ABAR = Schedule().remaining()


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
