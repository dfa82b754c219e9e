import math
from collections import Counter

import pytest
import torch

from onestep.core.errors import UsageError
from onestep.degrade import kernels
from onestep.degrade.jpeg import jpeg
from onestep.degrade.operators import (
    MIXTURE,
    Blur,
    Clamp,
    Crop,
    Downsample,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Resize,
    Round8,
    Sinc,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def drawn(monkeypatch):
    """Record the parameters of every kernel that is made."""
    calls = []

    def spy(name):
        original = getattr(kernels, name)

        def record(size, *args, **options):
            calls.append((name, size, *args, options.get("beta")))
            return original(size, *args, **options)

        monkeypatch.setattr(kernels, name, record)

    for name in ("gaussian", "generalized", "plateau", "sinc"):
        spy(name)
    return calls


def test_blur_draws_families_sizes_and_sigmas_as_specified(generator, drawn):
    blur = Blur(sizes=(7, 21), sigma=(0.2, 3.0), sinc=0.1)
    count = 3000
    for _ in range(count):
        blur.kernel(generator)
    sincs = [call for call in drawn if call[0] == "sinc"]
    assert len(sincs) / count == pytest.approx(0.1, abs=0.02)
    others = [call for call in drawn if call[0] != "sinc"]
    families = Counter(
        (call[0], "iso" if call[2] == call[3] and call[4] == 0 else "aniso") for call in others
    )
    for family, probability in MIXTURE:
        name, _, shape = family.rpartition("-")
        share = families[name or "gaussian", shape] / len(others)
        assert share == pytest.approx(probability, abs=0.03)
    sizes = Counter(call[1] for call in drawn)
    assert set(sizes) == {7, 9, 11, 13, 15, 17, 19, 21}
    assert min(sizes.values()) > count / 8 * 0.8
    sigmas = [sigma for call in others for sigma in call[2:4]]
    assert 0.2 <= min(sigmas) < 0.22
    assert 2.97 < max(sigmas) <= 3.0
    angles = [call[4] for call in others if call[4] != 0]
    assert -math.pi <= min(angles) < -3.1
    assert 3.1 < max(angles) <= math.pi


def test_sinc_cutoffs_depend_on_the_size(generator, drawn):
    blur = Blur(sizes=(7, 21), sinc=1.0)
    for _ in range(1500):
        blur.kernel(generator)
    small = [cutoff for _, size, cutoff, _ in drawn if size < 13]
    large = [cutoff for _, size, cutoff, _ in drawn if size >= 13]
    assert math.pi / 3 <= min(small) < math.pi / 3 + 0.05
    assert math.pi / 5 <= min(large) < math.pi / 5 + 0.05
    assert max(*small, *large) <= math.pi


@pytest.mark.parametrize(
    ("family", "options", "bounds", "below"),
    [
        ("generalized-iso", {"beta_generalized": (0.5, 4.0)}, (0.5, 4.0), 0.5),
        ("plateau-aniso", {"beta_plateau": (1.0, 1.5)}, (1.0, 1.5), 0.5),
    ],
)
def test_betas_are_drawn_on_both_sides_of_one_alike(generator, drawn, family, options, bounds, below):
    blur = Blur(families=((family, 1.0),), **options)
    for _ in range(1500):
        blur.kernel(generator)
    betas = [call[-1] for call in drawn]
    assert bounds[0] <= min(betas) <= bounds[0] + 0.02
    assert bounds[1] - 0.02 <= max(betas) <= bounds[1]
    assert sum(beta <= 1 for beta in betas) / len(betas) == pytest.approx(below, abs=0.05)


def test_final_sinc_draws_from_its_ranges(generator, drawn):
    sinc = Sinc(sizes=(3, 13))
    for _ in range(800):
        sinc.kernel(generator)
    assert {call[1] for call in drawn} == {3, 5, 7, 9, 11, 13}
    cutoffs = [call[2] for call in drawn]
    assert math.pi / 3 <= min(cutoffs) < 1.1
    assert 3.1 < max(cutoffs) <= math.pi


def test_filters_keep_flat_pictures_and_sizes(generator):
    flat = torch.full((3, 17, 40), 0.3)
    for step in (Blur(sinc=0.5), Sinc()):
        assert torch.allclose(step(flat, generator), flat, atol=1e-5)


def test_resize_draws_directions_and_factors_as_specified(generator):
    resize = Resize((0.2, 0.7, 0.1), (0.15, 1.5))
    factors = [resize.factor(generator) for _ in range(3000)]
    ups, downs = [f for f in factors if f > 1], [f for f in factors if f < 1]
    assert len(ups) / 3000 == pytest.approx(0.2, abs=0.03)
    assert len(downs) / 3000 == pytest.approx(0.7, abs=0.03)
    assert min(downs) == pytest.approx(0.15, abs=0.01)
    assert max(ups) == pytest.approx(1.5, abs=0.01)
    assert sum(downs) / len(downs) == pytest.approx((0.15 + 1) / 2, abs=0.02)


def test_resize_takes_every_mode_alike(generator, monkeypatch):
    modes = []
    original = torch.nn.functional.interpolate

    def spy(image, **options):
        modes.append(options["mode"])
        assert not options.get("antialias", False)
        return original(image, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", spy)
    resize = Resize((0.0, 1.0, 0.0), (0.5, 0.9))
    for _ in range(600):
        resize(torch.rand(3, 8, 8), generator)
    counts = Counter(modes)
    assert set(counts) == {"area", "bilinear", "bicubic"}
    assert min(counts.values()) > 160


def test_resize_follows_the_entrance_where_it_has_a_divisor(generator):
    image = torch.rand(3, 50, 20)
    keep = Resize((0.0, 0.0, 1.0), divisor=4)
    assert keep.within(image, generator, (131, 67)).shape == (3, 32, 16)
    up = Resize((1.0, 0.0, 0.0), (1.0, 1.2), divisor=4)
    for _ in range(30):
        height, width = up.within(image, generator, (128, 96)).shape[1:]
        assert 32 <= height <= 38
        assert 24 <= width <= 28


def test_resize_leaves_a_picture_of_the_right_size_alone(generator):
    image = torch.rand(3, 12, 9)
    assert torch.equal(Resize((0.0, 0.0, 1.0))(image, generator), image)
    assert torch.equal(Resize((0.0, 0.0, 1.0), divisor=2).within(image, generator, (24, 18)), image)


def test_resize_never_makes_an_empty_picture(generator):
    tiny = Resize((0.0, 1.0, 0.0), (0.15, 0.15 + 1e-9))
    for _ in range(10):
        assert min(tiny(torch.rand(3, 3, 2), generator).shape[1:]) >= 1


def test_average_pool_up_then_down_is_the_identity(generator):
    for factor in (2, 3, 4):
        lr = torch.rand(3, 6, 5, generator=generator)
        up = lr.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        assert torch.allclose(Downsample(factor, "area")(up, generator), lr, atol=1e-6)


def test_average_pool_up_is_sixteen_times_the_adjoint(generator):
    x, y = torch.rand(3, 16, 12, generator=generator), torch.rand(3, 4, 3, generator=generator)
    up = y.repeat_interleave(4, 1).repeat_interleave(4, 2)
    left = (Downsample(4, "area")(x, generator) * y).sum().item()
    assert left == pytest.approx((x * up).sum().item() / 16, rel=1e-5)


def test_bicubic_has_the_antialiased_kernel_with_a_half(generator):
    def cubic(t, a=-0.5):
        t = abs(t)
        if t < 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    centre = 4 * 8 + 2
    weights = [cubic((i + 0.5 - centre) / 4) for i in range(64)]
    for position in (30, 34, 40):
        impulse = torch.zeros(3, 64, 64)
        impulse[:, position, :] = 1
        expected = weights[position] / sum(weights)
        assert Downsample(4)(impulse, generator)[0, 8, 5].item() == pytest.approx(expected, abs=1e-5)


def test_crop_keeps_the_top_left(generator):
    image = torch.rand(3, 11, 14)
    assert torch.equal(Crop(4)(image, generator), image[:, :8, :12])
    with pytest.raises(UsageError, match="too small"):
        Crop(4)(torch.rand(3, 3, 40), generator)


def test_gaussian_noise_has_the_deviation_and_the_share_of_grey_asked_for(generator):
    flat = torch.full((3, 40, 40), 0.5)
    noise = GaussianNoise((10.0, 10.0))(flat, generator) - flat
    assert noise.std().item() * 255 == pytest.approx(10, rel=0.05)
    assert abs(torch.corrcoef(noise.reshape(3, -1))[0, 1].item()) < 0.1
    deviations, greys = [], 0
    for _ in range(600):
        noise = GaussianNoise((1.0, 30.0), grey=0.4)(flat, generator) - flat
        deviations.append(noise.std().item() * 255)
        greys += torch.equal(noise[0], noise[1])
    assert greys / 600 == pytest.approx(0.4, abs=0.06)
    assert 0.9 < min(deviations) < 1.6
    assert 28 < max(deviations) < 32
    assert sum(deviations) / 600 == pytest.approx(15.5, abs=1.2)


def test_noise_is_clipped_only_where_asked(generator):
    dark = torch.zeros(3, 16, 16)
    assert GaussianNoise((20.0, 20.0))(dark, generator).min() == 0
    assert GaussianNoise((20.0, 20.0), clip=False)(dark, generator).min() < -0.02
    bright = torch.linspace(0, 1, 256).expand(3, 16, 256)
    assert PoissonNoise((3.0, 3.0))(bright, generator).max() == 1
    assert PoissonNoise((3.0, 3.0), clip=False)(bright, generator).max() > 1.05


@pytest.mark.parametrize(("levels", "peak"), [(256, 256), (100, 128), (64, 64), (65, 128)])
def test_poisson_noise_has_the_variance_of_its_formula(generator, levels, peak):
    image = (torch.arange(levels)[:, None] / 255).expand(3, levels, 600)
    noise = PoissonNoise((1.5, 1.5), clip=False)(image, generator) - image
    for row in (levels - 1, levels // 2):
        expected = 1.5 * math.sqrt(row / 255 / peak)
        assert noise[:, row].std().item() == pytest.approx(expected, rel=0.08)
        assert noise[:, row].mean().item() == pytest.approx(0, abs=expected / 8)


def test_grey_poisson_noise_is_the_same_in_all_channels(generator):
    image = torch.rand(3, 24, 24, generator=generator)
    noise = PoissonNoise((1.0, 1.0), grey=1.0, clip=False)(image, generator) - image
    assert torch.allclose(noise[0], noise[1], atol=1e-6)
    assert torch.allclose(noise[0], noise[2], atol=1e-6)
    noise = PoissonNoise((1.0, 1.0), grey=0.0, clip=False)(image, generator) - image
    assert not torch.allclose(noise[0], noise[1], atol=1e-3)


def test_poisson_noise_of_a_black_picture_is_black(generator):
    assert PoissonNoise((3.0, 3.0))(torch.zeros(3, 8, 8), generator).abs().max() == 0


def test_jpeg_draws_real_and_whole_qualities(generator):
    real = [Jpeg((30.0, 95.0)).draw(generator) for _ in range(1000)]
    assert 30 <= min(real) < 30.5
    assert 94.5 < max(real) < 95
    whole = Counter(Jpeg((75, 100), "libjpeg").draw(generator) for _ in range(2600))
    assert set(whole) == set(range(75, 101))
    assert min(whole.values()) > 60


def test_jpeg_compresses_at_the_quality_it_draws(generator):
    image = torch.rand(3, 24, 40, generator=generator)
    assert torch.equal(Jpeg((42.0, 42.0))(image, generator), jpeg(image, 42.0))
    exact = Jpeg((80, 80), "libjpeg")(image, generator)
    assert torch.equal(exact, jpeg(image, 80, convention="libjpeg"))


def test_clamp_and_round(generator):
    image = torch.tensor([-0.2, 0.2509, 0.5 / 255, 1.5 / 255, 1.3])
    assert Clamp()(image, generator).tolist() == pytest.approx([0, 0.2509, 0.5 / 255, 1.5 / 255, 1])
    assert (Round8()(image, generator) * 255).tolist() == pytest.approx([0, 64, 0, 2, 255])
