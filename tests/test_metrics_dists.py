import re
from pathlib import Path

import pytest
import torch

from onestep import hub, metrics
from onestep.core.errors import InputError
from onestep.metrics.dists import CHANNELS, MINIMUM, Dists
from seeded import picture, weights


@pytest.fixture(scope="module")
def dists() -> Dists:
    """The wiring with seeded weights."""
    model = Dists()
    model.features.load_state_dict(weights(model.features.state_dict()))
    generator = torch.Generator().manual_seed(1)
    for mixing in (model.alpha, model.beta):
        mixing.copy_(torch.rand(mixing.shape, generator=generator))
    return model


def test_values_of_the_authors_package_with_the_same_weights(dists: Dists):
    """DISTS-pytorch 0.1."""
    a, b = (torch.cat([picture(67, i), picture(67, i + 2)]) for i in (0, 1))
    assert dists(a, b).tolist() == pytest.approx([0.0912504, 0.0933648], abs=1e-6)


def test_equal_images_are_at_zero_and_the_distance_is_symmetric(dists: Dists):
    a, b = picture(40), picture(40, 1)
    assert dists(a, a).item() == pytest.approx(0.0, abs=1e-6)
    assert dists(a, b).item() == pytest.approx(dists(b, a).item(), abs=1e-6)
    assert dists(a, b).item() > 0.01


def test_the_texture_of_flat_images_is_a_closed_form(dists: Dists):
    """With weights on the means of the image itself alone: mean of 1 - 2ab / (a² + b²) over channels."""
    model = Dists()
    model.alpha.zero_()
    model.beta.zero_()
    model.alpha[:, :3] = 1.0
    a, b = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.25)
    assert model(a, b).item() == pytest.approx(1 - 2 * 0.5 * 0.25 / (0.5**2 + 0.25**2), abs=1e-5)


def test_it_is_differentiable(dists: Dists):
    a = picture(32).requires_grad_()
    dists(a, picture(32, 1)).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert a.grad.abs().sum() > 0


def test_small_images_are_refused(dists: Dists):
    assert dists(picture(MINIMUM), picture(MINIMUM, 1)).isfinite().all()
    with pytest.raises(InputError, match="at least 16 pixels"):
        dists(picture(15), picture(15))


def test_files_that_do_not_fit_are_one_line(tmp_path: Path, dists: Dists):
    torch.save({f"features.{k}": v for k, v in dists.features.state_dict().items()}, tmp_path / "vgg.pth")
    good = {"alpha": dists.alpha.data, "beta": dists.beta.data}
    torch.save(good, tmp_path / "good.pt")
    torch.save({"alpha": good["alpha"]}, tmp_path / "half.pt")
    loaded = Dists.from_files(tmp_path / "vgg.pth", tmp_path / "good.pt")
    assert torch.equal(loaded(picture(32), picture(32, 1)), dists(picture(32), picture(32, 1)))
    for backbone, mixing, wrong in (
        ("vgg.pth", "half.pt", "half.pt"),
        ("good.pt", "good.pt", "good.pt"),
        ("missing.pth", "good.pt", "missing.pth"),
    ):
        with pytest.raises(InputError, match=re.escape(wrong)) as caught:
            Dists.from_files(tmp_path / backbone, tmp_path / mixing)
        assert "\n" not in str(caught.value)


def test_the_published_mixing_weights_have_the_shape(development_data: Path):
    state = torch.load(development_data / "metrics" / "dists" / "weights.pt", weights_only=True)
    assert {key: value.shape for key, value in state.items()} == dict.fromkeys(
        ("alpha", "beta"), torch.Size((1, sum(CHANNELS), 1, 1))
    )


def test_without_vgg_it_is_one_line(home: Path):
    with pytest.raises(InputError, match="VGG-16"):
        metrics.make("dists")
    assert hub.locate("lpips-vgg-backbone") is None
