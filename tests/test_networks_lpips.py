from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onestep.core.errors import InputError
from onestep.networks.lpips import MINIMUM, SCALE, SHIFT, Lpips, unit

NETS = ("squeeze", "alex", "vgg")
PARAMETERS = {"squeeze": 722_496, "alex": 2_469_696, "vgg": 14_714_688}


@pytest.fixture(params=NETS)
def lpips(request: pytest.FixtureRequest) -> Lpips:
    torch.manual_seed(0)
    return Lpips(request.param)


def pictures(seed: int, side: int = 40, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_feature_networks_have_the_published_sizes(lpips: Lpips):
    assert sum(p.numel() for p in lpips.features.parameters()) == PARAMETERS[lpips.net]


def test_a_distance_is_zero_for_equal_images_symmetric_and_positive(lpips: Lpips):
    a, b = pictures(1), pictures(2)
    assert lpips(a, a).tolist() == [0.0, 0.0]
    assert lpips(a, b).shape == (2,)
    assert (lpips(a, b) > 0).all()
    torch.testing.assert_close(lpips(a, b), lpips(b, a))


def test_each_image_of_a_batch_has_its_own_distance(lpips: Lpips):
    a, b = pictures(1), pictures(2)
    torch.testing.assert_close(lpips(a, b)[1:], lpips(a[1:], b[1:]))


def test_it_is_frozen_stays_in_evaluation_mode_and_differentiates_its_input(lpips: Lpips):
    assert not lpips.train().training
    assert not any(p.requires_grad for p in lpips.parameters())
    a = pictures(1).requires_grad_()
    lpips(a, pictures(2)).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert a.grad.abs().sum() > 0


def test_the_gradient_agrees_with_a_finite_difference():
    torch.manual_seed(0)
    lpips = Lpips("squeeze").double()
    a, b = pictures(1, 24, 1).double().requires_grad_(), pictures(2, 24, 1).double()
    direction = pictures(3, 24, 1).double()
    (gradient,) = torch.autograd.grad(lpips(a, b).sum(), a)
    step = 1e-6 * direction
    measured = (lpips(a + step, b) - lpips(a - step, b)).sum() / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-4, atol=1e-8)


def test_dead_features_give_no_nan():
    lpips = Lpips("squeeze")
    for parameter in lpips.features.parameters():
        parameter.zero_()
    a = pictures(1).requires_grad_()
    distance = lpips(a, pictures(2))
    distance.sum().backward()
    assert distance.tolist() == [0.0, 0.0]
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_unit_vectors_have_length_one_and_zero_stays_zero():
    features = torch.randn(1, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    features[..., 0, 0] = 0
    lengths = unit(features).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([[[0.0, 1.0], [1.0, 1.0]]]))


def test_the_heads_weigh_squared_differences_of_unit_features():
    """A closed form: one-hot heads pick one channel of the first depth."""
    lpips = Lpips("alex")
    for head in lpips.heads:
        head.zero_()
    lpips.heads[0][0, 5] = 2.0
    a, b = pictures(1), pictures(2)
    shift, scale = torch.tensor(SHIFT).view(3, 1, 1), torch.tensor(SCALE).view(3, 1, 1)

    def first(image: torch.Tensor) -> torch.Tensor:
        layer = lpips.features[0]
        x = torch.conv2d((image - shift) / scale, layer.weight, layer.bias, stride=4, padding=2).relu()
        return (x / x.norm(dim=1, keepdim=True))[:, 5]

    torch.testing.assert_close(lpips(a, b), 2 * (first(a) - first(b)).square().mean(dim=(1, 2)))


@pytest.mark.parametrize("net", NETS)
def test_the_smallest_side_works_and_one_less_is_refused(net: str):
    lpips, side = Lpips(net), MINIMUM[net]
    assert lpips(pictures(1, side), pictures(2, side)).isfinite().all()
    with pytest.raises(InputError, match=f"at least {side} pixels"):
        lpips(pictures(1, side - 1), pictures(2, side - 1))


@pytest.mark.parametrize("prefix", ["features.", ""])
def test_files_with_and_without_torchvision_prefix_load(tmp_path: Path, lpips: Lpips, prefix: str):
    state = {prefix + key: value for key, value in lpips.features.state_dict().items()}
    if prefix:
        state["classifier.1.weight"] = torch.zeros(2, 2)
    heads = {f"lin{i}.model.1.weight": head.data for i, head in enumerate(lpips.heads)}
    torch.save(state, tmp_path / "backbone.pth")
    torch.save(heads, tmp_path / "head.pth")
    loaded = Lpips.from_files(lpips.net, tmp_path / "backbone.pth", tmp_path / "head.pth")
    a, b = pictures(1), pictures(2)
    assert torch.equal(loaded(a, b), lpips(a, b))


def test_files_that_do_not_fit_are_one_line(tmp_path: Path):
    torch.save(Lpips("alex").features.state_dict(), tmp_path / "alex.pth")
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "head.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for backbone in ("alex.pth", "text.pth", "missing.pth"):
        with pytest.raises(InputError, match=backbone) as caught:
            Lpips.from_files("squeeze", tmp_path / backbone, tmp_path / "head.pth")
        assert "\n" not in str(caught.value)
    torch.save(Lpips("squeeze").features.state_dict(), tmp_path / "squeeze.pth")
    with pytest.raises(InputError, match=r"lin1\.model\.1\.weight is missing"):
        Lpips.from_files("squeeze", tmp_path / "squeeze.pth", tmp_path / "head.pth")


class TestPublishedWeights:
    @pytest.fixture
    def published(self, development_data: Path, monkeypatch: pytest.MonkeyPatch) -> Lpips:
        monkeypatch.setenv("ONESTEP_HOME", str(development_data / "metrics"))
        return Lpips.load("squeeze")

    def test_documented_torchmetrics_example(self, published: Lpips):
        torch.manual_seed(123)
        a, b = torch.rand(10, 3, 100, 100) * 2 - 1, torch.rand(10, 3, 100, 100) * 2 - 1
        assert published(a, b).mean().item() == pytest.approx(0.100802, abs=1e-6)

    def test_example_pictures(self, published: Lpips, development_data: Path):
        def read(name: str) -> torch.Tensor:
            with Image.open(development_data / "metrics" / "lpips" / name) as image:
                pixels = np.array(image.convert("RGB"))
            return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1

        reference = read("ex_ref.png")
        assert published(reference, read("ex_p0.png")).item() == pytest.approx(0.7110, abs=5e-5)
        assert published(reference, read("ex_p1.png")).item() == pytest.approx(0.1479, abs=5e-5)
