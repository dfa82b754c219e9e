from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from onestep import hub, metrics
from onestep.core.errors import InputError, UsageError
from onestep.metrics import sets
from onestep.networks.lpips import Lpips
from seeded import picture


def features(seed: int, count: int = 90, width: int = 24) -> torch.Tensor:
    """Correlated, skewed, away from zero: as features of networks are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return (torch.randn(count, width, generator=generator) @ mixing).relu() + 3 + seed


def scored(accumulator: metrics.SetAccumulator, sr: torch.Tensor, hr: torch.Tensor) -> float:
    for one, other in zip(sr, hr, strict=True):
        accumulator.add(one, other)
    return accumulator.value()


def direct_fid(a: np.ndarray, b: np.ndarray) -> float:
    root = sqrtm(np.cov(a.T) @ np.cov(b.T))
    traces = np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * np.trace(root.real)
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + traces)


def direct_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, pair by pair."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    n = len(a)
    within = [kernel(s[i], s[j]) for s in (a, b) for i in range(n) for j in range(n) if i != j]
    return sum(within) / (n * (n - 1)) - 2 * sum(kernel(x, y) for x in a for y in b) / n**2


@pytest.mark.parametrize("count", [25, 90, 200])
def test_fid_agrees_with_the_matrix_square_root_of_scipy(count: int):
    a, b = features(1, count), features(2, count)
    wanted = direct_fid(a.double().numpy(), b.double().numpy())
    assert scored(sets.Frechet(), a, b) == pytest.approx(wanted, rel=1e-8)


def test_fid_of_fewer_pictures_than_features_is_the_sum_of_singular_values():
    """tr (S1 S2)^½ is the nuclear norm of the product of the centred features, without any covariance."""
    a, b = features(1, 9).double(), features(2, 9).double()
    x, y = a - a.mean(0), b - b.mean(0)
    nuclear = torch.linalg.svdvals(x @ y.T).sum() / 8
    traces = (x.square().sum() + y.square().sum()) / 8
    wanted = float((a.mean(0) - b.mean(0)).square().sum() + traces - 2 * nuclear)
    assert scored(sets.Frechet(), a.float(), b.float()) == pytest.approx(wanted, rel=1e-6)


def test_fid_of_equal_sets_is_zero_and_of_moved_ones_the_closed_form():
    a = features(1)
    assert scored(sets.Frechet(), a, a) == pytest.approx(0.0, abs=1e-9)
    assert scored(sets.Frechet(), a + 0.5, a) == pytest.approx(24 * 0.25, rel=1e-6)


def test_fid_of_scaled_sets_is_the_closed_form():
    """Covariances S and 4 S: tr(S + 4 S - 2 * 2 S) = tr S."""
    a = features(1)
    a = a - a.mean(0)
    assert scored(sets.Frechet(), 2 * a, a) == pytest.approx(float(torch.cov(a.double().T).trace()), rel=1e-5)


def test_kid_agrees_with_its_definition():
    a, b = features(1, 20), features(2, 20)
    wanted = direct_mmd(a.double().numpy(), b.double().numpy())
    assert scored(sets.Kernel(), a, b) == pytest.approx(wanted, rel=1e-10)


def test_kid_has_no_bias():
    """Over many pairs of sets from one distribution the mean is zero, within its standard error."""
    generator = torch.Generator().manual_seed(0)
    values = [
        sets.discrepancy(*torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)) for _ in range(2000)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3.5 * error
    assert min(values) < 0


def test_kid_goes_block_by_block_and_keeps_one_block(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sets, "BLOCK", 8)
    a, b = features(1, 21), features(2, 21)
    accumulator = sets.Kernel()
    value = scored(accumulator, a, b)
    blocks = [
        direct_mmd(a[s].double().numpy(), b[s].double().numpy())
        for s in (slice(8), slice(8, 16), slice(16, 21))
    ]
    assert value == pytest.approx((8 * blocks[0] + 8 * blocks[1] + 5 * blocks[2]) / 21, rel=1e-10)
    assert accumulator.value() == value, "asking changes nothing"
    for one, other in zip(a[:3], b[:3], strict=True):
        accumulator.add(one, other)
    assert max(len(held) for held in vars(accumulator).values() if isinstance(held, list)) < 8


def test_a_single_picture_after_a_block_does_not_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sets, "BLOCK", 8)
    a, b = features(1, 9), features(2, 9)
    assert scored(sets.Kernel(), a, b) == scored(sets.Kernel(), a[:8], b[:8])


def test_moments_hold_no_pictures():
    moments = sets.Moments()
    for vector in features(1, 300):
        moments.add(vector)
    waiting = vars(moments)["_waiting"]
    assert len(waiting) < 64
    mean, covariance = moments.result()
    np.testing.assert_allclose(mean, features(1, 300).double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features(1, 300).double().numpy().T), rtol=1e-10)


@pytest.mark.parametrize(("kind", "name"), [(sets.Frechet, "FID"), (sets.Kernel, "KID")])
def test_too_few_pictures_are_one_line(kind: type, name: str):
    for count in (0, 1):
        with pytest.raises(InputError, match=rf"{name} needs at least two pictures, not {count}"):
            scored(kind(), features(1, count), features(2, count))


def test_measures_of_sets_and_of_pictures_are_made_by_their_own_functions():
    with pytest.raises(UsageError, match="make_set"):
        metrics.make("fid")
    with pytest.raises(UsageError, match="single pictures"):
        metrics.make_set("psnr")


@pytest.mark.parametrize("name", ["fid", "fid-legacy", "kid", "kid-squeeze"])
def test_without_weights_it_is_one_line(home: Path, name: str):
    with pytest.raises(InputError, match="file not found; put it at"):
        metrics.make_set(name)


class TestPictures:
    """How pictures come to Inception, whose weights are not at hand: what it is given is looked at."""

    @pytest.fixture(autouse=True)
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
        given: list[torch.Tensor] = []

        class Spy(torch.nn.Module):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                given.append(image)
                return image.mean(dim=(2, 3)).double()

        monkeypatch.setattr(hub, "fetch", lambda name: Path(name))
        monkeypatch.setattr(sets.Inception, "from_file", lambda path: Spy())
        return given

    @pytest.mark.parametrize("name", ["fid", "kid"])
    def test_resizing_is_that_of_clean_fid(self, seen: list[torch.Tensor], name: str):
        """Each channel by Pillow in its floating-point mode, clipped."""
        image = picture(200)
        found = metrics.make_set(name).features(image)
        assert found.shape == (1, 3)
        assert found.dtype == torch.float32
        for plane, given in zip(image[0].numpy() * 255, seen[0][0], strict=True):
            theirs = np.asarray(Image.fromarray(plane).resize((299, 299), Image.Resampling.BICUBIC))
            torch.testing.assert_close(
                (given + 1) * 127.5, torch.from_numpy(theirs.clip(0, 255)), atol=5e-3, rtol=0
            )

    def test_legacy_resizing_is_that_of_tensorflow(self, seen: list[torch.Tensor]):
        """Values of interpolate_bilinear_2d_like_tensorflow1x of torch-fidelity 0.4.0, less 128, over 128."""
        measure = metrics.make_set("fid-legacy")
        measure.features(picture(128))
        measure.features(picture(500))
        assert seen[0][0, :, 100, 201].tolist() == pytest.approx([0.035841, 0.308744, -0.415659], abs=2e-6)
        assert seen[1][0, :, 298, 77].tolist() == pytest.approx([-0.945842, 0.64272, -0.380238], abs=2e-6)

    def test_what_is_no_picture_is_refused(self):
        measure = metrics.make_set("fid")
        with pytest.raises(InputError, match="not numbers"):
            measure.features(torch.full((1, 3, 64, 64), float("nan")))
        with pytest.raises(InputError, match=r"\(B, 3, H, W\)"):
            measure.features(torch.zeros(1, 1, 64, 64))


class TestKidSqueeze:
    @pytest.fixture
    def measure(self, development_data: Path, monkeypatch: pytest.MonkeyPatch) -> metrics.SetMeasure:
        monkeypatch.setenv(hub.HOME_VARIABLE, str(development_data / "metrics"))
        return metrics.make_set("kid-squeeze")

    def test_features_are_the_last_ones_of_lpips_averaged_over_the_picture(self, measure: metrics.SetMeasure):
        images = torch.cat([picture(48), picture(48, 1)])
        network = Lpips.load("squeeze")
        with torch.inference_mode():
            wanted = 512**0.5 * network.depths(images * 2 - 1)[-1].mean(dim=(2, 3))
        assert measure.features(images).shape == (2, 512)
        torch.testing.assert_close(measure.features(images), wanted)

    def test_blurred_pictures_are_further_away_than_other_pictures(self, measure: metrics.SetMeasure):
        sharp = [measure.features(picture(64, phase))[0] for phase in range(8)]
        others = [measure.features(picture(64, phase))[0] for phase in range(8, 16)]
        blurred = [
            measure.features(torch.nn.functional.avg_pool2d(picture(68, phase), 5, stride=1))[0]
            for phase in range(8)
        ]
        near = scored(measure.begin(), torch.stack(others), torch.stack(sharp))
        assert scored(measure.begin(), torch.stack(blurred), torch.stack(sharp)) > 10 * abs(near)

    def test_small_pictures_are_refused(self, measure: metrics.SetMeasure):
        with pytest.raises(InputError, match="at least 17 pixels"):
            measure.features(picture(16))
