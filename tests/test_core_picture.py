import logging

import numpy as np
import pytest
import torch
from PIL import Image

from onestep.core.errors import InputError, UsageError
from onestep.core.picture import Picture, as_picture, read

RNG = np.random.default_rng(0)


def _array(*shape, dtype=np.uint8):
    return RNG.integers(1, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def test_an_array_becomes_tensors_and_comes_back():
    array = _array(5, 7, 4)
    picture = as_picture(array)
    assert picture.tensor is picture.rgb
    assert picture.rgb.shape == (1, 3, 5, 7)
    assert picture.alpha.shape == (1, 1, 5, 7)
    assert picture.rgb.dtype == picture.alpha.dtype == torch.float32
    assert (picture.width, picture.height, picture.bits, picture.grey) == (7, 5, 8, False)
    assert torch.equal(picture.rgb[0, 1], torch.from_numpy(array[..., 1]) / 255)
    assert np.array_equal(picture.to_uint8(), array)
    assert np.allclose(picture.array, array / np.float32(255), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_integer_survives(dtype, channels):
    full = np.iinfo(dtype).max
    levels = np.arange(full + 1, dtype=dtype)[::-1].reshape(-1, 64, 1)
    picture = as_picture(np.concatenate([np.roll(levels, k, axis=0) for k in range(channels)], axis=-1))
    out = picture.to_uint8() if dtype == np.uint8 else picture.to_uint16()
    visible = out[..., -1] > 0 if channels in (2, 4) else slice(None)
    assert out.dtype == dtype
    assert picture.grey == (channels <= 2)
    for k in range(channels):
        assert np.array_equal(out[visible][..., k], np.roll(levels, k, axis=0)[..., 0][visible])


def test_rounding_is_half_to_even_and_clamps():
    values = torch.tensor([0.5 / 255, 1.5 / 255, 2.5 / 255, 0.7 / 255, -0.2, 1.2, 254.5 / 255])
    picture = Picture(values.view(1, 1, 1, -1).expand(1, 3, 1, -1).double().float())
    exact = (values.clip(0, 1) * 255).tolist()
    assert exact[:4] == pytest.approx([0.5, 1.5, 2.5, 0.7])
    assert picture.to_uint8()[0, :, 0].tolist() == [0, 2, 2, 1, 0, 255, 254]


def test_strips_do_not_show():
    array = _array(600, 3, 3, dtype=np.uint16)
    assert np.array_equal(as_picture(array).to_uint16(), array)


def test_grey_takes_the_luma_of_what_became_coloured():
    rgb = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    assert Picture(rgb, grey=True).array.tolist() == [[[pytest.approx(0.299 + 0.587 / 2)]]]


def test_pillow_images_come_and_go():
    array = _array(6, 4, 3)
    image = Image.fromarray(array)
    assert np.array_equal(as_picture(image).to_uint8(), array)
    for channels, mode in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")):
        array = _array(6, 4, channels)
        out = as_picture(array).to_pil()
        assert out.mode == mode
        assert np.array_equal(np.asarray(out).reshape(array.shape), array)


def test_paths_and_pictures_are_taken_as_they_are(tmp_path):
    array = _array(3, 4, 3)
    picture = as_picture(array)
    assert as_picture(picture) is picture
    picture.save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(as_picture(path).to_uint8(), array)


@pytest.mark.parametrize("shape", [(3, 5, 6), (1, 3, 5, 6), (1, 5, 6), (4, 5, 6), (1, 2, 5, 6)])
def test_tensors_are_values_between_0_and_1(shape):
    tensor = torch.rand(shape, dtype=torch.float64).clamp_min(0.01).requires_grad_()
    picture = as_picture(tensor)
    channels = shape[-3]
    expected = tensor.detach().float().reshape(channels, 5, 6)
    assert picture.bits == 8
    assert torch.equal(picture.rgb[0], expected[: 3 if channels >= 3 else 1].expand(3, 5, 6))
    assert (picture.alpha is not None) == (channels in (2, 4))


def test_floating_point_arrays_may_overshoot_a_little():
    picture = as_picture(np.array([[-0.05, 0.25, 1.1]]))
    assert picture.grey
    assert picture.bits == 8
    assert picture.array[..., 0].tolist() == [[0, 0.25, 1]]


def test_bool_arrays_are_black_and_white():
    assert as_picture(np.array([[True, False]])).to_uint8()[..., 0].tolist() == [[255, 0]]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4),
        np.full((4, 4), np.nan),
        np.full((4, 4, 3), 200.0),
        torch.zeros(2, 3, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(7, 4, 4),
        torch.full((3, 4, 4), -3.0),
        17,
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(image):
    with pytest.raises(InputError) as caught:
        as_picture(image)
    assert "\n" not in str(caught.value)
    assert any(word in str(caught.value) for word in ("give", "use", "scale", "replace"))


def test_hidden_colours_are_replaced_by_the_nearest_visible_one(tmp_path):
    array = np.zeros((9, 9, 4), np.uint8)
    array[:, :4] = (200, 40, 10, 255)
    array[:, 4:] = (0, 255, 0, 0)
    array[4, 4] = (9, 8, 7, 1)
    Image.fromarray(array).save(tmp_path / "a.png")
    for picture in (as_picture(array), read(tmp_path / "a.png")):
        out = picture.to_uint8()
        assert np.array_equal(out[..., 3], array[..., 3])
        visible = array[..., 3] > 0
        assert np.array_equal(out[visible], array[visible]), "what can be seen is kept"
        assert out[0, 8, :3].tolist() == [200, 40, 10]
        assert out[4, 8, :3].tolist() == [9, 8, 7]


def test_an_invisible_picture_keeps_its_colours():
    array = _array(4, 4, 4)
    array[..., 3] = 0
    assert np.array_equal(as_picture(array).to_uint8(), array)


def test_a_notebook_shows_a_png():
    data = as_picture(_array(4, 5, 3, dtype=np.uint16))._repr_png_()
    assert data.startswith(b"\x89PNG")


def test_depth_follows_the_source_unless_asked(tmp_path):
    deep, plain = as_picture(_array(4, 5, 3, dtype=np.uint16)), as_picture(_array(4, 5, 3))
    for picture, bits, expected in ((deep, None, 16), (plain, None, 8), (deep, 8, 8), (plain, 16, 16)):
        picture.save(tmp_path / "a.png", bits=bits)
        assert read(tmp_path / "a.png").bits == expected
    deep.save(tmp_path / "a.bmp")
    assert read(tmp_path / "a.bmp").bits == 8


def test_a_lossless_webp_stays_lossless(tmp_path):
    array = _array(16, 16, 3)
    lossless, lossy = tmp_path / "a.webp", tmp_path / "b.webp"
    as_picture(array).save(lossless, lossless=True)
    assert np.array_equal(read(lossless).to_uint8(), array)
    read(lossless).save(tmp_path / "again.webp")
    assert np.array_equal(read(tmp_path / "again.webp").to_uint8(), array)
    as_picture(array).save(lossy)
    assert not read(lossy).lossless
    assert not np.array_equal(read(lossy).to_uint8(), array)


def test_unknown_extensions_and_qualities_are_refused(tmp_path):
    picture = as_picture(_array(4, 4, 3))
    with pytest.raises(UsageError, match=r"a\.xyz: cannot write '\.xyz': use one of \.png \.jpg"):
        picture.save(tmp_path / "a.xyz")
    with pytest.raises(UsageError, match=r"quality 101"):
        picture.save(tmp_path / "a.jpg", quality=101)
    assert list(tmp_path.iterdir()) == []


def test_quality_matters(tmp_path):
    picture = as_picture(np.kron(_array(8, 8, 3), np.ones((4, 4, 1), np.uint8)))
    errors = []
    for quality in (30, 75, 95):
        picture.save(tmp_path / "a.jpg", quality=quality)
        errors.append(np.abs(read(tmp_path / "a.jpg").array - picture.array).mean())
    assert errors[0] > errors[1] > errors[2]


def test_nothing_is_logged_without_a_reason(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        for name in ("a.png", "a.tif", "a.webp", "a.jpg", "a.bmp"):
            as_picture(_array(8, 8, 3)).save(tmp_path / name)
            read(tmp_path / name)
    assert caplog.records == []
