import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

from onestep import hub, metrics
from onestep.core.errors import InputError
from onestep.metrics import brisque

CHELSEA = (
    "1.412 0.231103 0.53 0.050602 0.05633 0.106971 0.532 0.021698 0.069317 0.091014 0.537 -0.034911 "
    "0.09873 0.063859 0.516 0.003561 0.078988 0.082626 1.553 0.300896 0.58 0.006319 0.12863 0.136452 "
    "0.59 -0.028873 0.143169 0.108668 0.593 -0.036229 0.141907 0.099665 0.567 -0.027948 0.144667 0.110451"
)
"""QualityBRISQUE_computeFeatures of opencv-contrib 5.0.0 for scikit-image's cat."""
ONE_VECTOR = """%YAML:1.0
opencv_ml_svm:
   kernel:
      type: RBF
      gamma: 5.0000000000000003e-02
   support_vectors:
      - [ {vector} ]
   decision_functions:
      -
         sv_count: 1
         rho: -1.5e+01
         alpha: [ 40. ]
"""


def image(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


def files(folder: Path) -> tuple[Path, Path]:
    """A model with one support vector at zero, in OpenCV's format, and ranges from -1 to 1."""
    (folder / "model.yml").write_text(ONE_VECTOR.format(vector=", ".join(["0."] * 36)))
    ranges = ", ".join(["-1."] * 36 + ["1."] * 36)
    (folder / "range.yml").write_text(f"%YAML:1.0\nrange: !!opencv-matrix\n   data: [ {ranges} ]\n")
    return folder / "model.yml", folder / "range.yml"


def test_features_are_those_of_opencv():
    wanted = [float(number) for number in CHELSEA.split()]
    found = brisque.features(brisque.grey(image(data.chelsea())[0]))
    assert found == pytest.approx(wanted, abs=3e-6)


def test_grey_is_that_of_opencv():
    """cv2.cvtColor of the primaries, of white, and of values whose sum rounds up and down."""
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3, [10, 20, 30], [250, 1, 128]]])
    grey = brisque.grey(image(colours.astype(np.uint8))[0]) * 255
    assert np.rint(grey).tolist() == [[76, 150, 29, 255, 18, 90]]


def test_a_regression_with_one_vector_is_a_closed_form(tmp_path: Path):
    model = brisque.read_model(*files(tmp_path))
    features = np.linspace(-0.5, 0.5, 36)
    wanted = 40 * np.exp(-0.05 * np.sum(features**2)) + 15
    assert model.predict(features) == pytest.approx(wanted, rel=1e-12)
    assert model.predict(np.full(36, 1e3)) == 15.0


def test_scores_of_a_batch_are_those_of_its_images(tmp_path: Path):
    score = brisque.brisque(*files(tmp_path))
    a = image(data.chelsea()[:100, :120])
    assert score(torch.cat([a, a.flip(-1)])).tolist() == [score(a).item(), score(a.flip(-1)).item()]


def test_images_that_cannot_be_scored_say_why(tmp_path: Path):
    score = brisque.brisque(*files(tmp_path))
    assert score(image(data.chelsea()[:14, :20])).isfinite().all()
    with pytest.raises(InputError, match="at least 14 pixels"):
        score(image(data.chelsea()[:13, :20]))
    with pytest.raises(InputError, match="texture"):
        score(torch.full((1, 3, 32, 32), 0.5))


def test_files_that_are_no_model_are_one_line(tmp_path: Path):
    model, ranges = files(tmp_path)
    (tmp_path / "bytes.yml").write_bytes(bytes(range(256)))
    for one, other in ((ranges, ranges), (model, model), (tmp_path / "bytes.yml", ranges)):
        with pytest.raises(InputError, match="BRISQUE") as caught:
            brisque.brisque(one, other)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "none.yml"))):
        brisque.brisque(tmp_path / "none.yml", ranges)


def test_without_weights_the_metric_cannot_be_made(home: Path):
    with pytest.raises(InputError, match="brisque_model_live"):
        metrics.make("brisque")


def test_scores_are_those_of_opencv(development_data: Path, monkeypatch: pytest.MonkeyPatch):
    """QualityBRISQUE_compute of opencv-contrib 5.0.0, for pictures of scikit-image."""
    monkeypatch.setenv(hub.HOME_VARIABLE, str(development_data / "metrics"))
    score = metrics.make("brisque")
    assert score(image(data.chelsea())).item() == pytest.approx(2.0648, abs=0.003)
    assert score(image(data.coffee())).item() == pytest.approx(3.6062, abs=0.003)
    blurred = gaussian_filter(data.chelsea().astype(float), (3, 3, 0), mode="mirror")
    assert score(image(np.rint(blurred).astype(np.uint8))).item() == pytest.approx(70.24, abs=0.5)
