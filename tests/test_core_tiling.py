from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F

from onestep.core import tiling
from onestep.core.errors import UsageError
from onestep.core.noise import NoiseCanvas
from onestep.core.tiling import fit


def tiled(run, *args, **settings):
    """Of a network with one result."""
    (out,) = tiling.tiled(lambda *tiles: [run(*tiles)], *args, **settings)
    return out


def _image(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _nearest(scale):
    return lambda lr, _noise, *_maps: lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def _blur(radius, seed=0):
    """A network that looks ``radius`` pixels far, with zeros beyond its border."""
    kernel = _image(seed, 3, 3, 2 * radius + 1, 2 * radius + 1) / (3 * (2 * radius + 1) ** 2)
    return lambda lr, _noise: F.conv2d(lr, kernel, padding=radius)


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (72, 72), (128, 128), (256, 256), (339, 510), (65, 63), (1, 300), (7, 5)]
)
@pytest.mark.parametrize("settings", [{}, {"multiple_of": 8}, {"minimum": 40}])
def test_an_upscaler_without_context_gives_the_whole_image(height, width, settings):
    lr = _image(0, 1, 3, height, width)
    run = _nearest(2)
    out = tiled(run, lr, NoiseCanvas(0, 3), scale=2, tile=64, overlap=16, ratio=1, **settings)
    assert torch.equal(out, run(lr, None))


@pytest.mark.parametrize("side", [(64, 64), (72, 72), (128, 128), (256, 256), (339, 510)])
def test_published_sizes_at_scale_4(side):
    lr = _image(1, 1, 1, *side)
    out = tiled(_nearest(4), lr, NoiseCanvas(0, 0), scale=4, tile=128, overlap=16, ratio=4)
    assert out.shape == (1, 1, 4 * side[0], 4 * side[1])
    assert torch.equal(out, _nearest(4)(lr, None))


@pytest.mark.parametrize(
    ("tile", "overlap", "multiple_of"),
    [
        (24, 8, 1),
        (25, 9, 1),
        (24, 11, 1),
        (32, 28, 1),
        (17, 12, 1),
        (200, 8, 1),
        (27, 8, 4),
        (32, 13, 8),
        (32, 12, 32),
        (39, 31, 16),
    ],
)
def test_a_network_within_a_quarter_of_the_overlap_sees_no_tiles(tile, overlap, multiple_of):
    lr = _image(2, 1, 3, 64, 96)
    run = _blur(overlap // 4)
    out = tiled(
        run, lr, NoiseCanvas(0, 0), scale=1, tile=tile, overlap=overlap, ratio=1, multiple_of=multiple_of
    )
    assert torch.allclose(out, run(lr, None), rtol=0, atol=1e-6)


def test_a_network_that_looks_further_does_differ():
    lr = _image(2, 1, 3, 60, 84)
    run = _blur(4)
    out = tiled(run, lr, NoiseCanvas(0, 0), scale=1, tile=24, overlap=8, ratio=1)
    assert not torch.allclose(out, run(lr, None), rtol=0, atol=1e-3)


def test_tiles_that_disagree_are_cross_faded():
    count = iter(range(100))

    def run(lr, _noise):
        return torch.full_like(lr, float(next(count) % 2))

    out = tiled(run, torch.zeros(1, 1, 20, 52), NoiseCanvas(0, 0), scale=1, tile=20, overlap=8, ratio=1)
    row = out[0, 0, 10]
    # Tiles at 0, 12, 24 and 32; the fade takes the middle half of the shared pixels.
    assert row[:14].tolist() == [0] * 14
    assert row[14:18].tolist() == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    assert row[18:26].tolist() == [1] * 8
    assert row[26:30].tolist() == pytest.approx([7 / 8, 5 / 8, 3 / 8, 1 / 8])
    assert float(row.diff().abs().max()) <= 1 / 4 + 1e-6
    assert torch.equal(out, row.expand_as(out))


def test_rows_are_cross_faded_like_columns():
    def run(lr, noise):
        return noise.mean().expand_as(lr)

    settings = {"scale": 1, "tile": 16, "overlap": 8, "ratio": 1}
    out = tiled(run, torch.zeros(1, 1, 40, 40), NoiseCanvas(3, 1), **settings)
    steps = torch.cat([out.diff(dim=-1).flatten(), out.diff(dim=-2).flatten()]).abs()
    assert 0 < float(steps.max()) <= float(out.max() - out.min()) / 4 + 1e-6


@pytest.mark.parametrize("tile", [16, 24, 40, 1000])
@pytest.mark.parametrize(("ratio", "multiple_of"), [(1, 1), (4, 1), (Fraction(1, 2), 2), (Fraction(3, 2), 4)])
def test_all_tiles_see_one_field_of_noise(tile, ratio, multiple_of):
    def run(_lr, noise):
        return F.interpolate(noise, scale_factor=float(12 / Fraction(ratio) / 4), mode="nearest-exact")

    lr = torch.zeros(1, 3, 48, 60)
    canvas = NoiseCanvas(9, 2)
    settings = {"scale": 3, "overlap": 6, "ratio": ratio, "multiple_of": multiple_of}
    out = tiled(run, lr, canvas, tile=tile, **settings)
    window = canvas.window(0, 0, int(48 * ratio), int(60 * ratio))
    assert torch.equal(out, F.interpolate(window, size=(144, 180), mode="nearest-exact"))


def test_the_batch_shares_the_noise():
    lr = torch.zeros(2, 3, 20, 20)
    out = tiled(lambda _lr, noise: noise, lr, NoiseCanvas(1, 3), scale=1, tile=12, overlap=4, ratio=1)
    assert out.shape == (2, 3, 20, 20)
    assert torch.equal(out[0], out[1])


def test_every_result_of_a_sweep_is_laid():
    lr = _image(4, 2, 3, 30, 45)
    factors = (0.0, 0.5, 1.0)

    def sweep(tile, _noise):
        return (_nearest(2)(tile * factor, None) for factor in factors)

    out = tiling.tiled(sweep, lr, NoiseCanvas(0, 0), scale=2, tile=16, overlap=4, ratio=1)
    assert [one.shape for one in out] == 3 * [(2, 3, 60, 90)]
    for k, factor in enumerate(factors):
        one = tiled(_nearest(2), lr * factor, NoiseCanvas(0, 0), scale=2, tile=16, overlap=4, ratio=1)
        assert torch.equal(out[k], one)
        assert torch.equal(one, _nearest(2)(lr * factor, None))


def test_maps_are_cut_with_the_image():
    lr, realism, mask = _image(5, 2, 3, 33, 50), _image(6, 2, 1, 33, 50), _image(7, 1, 1, 33, 50)
    shapes = set()

    def run(tile, _noise, t, m):
        shapes.add((t.shape[-2:], m.shape[-2:], tile.shape[-2:]))
        return tile * t + m

    settings = {"scale": 1, "tile": 20, "overlap": 4, "ratio": 1, "multiple_of": 4}
    out = tiled(run, lr, NoiseCanvas(0, 0), maps=(realism, mask), **settings)
    assert torch.equal(out, lr * realism + mask)
    assert all(len(set(shape)) == 1 for shape in shapes)


def test_progress_rises_to_one():
    seen = []
    settings = {"scale": 1, "tile": 16, "overlap": 4, "ratio": 1}
    tiled(_nearest(1), torch.zeros(1, 1, 30, 40), NoiseCanvas(0, 0), progress=seen.append, **settings)
    # Tiles start at 0, 12, 14 and at 0, 12, 24.
    assert seen == pytest.approx([n / 9 for n in range(1, 10)])
    assert seen[-1] == 1
    seen.clear()
    tiled(_nearest(1), torch.zeros(1, 1, 16, 16), NoiseCanvas(0, 0), progress=seen.append, **settings)
    assert seen == [1]


@pytest.mark.parametrize(
    ("multiple_of", "minimum", "tile"), [(8, 1, 30), (1, 24, 10), (8, 20, 9), (16, 1, 7)]
)
@pytest.mark.parametrize("size", [(1, 1), (5, 90), (33, 47), (64, 64)])
def test_every_tile_fits_the_model(multiple_of, minimum, tile, size):
    sides = set()

    def run(lr, _noise):
        sides.update(lr.shape[-2:])
        return lr

    lr = _image(8, 1, 1, *size)
    settings = {"scale": 1, "ratio": 1, "multiple_of": multiple_of, "minimum": minimum}
    out = tiled(run, lr, NoiseCanvas(0, 0), tile=tile, overlap=4, **settings)
    assert torch.equal(out, lr)
    assert all(side % multiple_of == 0 and side >= minimum for side in sides)
    assert max(sides) <= max(tile, minimum + multiple_of, multiple_of)


@pytest.mark.parametrize("ratio", [1, Fraction(1, 2)])
def test_an_overlap_that_rounding_made_too_large_is_halved(ratio):
    tops = []

    def run(lr, _noise):
        tops.append(int(lr[0, 0, 0, 0]))
        return lr

    rows = torch.arange(96.0).view(1, 1, 96, 1).expand(1, 1, 96, 32)
    tiled(run, rows, NoiseCanvas(0, 1), scale=1, tile=40, overlap=36, ratio=ratio, multiple_of=32)
    assert tops == [0, 16, 32, 48, 64]


def test_padding_reflects_where_it_can():
    image = torch.tensor([[1.0, 2, 3]]).view(1, 1, 1, 3)
    assert fit(image, 5)[0, 0, 0].tolist() == [1, 2, 3, 2, 1]
    assert fit(image, 1, 7)[0, 0, 0].tolist() == [1, 2, 3, 3, 3, 3, 3]
    assert fit(image, 4).shape == (1, 1, 4, 4)
    assert fit(image, 1) is image


def test_the_result_is_single_precision_on_the_device_of_the_image():
    lr = _image(9, 1, 3, 24, 24)
    settings = {"scale": 2, "tile": 16, "overlap": 4, "ratio": 1}
    out = tiled(lambda x, n: _nearest(2)(x, n).bfloat16(), lr, NoiseCanvas(0, 0), **settings)
    assert out.dtype == torch.float32
    assert torch.equal(out, _nearest(2)(lr, None).bfloat16().float())


def test_noise_has_the_type_of_the_image():
    def run(lr, noise):
        assert noise.dtype == lr.dtype == torch.bfloat16
        return lr

    settings = {"scale": 1, "tile": 16, "overlap": 4, "ratio": 1}
    tiled(run, torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16), NoiseCanvas(0, 1), **settings)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (16, 16), (16, -1)])
def test_tiles_that_cannot_be_laid_are_refused(tile, overlap):
    lr = torch.zeros(1, 1, 8, 8)
    with pytest.raises(UsageError, match=r"use (0 to 15|a side of)"):
        tiled(_nearest(1), lr, NoiseCanvas(0, 0), scale=1, tile=tile, overlap=overlap, ratio=1)


def test_mistakes_of_a_program_are_told():
    lr, settings = torch.zeros(1, 1, 8, 8), {"scale": 1, "tile": 8, "overlap": 0}
    with pytest.raises(ValueError, match="canvas elements"):
        tiled(_nearest(1), lr, NoiseCanvas(0, 0), ratio=Fraction(1, 2), multiple_of=3, **settings)
    with pytest.raises(ValueError, match="a map is"):
        tiled(_nearest(1), lr, NoiseCanvas(0, 0), ratio=1, maps=(lr[..., :4],), **settings)
