import hashlib
from pathlib import Path

import pytest
import torch

from onestep.core.errors import InputError
from onestep.networks.inception import Inception
from seeded import picture, weights


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as pytorch-fid's: with classifier, without batch counters; seeded weights."""
    with torch.device("meta"):
        shapes = Inception().state_dict()
    shapes |= {
        "fc.weight": torch.empty(1008, 2048, device="meta"),
        "fc.bias": torch.empty(1008, device="meta"),
    }
    shapes = {key: value for key, value in shapes.items() if not key.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(weights(shapes), path)
    return path


def test_names_and_shapes_are_those_of_pytorch_fid():
    """Hash of "name shape" lines of FIDInceptionV3 in pytorch-fid 0.3.0, classifier and counters left out."""
    with torch.device("meta"):
        state = Inception().state_dict()
    lines = sorted(
        f"{key} {tuple(value.shape)}"
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    )
    assert len(lines) == 470
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "e22ffc91a09f7caa1af2ce051c7ddf26018012910da85827a0b035b343f00177"


def test_features_are_those_of_pytorch_fid_with_the_same_weights(file: Path):
    """Values of InceptionV3([3], resize_input=False) of pytorch-fid 0.3.0."""
    network = Inception.from_file(file)
    with torch.inference_mode():
        features = network(picture(299) * 2 - 1)
    assert features.shape == (1, 2048)
    found = [features.mean().item(), features.std().item(), *features[0, [0, 2, 3, 1000, 2047]].tolist()]
    wanted = [0.7287337, 0.9575990, 2.2535434, 0.1874791, 1.0659304, 0.0, 1.7161276]
    assert found == pytest.approx(wanted, abs=2e-5)


def test_it_is_frozen_and_stays_in_evaluation_mode():
    with torch.device("meta"):
        network = Inception()
    assert not network.train().training
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_file_that_does_not_fit_is_one_line(file: Path, tmp_path: Path, change: str):
    state = torch.load(file, weights_only=True)
    if change == "missing":
        del state["Mixed_6b.branch7x7_2.conv.weight"]
    elif change == "extra":
        state["AuxLogits.conv0.conv.weight"] = torch.zeros(1)
    else:
        state["Mixed_7c.branch_pool.bn.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: not the weights that FID's Inception needs") as caught:
        Inception.from_file(tmp_path / "other.pth")
    assert "\n" not in str(caught.value)
