"""VSD on a prior whose score is known: with the term outputs go to the modes, without it to the mean."""

import pytest
import torch

pytest.importorskip("diffusers")

from mixture_toy import MODES, SPREAD, drawn, exact_clean, made, near_a_mode, trained


def test_the_exact_score_is_that_of_the_mixture():
    """E[z | z_t] against averages over samples of the prior, weighted by how well they explain z_t."""
    z = drawn(200_000, torch.Generator().manual_seed(0))
    for abar in (0.9, 0.3, 0.01):
        z_t = torch.tensor([[0.4, -0.2]])
        left = torch.tensor([[abar]])
        weight = (-(z_t - abar**0.5 * z).square().sum(1) / (2 * (1 - abar))).softmax(0)
        expected = (weight[:, None] * z).sum(0)
        assert torch.allclose(exact_clean(z_t, left)[0], expected, atol=0.03)


def test_samples_of_the_prior_are_near_its_modes():
    assert near_a_mode(drawn(2000, torch.Generator().manual_seed(1))) > 0.95
    assert float(MODES.norm(dim=1).min()) > 5 * SPREAD


def test_without_distillation_outputs_are_means_and_with_it_they_are_at_the_modes():
    means, true = made(trained(1.0, 0.0, steps=350))
    assert near_a_mode(means) < 0.01
    assert float(means[:, 1].abs().mean()) < 0.1
    points, _ = made(trained(1.0, 4.0, steps=700))
    assert near_a_mode(points) > 0.55
    assert float(points[:, 1].abs().mean()) > 0.6
    assert 0.3 < float((points[:, 1] > 0).float().mean()) < 0.7
    for found in (means, points):  # what was observed is kept by both
        assert float(((found[:, 0] > 0) == (true[:, 0] > 0)).float().mean()) > 0.99
