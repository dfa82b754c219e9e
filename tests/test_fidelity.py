"""Nothing is lost: a model that does nothing gives every file back, at any size, depth and mode."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icc import GREY_GAMMA, PROFILES, SRGB
from onestep import Upscaler
from onestep.core.profile import profile_of
from pictures import About, Nearest, described, pixels, write

SAME = Upscaler(Nearest(), device="cpu", dtype="float32")
MODELS = [
    Upscaler(Nearest(scale, multiple_of=multiple, minimum=minimum), device="cpu", dtype="float32")
    for scale, multiple, minimum in ((1, 1, 1), (2, 1, 1), (4, 1, 1), (4, 8, 1), (3, 2, 20), (2, 16, 64))
]
KINDS = [
    *((name, channels, np.uint8) for name in ("png", "tif", "webp") for channels in (1, 2, 3, 4)),
    *((name, channels, np.uint16) for name in ("png", "tif") for channels in (1, 2, 3, 4)),
    *(("bmp", channels, np.uint8) for channels in (1, 3)),
]
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}

sides = st.one_of(st.integers(1, 24), st.integers(1, 300))
abouts = st.builds(
    About,
    orientation=st.integers(1, 8),
    icc=st.sampled_from([None, SRGB, *PROFILES.values()]),
    dpi=st.sampled_from([None, (300, 300), (72, 144)]),
    artist=st.sampled_from([None, "Ann", "Zoë Müller"]),
    xmp=st.sampled_from([None, b'<x:xmpmeta tiff:Orientation="6"/>', b"<x:xmpmeta>\xc3\xa9</x:xmpmeta>"]),
)


def noise(height, width, channels, dtype, seed=0):
    """Uniform noise; where there is alpha, every pixel can be seen."""
    array = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype)
    if channels in (2, 4):
        array[..., -1] |= 1
    return array


@given(kind=st.sampled_from(KINDS), width=sides, height=sides, about=abouts, seed=st.integers(0, 99))
@settings(max_examples=70, deadline=None)
def test_a_model_that_does_nothing_gives_the_file_back(kind, width, height, about, seed):
    extension, channels, dtype = kind
    array = noise(height, width, channels, dtype, seed)
    if extension == "bmp":
        about = About(dpi=about.dpi)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder, f"{name}.{extension}") for name in "ab")
        write(source, array, about)
        SAME(source, scale=1).save(target)
        turned = UPRIGHT[about.turn](array)
        out = pixels(target)
        before, after = described(source), described(target)
    if extension == "webp" and channels <= 2:  # the format knows no grey
        turned = np.concatenate([turned[..., :1]] * 3 + [turned[..., 1:]], -1)
        out = out if out.shape[-1] == turned.shape[-1] else out[..., :3]
    assert out.dtype == dtype
    if dtype == np.uint16 and about.icc in PROFILES.values():
        # The darkest 0.2 % of a gamma curve lie closer together in sRGB than single precision can tell.
        assert np.abs(out.astype(int) - turned)[turned < 150].max(initial=0) <= 60
        out = np.where(turned < 150, turned, out)
    assert np.array_equal(out, turned)
    check_metadata(before, after, (turned.shape[1], turned.shape[0]), about)


def check_metadata(before, after, size, about):
    assert after["size"] == size
    assert after["icc"] == before["icc"]
    dpi = before["dpi"]
    assert after["dpi"] == (dpi if about.turn < 5 or dpi is None else dpi[::-1])
    assert after["tags"].get(274, 1) == 1
    assert after["tags"].get(315) == before["tags"].get(315)
    sizes = {0xA002: size[0], 0xA003: size[1]}
    assert after["inner"] == {code: sizes.get(code, value) for code, value in before["inner"].items()}
    if before["xmp"] is not None:
        assert after["xmp"] == before["xmp"].replace(b'Orientation="6"', b'Orientation="1"')


@given(
    model=st.sampled_from(MODELS),
    width=sides,
    height=sides,
    scale=st.one_of(st.sampled_from([1.0, 1.5, 2.0, 2.25, 3.0, 4.0, 16.0]), st.floats(1, 16)),
    channels=st.integers(1, 4),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    tile=st.sampled_from(["auto", "off", 32, 48]),
)
@settings(max_examples=50, deadline=None)
def test_every_size_and_scale_is_met_exactly(model, width, height, scale, channels, dtype, tile):
    width, height = (min(side, max(1, int(700 / scale))) for side in (width, height))
    array = noise(height, width, channels, dtype)
    if channels in (2, 4):
        array[..., -1] |= np.iinfo(dtype).max // 2 + 1
    out = model(array, scale=scale, tile=tile)
    assert (out.width, out.height) == (round(scale * width), round(scale * height))
    result = out.to_uint16() if dtype == np.uint16 else out.to_uint8()
    assert result.shape == (out.height, out.width, channels)
    if scale == model.model.traits.scale:
        repeated = array.repeat(int(scale), 0).repeat(int(scale), 1)
        color = repeated if channels in (1, 3) else repeated[..., :-1]
        assert np.array_equal(result[..., : color.shape[-1]], color)


levels = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))


@given(
    model=st.sampled_from(MODELS),
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    scale=st.one_of(st.sampled_from([1.0, 2.0, 4.0]), st.floats(1, 6)),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    colors=st.tuples(levels, levels),
    share=st.floats(0, 0.95),
    hard=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_no_hidden_color_bleeds_over_the_edge_of_alpha(
    model, width, height, scale, dtype, colors, share, hard, seed
):
    """One colour where there is alpha, another below: only the first is ever seen, on any background."""
    random, full = np.random.default_rng(seed), np.iinfo(dtype).max
    shown, hidden = (np.array(color) * (full // 255) for color in colors)
    alpha = np.full((height, width, 1), full) if hard else random.integers(1, full, (height, width, 1))
    alpha[random.random((height, width)) < share] = 0
    alpha[random.integers(height), random.integers(width)] = full
    out = model(np.concatenate([np.where(alpha > 0, shown, hidden), alpha], -1).astype(dtype), scale=scale)
    result = (out.to_uint16() if dtype == np.uint16 else out.to_uint8()).astype(int)
    seen = result[..., 3] > 0
    assert np.abs(result[..., :3] - shown)[seen].max() <= 1
    if scale == 1:
        assert np.array_equal(result[..., 3:], alpha)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 640), st.sampled_from([np.uint8, np.uint16]))
@settings(max_examples=20, deadline=None)
def test_an_exact_width_keeps_the_aspect(width, height, wanted, dtype):
    wanted = min(max(wanted, width), 16 * width)
    out = MODELS[1](noise(height, width, 3, dtype), width=wanted)
    assert out.width == wanted
    assert out.height == min(max(round(height * wanted / width), 1), 16 * height)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp"])
def test_modes_that_become_others(name, tmp_path):
    rgb = Image.fromarray(noise(20, 30, 3, np.uint8)).resize((30, 20))
    sources = {"P": rgb.quantize(16), "1": rgb.convert("1"), "CMYK": rgb.convert("CMYK")}
    for mode, image in sources.items():
        if mode == "CMYK" and name != "a.tif":
            continue
        image.convert("RGB" if name == "a.webp" else mode).save(tmp_path / name, **LOSSLESS.get(name, {}))
        SAME(tmp_path / name, scale=1).save(tmp_path / f"out-{name}")
        out = pixels(tmp_path / f"out-{name}")
        expected = np.asarray(image.convert("L" if mode == "1" and name != "a.webp" else "RGB"))
        assert np.array_equal(out.reshape(expected.shape), expected), mode


LOSSLESS = {"a.webp": {"lossless": True}}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_photograph_in_jpeg_stays_one(mode, tmp_path):
    ramp = np.add.outer(np.arange(60), 2 * np.arange(80)).astype(np.uint8)
    image = Image.merge("RGB", [Image.fromarray(ramp)] * 3).convert(mode)
    image.save(tmp_path / "a.jpg", quality=98, dpi=(300, 300))
    SAME(tmp_path / "a.jpg", scale=1).save(tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as out, Image.open(tmp_path / "a.jpg") as source:
        assert out.mode == ("L" if mode == "L" else "RGB")
        assert out.info["dpi"] == (300, 300)
        expected = np.asarray(source.convert(out.mode), dtype=int)
        assert np.abs(np.asarray(out, dtype=int) - expected).mean() < 2


def test_transparency_of_palettes_and_keys_is_kept(tmp_path):
    image = Image.fromarray(noise(12, 9, 3, np.uint8)).quantize(8)
    image.save(tmp_path / "p.png", transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255]))
    SAME(tmp_path / "p.png", scale=1).save(tmp_path / "q.png")
    before, after = pixels(tmp_path / "p.png"), pixels(tmp_path / "q.png")
    assert np.array_equal(before[..., 3], after[..., 3])
    seen = before[..., 3] > 0
    assert np.array_equal(before[seen], after[seen])


def test_alpha_in_bmp_is_kept(tmp_path):
    array = noise(7, 5, 4, np.uint8)
    SAME(array).save(tmp_path / "a.bmp")
    with Image.open(tmp_path / "a.bmp") as image:
        assert image.mode == "RGBA"
        assert np.array_equal(np.asarray(image), array)
    SAME(tmp_path / "a.bmp").save(tmp_path / "b.bmp")
    assert (tmp_path / "a.bmp").read_bytes() == (tmp_path / "b.bmp").read_bytes()
    grey = noise(7, 5, 2, np.uint8)
    SAME(grey).save(tmp_path / "grey.bmp")
    assert np.array_equal(pixels(tmp_path / "grey.bmp"), grey[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_without_its_profile_a_picture_looks_the_same(channels, dtype, tmp_path):
    array = noise(30, 40, channels, dtype)
    icc = GREY_GAMMA if channels == 1 else PROFILES["display p3"]
    write(tmp_path / "a.png", array, About(icc=icc))
    picture = SAME(tmp_path / "a.png")
    picture.save(tmp_path / "b.png", keep_metadata=False)
    picture.save(tmp_path / "c.bmp")
    expected = profile_of(icc).to_srgb(picture.rgb)[0].movedim(0, -1)[..., :channels].numpy()
    full = np.iinfo(dtype).max
    assert described(tmp_path / "b.png")["icc"] is None
    assert np.abs(pixels(tmp_path / "b.png") / full - expected).max() <= 0.51 / full
    assert np.abs(pixels(tmp_path / "c.bmp") / 255 - expected).max() <= 0.51 / 255
