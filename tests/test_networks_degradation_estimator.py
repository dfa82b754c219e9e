"""The degradation estimator: its shape, what its scores depend on, its training, its official files."""

import pytest
import torch
from torch import nn

from onestep import checkpoint
from onestep.convert import convert_file
from onestep.convert import de_net as official
from onestep.core.contract import NoOptions, Pair
from onestep.core.errors import InputError, UsageError
from onestep.core.synthetic import synthetic
from onestep.degrade.strengths import BLUR, KINDS, NOISE, degrade, draw
from onestep.estimates import METHOD, estimate, load_estimator
from onestep.methods import METHODS
from onestep.methods.degradation import EstimatorModelConfig, RankingConfig, ranked
from onestep.networks import degradation_estimator
from onestep.networks.degradation_estimator import DegradationEstimator, EstimatorConfig

SMALL = EstimatorConfig(widths=(4, 4, 6), blocks=(1, 2, 1), strides=(1, 2), hidden=5)


@pytest.fixture
def small() -> DegradationEstimator:
    torch.manual_seed(0)
    return DegradationEstimator(SMALL)


def published() -> DegradationEstimator:
    with torch.device("meta"):
        return DegradationEstimator(EstimatorConfig())


def test_the_published_shape_has_the_published_counts_and_names():
    state = published().state_dict()
    assert len(state) == 80
    assert sum(value.numel() for value in state.values()) == 2_351_362
    layers = [*(f"{j}.{conv}" for j in (0, 1, 2, 3, 4, 5, 7, 8) for conv in ("conv1", "conv2")), "6"]
    names = {f"{part}.{i}" for part in ("conv_first",) for i in (0, 1)}
    names |= {f"body.{i}.{layer}" for i in (0, 1) for layer in layers}
    names |= {f"fc_degree.{i}.{j}" for i in (0, 1) for j in (0, 2)}
    assert set(state) == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    assert state["body.0.6.weight"].shape == (128, 64, 3, 3)


def test_the_published_shape_calculates_what_its_definition_says():
    """One branch written out layer by layer, strides and activations included."""
    torch.manual_seed(0)
    net = DegradationEstimator(EstimatorConfig(widths=(2, 2, 2, 4), hidden=3))
    with torch.no_grad():
        for parameter in net.parameters():  # so that what goes in is felt
            parameter.normal_(0, 0.3)
    image = torch.rand(2, 3, 9, 14) * 2 - 1
    x = net.conv_first[1]((image + 1) / 2)
    for index, layer in enumerate(net.body[1]):
        if index == 6:
            assert layer.stride == (2, 2)
            x = nn.functional.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
        else:
            x = x + layer.conv2(layer.conv1(x).relu())
    first, _, second = net.fc_degree[1]
    wanted = second(first(x.mean((2, 3))).relu())
    torch.testing.assert_close(net.logits(image)[:, 1:], wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net(image)[:, 1:], wanted.sigmoid())
    assert float((net.logits(image * 2 + 1)[:, 1:] - wanted).detach().abs().max()) > 0.01


def test_scores_have_two_columns_inside_zero_and_one(small):
    scores = small(torch.rand(3, 3, 20, 17) * 2 - 1).detach()
    assert scores.shape == (3, 2)
    assert scores.dtype == torch.float32
    assert 0 < float(scores.min()) <= float(scores.max()) < 1


@pytest.mark.parametrize("branch", [0, 1])
def test_the_branches_are_independent(small, branch):
    image = torch.rand(1, 3, 16, 16)
    before = small(image).detach()
    with torch.no_grad():
        for part in (small.conv_first, small.body, small.fc_degree):
            for parameter in part[branch].parameters():
                parameter.add_(0.1)
    after = small(image).detach()
    assert float(after[0, branch]) != float(before[0, branch])
    assert float(after[0, 1 - branch]) == float(before[0, 1 - branch])


@pytest.mark.parametrize("config", [SMALL, EstimatorConfig.compact()])
@pytest.mark.parametrize("size", [(61, 13), (128, 9), (97, 8)])
def test_bands_change_nothing(monkeypatch, config, size):
    torch.manual_seed(0)
    net = DegradationEstimator(config)
    image = torch.rand(1, 3, *size) * 2 - 1
    whole = net(image)
    monkeypatch.setattr(degradation_estimator, "_BAND", 16)
    torch.testing.assert_close(net(image), whole, atol=1e-6, rtol=0)


def test_a_band_without_its_surroundings_would_differ(monkeypatch):
    """The test above could not fail if the borders of bands did not matter."""
    torch.manual_seed(0)
    net = DegradationEstimator(SMALL)
    image = torch.rand(1, 3, 96, 9) * 2 - 1
    whole = net(image)
    monkeypatch.setattr(degradation_estimator, "_BAND", 16)
    monkeypatch.setattr(EstimatorConfig, "reach", 0)
    assert float((net(image) - whole).detach().abs().max()) > 1e-5


def test_stages_that_do_not_line_up_are_refused():
    with pytest.raises(UsageError, match="one entry per stage"):
        EstimatorConfig(widths=(4, 4), blocks=(1, 1), strides=(1, 1))


# strengths


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leaves_size_and_grows_with_its_strength(kind):
    torch.manual_seed(0)
    image = torch.rand(3, 40, 33)
    far = []
    for strength in (0.0, 0.3, 1.0):
        spoiled = degrade(image, {kind: strength}, torch.Generator().manual_seed(1))
        assert spoiled.shape == image.shape
        far.append(float((spoiled - image).abs().mean()))
    assert far[0] == 0 < far[1] < far[2]


def test_draws_are_alone_often_and_clean_sometimes():
    generator = torch.Generator().manual_seed(0)
    active = [sum(s > 0 for s in draw(NOISE, generator).values()) for _ in range(400)]
    assert 0.05 < active.count(0) / 400 < 0.25
    assert 0.55 < active.count(1) / 400 < 0.85
    assert active.count(3) > 0


# training


def test_ranking_by_hand():
    """Three scores, one kind: pairs (0, 1), (0, 2), (1, 2), gaps 0.5, 1.0, 0.5."""
    scores, strengths = torch.tensor([0.2, 0.3, 0.1]), torch.tensor([[0.0], [0.5], [1.0]])
    wanted = (max(0.0, 0.25 - 0.1) + (0.5 + 0.1) + (0.25 + 0.2)) / 3
    assert float(ranked(scores, strengths, 0.5)) == pytest.approx(wanted)


def test_what_cannot_be_ordered_is_not_ranked():
    scores = torch.tensor([0.9, 0.1])
    crossed = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    near = torch.tensor([[0.50], [0.51]])
    assert float(ranked(scores, crossed, 0.5)) == 0
    assert float(ranked(scores, near, 0.5)) == 0
    assert float(ranked(scores, torch.tensor([[0.0, 0.5], [0.5, 0.5]]), 0.5)) > 0


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


# files


@pytest.fixture
def narrow(monkeypatch):
    """`convert_file` takes the small network for the published one."""
    adapter = official.from_official
    monkeypatch.setattr(
        "onestep.convert.ADAPTERS",
        {"de_net": lambda path, name, options: adapter(path, name, options, SMALL)},
    )


LAYOUTS = {
    "bare": lambda state: state,
    "mm-realsr": lambda state: {
        "params": {f"de_net.{k}": v for k, v in state.items()} | {"conv_first.weight": torch.zeros(1)}
    },
    "parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_official_files_convert_and_load(tmp_path, narrow, small, layout):
    torch.save(LAYOUTS[layout](small.state_dict()), tmp_path / "de_net.pth")
    card = convert_file(tmp_path / "de_net.pth", "de_net", tmp_path / "out.safetensors")
    assert card.method == METHOD
    image = torch.rand(1, 3, 12, 12)
    loaded = load_estimator(tmp_path / "out.safetensors")
    assert torch.equal(loaded(image), small(image))
    assert estimate(loaded, image / 2 + 0.5) == pytest.approx(loaded(image)[0].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: state.pop("conv_first.0.bias"), "conv_first.0.bias should be"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is one too many"),
        (lambda state: state.update({"conv_first.1.bias": torch.zeros(3)}), "found (3,)"),
    ],
)
def test_foreign_files_are_refused_in_one_line(tmp_path, narrow, small, spoil, says):
    state = dict(small.state_dict())
    spoil(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError) as caught:
        convert_file(tmp_path / "x.pth", "de_net", tmp_path / "out.safetensors")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_other_release_files_are_no_estimators(tmp_path):
    tensors, card = checkpoint.read(_other(tmp_path))
    assert tensors
    assert card.method == "resample"
    with pytest.raises(UsageError, match="holds the method 'resample'"):
        load_estimator(tmp_path / "other.safetensors")


def test_the_shipped_network_orders_strengths_of_a_picture():
    """What the page on it claims, on one synthetic picture: noise of all kinds, and blur up to 1.7 pixels."""
    net = load_estimator()
    assert net.config == EstimatorConfig.compact()
    image = synthetic(96, torch.Generator().manual_seed(3))
    for kind, strengths in {
        "gaussian-blur": (0.0, 0.3, 0.55),
        "gaussian-noise": (0.0, 0.3, 0.6, 1.0),
        "poisson": (0.0, 0.3, 0.6, 1.0),
        "jpeg": (0.0, 0.3, 0.6, 1.0),
    }.items():
        found = []
        for strength in strengths:
            spoilt = degrade(image, {kind: strength}, torch.Generator().manual_seed(0))
            found.append(estimate(net, (spoilt * 255).round()[None] / 255)[int(kind not in BLUR)])
        assert found == sorted(found), kind
        assert found[-1] - found[0] > 0.4, kind


def _other(folder):
    card = checkpoint.Card("other", "resample", {}, {}, 0, "none", None, "0")
    checkpoint.write(folder / "other.safetensors", {"x": torch.zeros(1)}, card)
    return folder / "other.safetensors"
