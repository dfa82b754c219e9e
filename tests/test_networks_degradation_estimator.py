"""The degradation estimator: its shape, what its scores depend on, its official files, the one that ships."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from onestep import checkpoint
from onestep.convert import convert_file
from onestep.convert import de_net as official
from onestep.core.config import to_dict
from onestep.core.errors import InputError, UsageError
from onestep.core.synthetic import synthetic
from onestep.degrade import jpeg as codec
from onestep.degrade.strengths import BLUR, KINDS, degrade
from onestep.estimates import METHOD, estimate, load_estimator
from onestep.networks import degradation_estimator
from onestep.networks.degradation_estimator import DegradationEstimator, EstimatorConfig, evened

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


SEEING = [SMALL, replace(SMALL, window=9), EstimatorConfig.compact()]


def positive(config: EstimatorConfig) -> DegradationEstimator:
    """No ReLU closes and nothing cancels, so what is seen is felt."""
    torch.manual_seed(0)
    net = DegradationEstimator(config)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.abs_().mul_(0.3 if "first" in name else 1.0)
    return net


@pytest.mark.parametrize("config", SEEING)
@pytest.mark.parametrize("size", [(61, 13), (128, 9), (97, 8)])
def test_bands_change_nothing(monkeypatch, config, size):
    net = positive(config)
    image = torch.rand(1, 3, *size) * 2 - 1
    whole = net.logits(image).detach()
    monkeypatch.setattr(degradation_estimator, "_BAND", 16)
    torch.testing.assert_close(net.logits(image).detach() / whole, torch.ones(1, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", SEEING)
def test_features_see_as_far_as_is_said(config):
    """A row of features depends on the rows within `reach` (less rounding to the stride), and on no other."""
    net = positive(config)
    image = (torch.rand(1, 3, 240, 16) * 0.2).requires_grad_()
    seen, _ = next(iter(net._bands(image)))
    row = 120 // config.stride
    features = net.body[0](net.conv_first[0](seen))
    features[0, :, row].sum().backward()
    felt = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    reach = max(120 - int(felt[0]), int(felt[-1]) - (120 + config.stride - 1))
    assert config.reach - config.stride < reach <= config.reach


def test_a_band_without_its_surroundings_would_differ(monkeypatch):
    """The first test above could not fail if the borders of bands did not matter."""
    net = positive(SMALL)
    image = torch.rand(1, 3, 96, 9) * 2 - 1
    whole = net.logits(image).detach()
    monkeypatch.setattr(degradation_estimator, "_BAND", 16)
    monkeypatch.setattr(EstimatorConfig, "reach", 0)
    assert float((net.logits(image).detach() / whole - 1).abs().max()) > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_tiny_pictures_have_scores(size):
    scores = DegradationEstimator(EstimatorConfig.compact())(torch.rand(1, 3, *size) * 2 - 1)
    assert torch.isfinite(scores).all()


def test_stages_that_do_not_line_up_are_refused():
    with pytest.raises(UsageError, match="one entry per stage"):
        EstimatorConfig(widths=(4, 4), blocks=(1, 1), strides=(1, 1))


@pytest.mark.parametrize("window", [-1, 4])
def test_windows_without_a_middle_are_refused(window):
    with pytest.raises(UsageError, match=f"window={window}: must be odd, or 0"):
        EstimatorConfig(window=window)


def test_evened_detail_by_hand():
    """A window of 3 around the only bright pixel of one channel; at the corner it holds 4 pixels."""
    image = torch.zeros(1, 3, 4, 4)
    image[0, 0, 1, 1] = 0.9
    seen = evened(image, 3)
    assert seen.shape == (1, 7, 4, 4)
    assert torch.equal(seen[:, :3], image)
    for place, count in (((1, 1), 9), ((0, 0), 4)):
        mean = 0.9 / count
        contrast = math.sqrt((0.81 / count - mean**2) / 3 + (2 / 255) ** 2)
        at = seen[0, :, place[0], place[1]].tolist()
        assert at[3] == pytest.approx((float(image[0, 0, place[0], place[1]]) - mean) / contrast, abs=1e-4)
        assert at[6] == pytest.approx(math.log(contrast * 255 / 2) / 4, abs=1e-4)
    assert seen[0, 3:, 3, 3].tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_detail_hardly_depends_on_contrast():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 20, 20)
    strong, weak = evened(image, 9), evened(0.4 + 0.2 * image, 9)
    assert float((strong - weak)[:, 3:6].abs().max()) < 0.06
    assert float((strong - weak)[:, 6].min()) > 0.3


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


def test_files_from_before_windows_load(tmp_path, small):
    shape = to_dict(SMALL)
    del shape["window"]
    card = checkpoint.Card("old", METHOD, {"network": shape}, {}, 0, "none", None, "0")
    checkpoint.write(
        tmp_path / "old.safetensors", {f"net.{k}": v for k, v in small.state_dict().items()}, card
    )
    image = torch.rand(1, 3, 12, 12)
    assert torch.equal(load_estimator(tmp_path / "old.safetensors")(image), small(image))


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_network_orders_strengths_of_a_picture(kind):
    """What the page on it claims, on one synthetic picture."""
    net = load_estimator()
    assert net.config == EstimatorConfig.compact()
    image = synthetic(96, torch.Generator().manual_seed(3))
    found = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        spoilt = degrade(image, {kind: strength}, torch.Generator().manual_seed(0))
        found.append(estimate(net, (spoilt * 255).round()[None] / 255)[int(kind not in BLUR)])
    assert found == sorted(found)
    assert found[-1] - found[0] > 0.4


def test_the_shipped_network_finds_jpeg_where_its_blocks_begin_elsewhere():
    net = load_estimator()
    image = codec.jpeg(synthetic(96, torch.Generator().manual_seed(3)), 40)
    assert estimate(net, image[None])[1] > 0.5
    assert estimate(net, image[None, :, 3:, 5:])[1] > 0.5


def _other(folder):
    card = checkpoint.Card("other", "resample", {}, {}, 0, "none", None, "0")
    checkpoint.write(folder / "other.safetensors", {"x": torch.zeros(1)}, card)
    return folder / "other.safetensors"
