import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from onestep import hub, metrics
from onestep.core.errors import InputError
from onestep.networks.lpips import Lpips
from seeded import picture, weights

HEADED = {"squeeze": 0.3528898, "alex": 0.3797425, "vgg": 0.3304876}
"""LPIPS(net, pretrained=False) of lpips 0.1.4, with seeded backbone and heads, for two seeded pictures."""


def read(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("net", HEADED)
def test_the_wiring_is_that_of_the_authors_package(net: str):
    model = Lpips(net)
    model.features.load_state_dict(weights(model.features.state_dict()))
    generator = torch.Generator().manual_seed(2)
    for head in model.heads:
        head.copy_(torch.rand(head.shape, generator=generator))
    assert model(picture(67) * 2 - 1, picture(67, 1) * 2 - 1).item() == pytest.approx(HEADED[net], abs=2e-6)


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg", "lpips-squeeze", "feature-squeezenet-onnx"])
def test_without_weights_it_is_one_line(home: Path, name: str):
    with pytest.raises(InputError, match="file not found; put it at"):
        metrics.make(name)


class TestLpipsSqueeze:
    def test_example_pictures_of_the_authors(self, development_data: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(hub.HOME_VARIABLE, str(development_data / "metrics"))
        score, folder = metrics.make("lpips-squeeze"), development_data / "metrics" / "lpips"
        reference = read(folder / "ex_ref.png")
        assert score(read(folder / "ex_p0.png"), reference).item() == pytest.approx(0.7110, abs=5e-5)
        assert score(read(folder / "ex_p1.png"), reference).item() == pytest.approx(0.1479, abs=5e-5)


class TestSqueezeNetOnnx:
    @pytest.fixture
    def score(self, development_data: Path, monkeypatch: pytest.MonkeyPatch) -> metrics.Measure:
        monkeypatch.setenv(hub.HOME_VARIABLE, str(development_data / "metrics"))
        return metrics.make("feature-squeezenet-onnx")

    def test_distance_as_onnxruntime_computes_it(self, score: metrics.Measure):
        """Features from onnxruntime 1.31, in half precision; one minus their cosine in numpy."""
        cat = torch.from_numpy(data.chelsea()[:224, 100:324].copy()).permute(2, 0, 1)[None] / 255
        assert score(cat, cat.flip(-1)).item() == pytest.approx(0.51309, abs=1e-4)

    def test_it_is_a_distance_between_0_and_1(self, score: metrics.Measure):
        a, b = torch.cat([picture(64), picture(64, 1)]), torch.cat([picture(64, 2), picture(64, 1)])
        assert score(a, a).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
        assert score(a, b).tolist() == pytest.approx(score(b, a).tolist(), abs=1e-6)
        assert 0.01 < score(a, b)[0].item() < 1
        assert score(a, b)[1].item() == pytest.approx(0.0, abs=1e-6)

    def test_small_pictures_are_refused(self, score: metrics.Measure):
        assert score(picture(31), picture(31, 1)).isfinite().all()
        with pytest.raises(InputError, match="at least 31 pixels"):
            score(picture(30), picture(30))

    def test_another_file_is_one_line(
        self, score: metrics.Measure, monkeypatch, development_data: Path, tmp_path
    ):
        (tmp_path / "other.onnx").write_bytes(b"\x3a\x00")
        monkeypatch.setattr(hub, "fetch", lambda name: tmp_path / "other.onnx")
        with pytest.raises(InputError, match=r"other\.onnx: not an ONNX file"):
            metrics.make("feature-squeezenet-onnx")


@pytest.mark.parametrize(
    ("name", "column", "tolerance"), [("lpips-alex", "LPIPS", 1e-4), ("dists", "DISTS", 1e-4)]
)
def test_the_official_log_where_weights_are_at_hand(
    development_data: Path, name: str, column: str, tolerance: float
):
    if any(hub.locate(file) is None for file in metrics.METRICS[name].weights):
        pytest.skip(f"weights of {name} not found: {', '.join(metrics.METRICS[name].weights)}")
    score, folder = metrics.make(name), development_data / "dev" / "drealsr"
    log = (folder / "osediff_official_metrics.log").read_text()
    for file, value in re.findall(rf"results_osediff/(\S+) \|.*? {column}: ([\d.]+)", log)[::4]:
        sr, hr = read(folder / "osediff_official" / file), read(folder / "HR" / file)
        assert score(sr, hr).item() == pytest.approx(float(value), abs=tolerance)
