"""Training of the degradation estimator: the ranking, its copies, and the model around the network."""

import pytest
import torch
from torch import nn

from onestep.core.contract import NoOptions, Pair
from onestep.degrade.strengths import BLUR, NOISE, degrade, together
from onestep.estimates import METHOD
from onestep.methods import METHODS
from onestep.methods.degradation import EstimatorModelConfig, RankingConfig, ranked
from onestep.networks.degradation_estimator import EstimatorConfig

SMALL = EstimatorConfig(widths=(4, 4, 6), blocks=(1, 2, 1), strides=(1, 2), hidden=5)


def test_ranking_by_hand():
    """Three scores: pairs (0, 1), (0, 2), (1, 2), gaps 0.5, 1.0, 0.5."""
    scores, strengths = torch.tensor([0.2, 0.3, 0.1]), torch.tensor([0.0, 0.5, 1.0])
    wanted = (max(0.0, 0.25 - 0.1) + (0.5 + 0.1) + (0.25 + 0.2)) / 3
    assert float(ranked(scores, strengths, 0.5)) == pytest.approx(wanted)


def test_what_is_as_strong_is_not_ranked():
    scores = torch.tensor([0.9, 0.1])
    assert float(ranked(scores, torch.tensor([0.5, 0.5]), 0.5)) == 0
    assert float(ranked(scores, torch.tensor([0.50, 0.51]), 0.5)) == 0
    assert float(ranked(scores, torch.tensor([0.50, 0.75]), 0.5)) > 0


def test_losses_are_least_where_scores_are_the_strengths(monkeypatch):
    """Given the true strengths as scores, no ranking is wrong, and any other scores cost more."""
    objective = RankingConfig(EstimatorModelConfig(SMALL)).build()
    found = {}
    for name, change in {"right": 0.0, "higher": 0.7, "lower": -0.7}.items():
        torch.manual_seed(0)
        lr = torch.rand(4, 3, 16, 16) * 2 - 1
        _, strengths = objective.copies(lr)
        true = torch.tensor([[together(one, kinds) for kinds in (BLUR, NOISE)] for one in strengths])
        monkeypatch.setattr(objective.model.net, "logits", lambda _, t=true, c=change: t.logit(1e-4) + c)
        torch.manual_seed(0)
        lr = torch.rand(4, 3, 16, 16) * 2 - 1
        terms = next(objective.losses(Pair(lr, lr), 0)).terms
        found[name] = {key: float(value) for key, value in terms.items()}
    assert found["right"]["blur"] == pytest.approx(0, abs=1e-3)
    assert found["right"]["noise"] == pytest.approx(0, abs=1e-3)
    assert found["right"]["anchor"] < min(found["higher"]["anchor"], found["lower"]["anchor"])


def test_copies_are_weaker_and_the_anchors_are_the_ends():
    objective = RankingConfig(EstimatorModelConfig(SMALL), anchors=1).build()
    torch.manual_seed(0)
    lr = torch.rand(4, 3, 24, 24) * 2 - 1
    images, strengths = objective.copies(lr)
    assert images.shape == (8, 3, 24, 24)
    torch.testing.assert_close(images[0], lr[0], atol=1.01 / 255, rtol=0)
    assert set(strengths[0].values()) == {0.0}
    assert set(strengths[4].values()) == {1.0}
    for first, second in zip(strengths[1:4], strengths[5:], strict=True):
        assert all(second[kind] <= first[kind] for kind in (*BLUR, *NOISE))


def test_a_short_training_ranks_blur():
    """One kind of picture, one kind of degradation: after 30 steps the order of five strengths is right."""
    objective = RankingConfig(EstimatorModelConfig(SMALL), anchors=1).build()
    torch.manual_seed(0)
    for parameter in objective.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    lr = torch.rand(6, 3, 24, 24) * 2 - 1
    for step in range(30):
        loss = next(objective.losses(Pair(lr, lr), step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 48, 48)
    tests = [degrade(image, {"gaussian-blur": s}, generator) * 2 - 1 for s in (0.0, 0.1, 0.2, 0.5, 1.0)]
    scores = objective.model.condition(torch.stack(tests), NoOptions())["degradation"][:, 0].detach()
    assert scores.tolist() == sorted(scores.tolist())
    assert float(scores[-1] - scores[0]) > 0.1


def test_the_model_restores_nothing():
    model = METHODS[METHOD](SMALL).build()
    lr = torch.rand(1, 3, 8, 8)
    condition = model.condition(lr, NoOptions())
    assert condition["degradation"].shape == (1, 2)
    assert model(lr, torch.empty(model.noise_shape(lr.shape)), condition) is lr
