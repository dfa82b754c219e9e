import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.special import gamma
from scipy.stats import gennorm
from skimage import data

from onestep import hub, metrics
from onestep.core.errors import InputError
from onestep.metrics import noreference

PLAIN = {"mu_pris_param": np.zeros((1, 36)), "cov_pris_param": np.eye(36)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A synthetic model: mean 0, covariance 1."""
    np.savez(tmp_path / "model.npz", **PLAIN)
    return tmp_path / "model.npz"


def photo(height: int = 200, width: int = 300) -> torch.Tensor:
    return torch.from_numpy(data.astronaut()[:height, :width].copy()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("shape", [0.7, 1.0, 2.0, 4.0])
def test_the_fit_recovers_the_distribution_that_it_is_given(shape: float):
    """Quantiles of an asymmetric generalised Gaussian: a side twice as wide holds twice as many values."""
    half = gennorm.ppf(0.5 + (np.arange(60_000) + 0.5) / 120_000, shape)
    found = noreference.asymmetric_gaussian(np.concatenate([-1.5 * half, 3 * half, 3 * half]))
    assert found == pytest.approx((shape, 1.5, 3.0), rel=0.01)


def test_the_fit_of_one_sided_or_flat_values_is_not_a_number():
    for values in (np.ones(5), np.zeros(5), -np.ones(5)):
        assert np.isnan(noreference.asymmetric_gaussian(values)).all()


def test_two_equal_deviations_and_the_laplacian_ratio():
    """Mean absolute value squared over mean square is 1/2 for a Laplacian: shape 1."""
    quantiles = -np.log(1 - (np.arange(20_000) + 0.5) / 20_000)
    shape, left, right = noreference.asymmetric_gaussian(np.concatenate([quantiles, -quantiles]))
    assert shape == pytest.approx(1.0, abs=0.005)
    assert left == pytest.approx(right, rel=1e-12)
    assert left == pytest.approx(np.sqrt(2 * gamma(1 / shape) / gamma(3 / shape)), rel=1e-3)


def test_normalisation_ignores_brightness_and_replicates_the_border():
    plane = noreference.rounded_grey(photo()[0])
    normal = noreference.normalised(plane)
    np.testing.assert_allclose(noreference.normalised(plane + 7), normal, atol=1e-9)
    padded = np.pad(plane, 3, mode="edge")
    np.testing.assert_allclose(noreference.normalised(padded)[3:-3, 3:-3], normal, atol=1e-12)


def test_there_are_36_features_per_whole_block_and_the_rest_is_left_out():
    plane = noreference.rounded_grey(photo(200, 300)[0])
    found = noreference.features(plane)
    assert found.shape == (2 * 3, 36)
    np.testing.assert_array_equal(found, noreference.features(plane[:192, :288]))


def test_distance_is_a_mahalanobis_distance():
    blocks = np.random.default_rng(0).normal(size=(50, 36))
    mean, covariance = np.ones(36), 2 * np.eye(36)
    away = mean - blocks.mean(axis=0)
    pooled = (covariance + np.cov(blocks.T)) / 2
    wanted = np.sqrt(away @ np.linalg.solve(pooled, away))
    assert noreference.distance(blocks, mean, covariance) == pytest.approx(wanted, rel=1e-9)


def test_grey_rounds_halves_up_and_keeps_black_and_white():
    values = torch.tensor([[0, 0, 0], [255, 255, 255], [0, 0, 250], [1, 1, 1]]).T / 255
    assert noreference.rounded_grey(values[:, None]).tolist() == [[0, 255, 29, 1]]  # 28.5 becomes 29


def test_blur_raises_the_distance_from_the_sharp_picture(tmp_path: Path):
    """With the statistics of a picture itself as the model, its blurred copy is further away than it is."""
    sharp = photo(288, 480)
    found = noreference.features(noreference.rounded_grey(sharp[0]))
    model = {"mu_pris_param": found.mean(axis=0), "cov_pris_param": np.cov(found.T)}
    np.savez(tmp_path / "own.npz", **model)
    score = noreference.niqe(tmp_path / "own.npz")
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2, count_include_pad=False)
    assert score(sharp).item() == pytest.approx(0.0, abs=1e-9)
    assert score(blurred).item() > 1.0


def test_npz_and_mat_hold_the_same_model(tmp_path: Path, model: Path):
    savemat(tmp_path / "model.mat", {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
    image = photo()
    assert noreference.niqe(tmp_path / "model.mat")(image) == noreference.niqe(model)(image)


def test_scores_of_a_batch(model: Path):
    score = noreference.niqe(model)
    image = torch.cat([photo(), photo().flip(-1)])
    assert score(image).tolist() == [score(image[:1]).item(), score(image[1:]).item()]


def test_images_that_cannot_be_scored_say_why(model: Path):
    score = noreference.niqe(model)
    with pytest.raises(InputError, match="at least 96 pixels"):
        score(photo(95, 300))
    with pytest.raises(InputError, match="at least two blocks"):
        score(photo(96, 191))
    with pytest.raises(InputError, match="with texture"):
        score(torch.full((1, 3, 200, 200), 0.5))


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "small.npz", mu_pris_param=np.zeros(3), cov_pris_param=np.eye(3))
    (tmp_path / "text.mat").write_text("no model at all, only some text that is longer than a header")
    for name in ("other.npz", "small.npz", "text.mat", "missing.npz"):
        with pytest.raises(InputError, match=rf"{re.escape(name)}: not a NIQE model"):
            noreference.niqe(tmp_path / name)


def test_without_weights_the_metric_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(hub.HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(hub, "_download", lambda *_: (_ for _ in ()).throw(OSError("no network in tests")))
    with pytest.raises(InputError, match="niqe_pris_params"):
        metrics.make("niqe")


def test_the_published_files_agree(development_data: Path):
    folder = development_data / "metrics" / "niqe"
    for one, other in zip(
        noreference.read_model(folder / "niqe_pris_params.npz"),
        noreference.read_model(folder / "modelparameters.mat"),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_official_log(development_data: Path, monkeypatch: pytest.MonkeyPatch):
    """Largest difference 0.015, mean 0.003.

    Grey values that lie exactly between two whole numbers (one pixel in a thousand) are rounded up here, and
    either way by a program in single precision: that alone moves scores by as much.
    """
    monkeypatch.setenv(hub.HOME_VARIABLE, str(development_data / "metrics"))
    score, folder = metrics.make("niqe"), development_data / "dev" / "drealsr"
    log = (folder / "osediff_official_metrics.log").read_text()
    logged = re.findall(r"results_osediff/(\S+) .*? NIQE: ([\d.]+)", log)
    assert len(logged) == 31
    away = []
    for name, value in logged:
        with Image.open(folder / "osediff_official" / name) as picture:
            image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255
        away.append(abs(score(image).item() - float(value)))
    assert max(away) < 0.05
    assert sum(away) / len(away) < 0.004
