import numpy as np
import pytest
import torch
from PIL import Image

from onestep.core.errors import InputError
from onestep.core.picture import Picture, as_picture


def _array(channels, dtype=np.uint8, size=(5, 7), seed=0):
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (*size, channels), endpoint=True)
    array = values.astype(dtype)
    if channels in (2, 4):
        array[..., -1] |= 1  # no pixel is wholly transparent, so that no colour is replaced
    return array


@pytest.mark.parametrize(("full", "method"), [(255, "to_uint8"), (65535, "to_uint16")])
def test_halves_are_rounded_to_even(full, method):
    below = np.arange(full, dtype=np.float32)
    values = ((below.astype(np.float64) + 0.5) / full).astype(np.float32)
    exact = values * np.float32(full) == below + 0.5
    assert exact.sum() > full / 4
    assert {n % 2 for n in below[exact]} == {0, 1}
    row = torch.from_numpy(values[exact]).expand(1, 3, 1, -1)
    out = getattr(Picture(row), method)()[0, :, 0]
    assert np.array_equal(out, below[exact] + below[exact] % 2)


def test_values_out_of_range_are_clamped_when_they_become_integers():
    picture = Picture(torch.tensor([-0.2, 0.0, 1.0, 1.3]).expand(1, 3, 1, 4))
    assert picture.to_uint8()[0, :, 0].tolist() == [0, 0, 255, 255]
    assert picture.to_uint16()[0, :, 0].tolist() == [0, 0, 65535, 65535]


def test_all_that_stands_for_a_picture_is_taken(tmp_path):
    array = _array(3)
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array / 255).float().movedim(-1, 0)
    same = [
        path,
        str(path),
        Image.open(path),
        Image.fromarray(array),
        array,
        array.astype(np.uint16) * 257,
        (array / 255).astype(np.float32),
        array / 255,
        array[:, ::-1][:, ::-1],
        np.asfortranarray(array),
        (array.astype(np.uint16) * 257).astype(">u2"),
        tensor,
        tensor[None],
        tensor.double(),
        tensor.clone().requires_grad_(),
    ]
    for image in same:
        picture = as_picture(image)
        assert np.array_equal(picture.to_uint8(), array), type(image)
        assert not picture.rgb.requires_grad
        assert as_picture(picture) is picture


def test_grey_arrays_and_tensors_may_lack_an_axis():
    grey = _array(1)
    for image in (grey, grey[..., 0], torch.from_numpy(grey[..., 0] / 255)[None]):
        picture = as_picture(image)
        assert picture.grey
        assert np.array_equal(picture.to_uint8(), grey)
    truth = grey > 99
    assert np.array_equal(as_picture(truth).to_uint8(), truth * 255)


def test_the_input_is_not_changed():
    array = _array(4)
    array[1:3, 1:4, 3] = 0
    kept = array.copy()
    as_picture(array)
    assert np.array_equal(array, kept)
    tensor = torch.from_numpy(array / 255).float().movedim(-1, 0)
    before = tensor.clone()
    as_picture(tensor).rgb.clone().add_(1)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize(
    "image",
    [
        7,
        None,
        [[0.5]],
        b"\x89PNG",
        np.zeros((2, 3, 4, 5)),
        np.zeros((4, 4, 5)),
        np.zeros((0, 4, 3)),
        np.zeros(4),
        np.full((2, 2, 3), 255.0),
        np.full((2, 2, 3), -3.0),
        np.full((2, 2, 3), np.nan),
        np.full((2, 2, 3), np.inf),
        np.zeros((2, 2, 3), dtype=np.int16),
        np.zeros((2, 2, 3), dtype=complex),
        torch.zeros(2, 3, 4, 4),
        torch.zeros(4, 4),
        torch.zeros(5, 4, 4),
        torch.zeros(3, 0, 4),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.full((3, 4, 4), 200.0),
        torch.full((3, 4, 4), float("nan")),
    ],
    ids=lambda image: f"{type(image).__name__}{tuple(getattr(image, 'shape', ()))}",
)
def test_what_is_no_picture_is_refused_in_one_line(image):
    with pytest.raises(InputError) as refusal:
        as_picture(image)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 160


def test_a_pillow_image_keeps_its_metadata_and_stands_upright():
    array = _array(3)
    image = Image.fromarray(array)
    exif = image.getexif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    image.info["exif"], image.info["icc_profile"] = exif.tobytes(), b"profile"
    picture = as_picture(image)
    assert np.array_equal(picture.to_uint8(), np.rot90(array, -1))
    assert picture.icc == b"profile"
    kept = Image.Exif()
    kept.load(picture.exif)
    assert dict(kept) == {0x010F: "Maker", 0x0112: 1}
    again = as_picture(picture.to_pil())
    assert np.array_equal(again.to_uint8(), picture.to_uint8())
    assert (again.icc, again.exif) == (picture.icc, picture.exif)
    assert image.size == (7, 5), "the given image is left as it is"


@pytest.mark.parametrize(
    ("mode", "white"),
    [
        ("1", 255),
        ("P", "white"),
        ("PA", "white"),
        ("CMYK", (0, 0, 0, 0)),
        ("YCbCr", (255, 128, 128)),
        ("HSV", (99, 0, 255)),
        ("LAB", (255, 128, 128)),
        ("I", 65535),
        ("I;16", 65535),
        ("F", 1.0),
        ("RGBX", (255,) * 4),
        ("La", (255, 255)),
        ("RGBa", (255,) * 4),
    ],
)
def test_pillow_images_of_every_mode(mode, white):
    palette = mode in ("P", "PA")
    image = Image.new("RGB" if palette else mode, (3, 2), white)
    image = image.convert("P").convert(mode) if palette else image
    picture = as_picture(image)
    assert picture.rgb.shape == (1, 3, 2, 3)
    assert float(picture.rgb.min()) > 0.995
    assert picture.alpha is None or float(picture.alpha.min()) == 1
    assert picture.bits == (16 if mode.startswith("I") else 8)


def test_hidden_colors_do_not_bleed():
    array = np.zeros((8, 8, 4), dtype=np.uint8)
    array[...] = (0, 255, 0, 0)  # green that nobody sees
    array[2:6, 2:6] = (200, 30, 10, 255)
    array[3, 3] = (10, 20, 30, 128)
    picture = as_picture(array)
    assert np.array_equal(picture.to_uint8()[2:6, 2:6], array[2:6, 2:6])
    assert np.array_equal(picture.to_uint8()[..., 3], array[..., 3])
    assert float(picture.rgb[0, 1].max()) == pytest.approx(30 / 255)
    assert picture.rgb[0, :, 0, 0].tolist() == pytest.approx([200 / 255, 30 / 255, 10 / 255])
    up = torch.nn.functional.interpolate(picture.rgb, scale_factor=2, mode="bicubic")
    assert float(up[0, 1].max()) < 0.2


def test_grey_hidden_colors_do_not_bleed_either():
    array = np.zeros((4, 6, 2), dtype=np.uint16)
    array[..., 0] = 65535
    array[:, 3:] = (1000, 65535)
    picture = as_picture(array)
    assert float(picture.rgb.max()) == pytest.approx(1000 / 65535)
