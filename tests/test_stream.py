"""Pictures strip by strip: what comes out is what the whole gives, however often the work is stopped."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onestep import Picture, Upscaler, UsageError, stream
from onestep.core.errors import InputError
from onestep.core.picture import read
from onestep.methods.resample import ResampleConfig
from onestep.plan import Settings
from onestep.stream import StoppedError, forget, growing, png, sinks, upscale_file


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch, tmp_path):
    """Strips of a few rows, so that small pictures have many."""
    monkeypatch.setattr(sinks, "_STRIP_BYTES", 5000)
    monkeypatch.setattr(png, "_BYTES", 700)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def bicubic():
    return Upscaler(ResampleConfig().build(), device="cpu", name="bicubic")


@pytest.fixture
def tiny(home):
    return Upscaler.load("tiny", device="cpu", dtype="float32")


def smooth(height, width, channels=3, seed=0):
    """A picture whose colours change slowly, and are not all in the 8-bit grid."""
    coarse = torch.rand(1, channels, height // 6 + 2, width // 6 + 2, generator=torch.manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return fine.clamp(0, 1)


def photo(name="photo.png", size=(45, 31), bits=8, grey=False, alpha=False, **known):
    rgb = smooth(*size, 1).expand(-1, 3, -1, -1) if grey else smooth(*size)
    cover = smooth(*size, 1, seed=1).sub(0.3).clamp(0, 1) if alpha else None
    Picture(rgb, cover, bits=bits, grey=grey, **known).save(name)
    return Path(name)


def levels(path):
    picture = read(path)
    return (picture.to_uint16() if picture.bits == 16 else picture.to_uint8()).astype(int)


def both(up, source, target="out.png", options=None, **settings):
    """The levels of a picture done strip by strip, and as a whole."""
    settings = Settings(**{"tile": 16, **settings})
    upscale_file(up, source, target, settings, options or {})
    forget(Path(target))
    (whole,), _ = up.run(read(source), settings, [options or {}])
    whole.save(Path("whole").with_suffix(Path(target).suffix))
    return levels(target), levels(Path("whole").with_suffix(Path(target).suffix))


@pytest.mark.parametrize("size", [(45, 31), (16, 16), (5, 70), (64, 3), (1, 1), (17, 33)])
def test_a_model_gives_the_same_bits_in_strips(tiny, size):
    strips, whole = both(tiny, photo(size=size, bits=16))
    assert np.array_equal(strips, whole)


@pytest.mark.parametrize("tile", [12, 16, 23, "off", "auto"])
@pytest.mark.parametrize("overlap", [0, 5, 8])
def test_tiles_and_overlaps(tiny, tile, overlap):
    strips, whole = both(tiny, photo(bits=16), tile=tile, overlap=overlap if tile != 12 else min(overlap, 6))
    assert np.array_equal(strips, whole)


@pytest.mark.parametrize("target", ["out.png", "out.tif", "out.jpg"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["grey", "rgb", "alpha", "grey and alpha"])
def test_every_kind_of_picture_in_every_format(bicubic, target, bits, kind):
    source = photo(bits=bits, grey="grey" in kind, alpha="alpha" in kind)
    strips, whole = both(bicubic, source, target)
    assert np.array_equal(strips, whole)


@pytest.mark.parametrize(
    "settings", [{"scale": 2.5}, {"scale": 5.3}, {"width": 100}, {"width": 40, "height": 90}, {"scale": 1}]
)
def test_other_factors_agree_within_a_level(bicubic, settings):
    strips, whole = both(bicubic, photo(size=(20, 15)), **settings)
    assert np.abs(strips - whole).max() <= 1
    assert np.mean(strips != whole) < 0.01


def test_rows_of_tiles_that_are_too_large_are_cut_and_said(tiny, monkeypatch, caplog):
    source = photo(size=(100, 150), bits=16)
    settings = Settings(overlap=40)
    whole = tiny(source, overlap=40)
    monkeypatch.setattr(stream, "_LARGEST_BAND", 50 * 4 * 600 * 12)
    plan = upscale_file(tiny, source, "out.png", settings)
    assert plan.tile <= 50
    assert plan.overlap == plan.tile // 2
    assert "an overlap of 40 needs tiles of 80" in caplog.text
    assert np.abs(levels("out.png") - whole.to_uint16()).max() <= 100, "of 65535"


def test_two_passes_and_the_colour_fix(tiny):
    strips, whole = both(tiny, photo(size=(14, 9), bits=16), scale=16)
    assert np.array_equal(strips, whole)
    strips, whole = both(tiny, photo(bits=16), color="wavelet")
    assert np.abs(strips - whole).max() <= 1


def test_a_map_of_realism(tiny):
    chosen = {"realism": smooth(20, 10, 1)}
    strips, whole = both(tiny, photo(bits=16), options=chosen)
    assert np.abs(strips - whole).max() <= 1
    plain, _ = both(tiny, photo(bits=16))
    assert not np.array_equal(strips, plain)


@pytest.mark.parametrize("target", ["out.png", "out.tif", "big.tif", "out.jpg"])
@pytest.mark.parametrize("keep", [True, False])
def test_metadata_are_those_of_the_whole(bicubic, target, keep, monkeypatch):
    if target == "big.tif":
        monkeypatch.setattr("onestep.core.tiff._CLASSIC_LIMIT", 100)
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif.get_ifd(0x8769)[0xA002] = 31
    source = photo(exif=exif.tobytes(), xmp=b"<x:xmpmeta/>", dpi=(300.0, 300.0))
    upscale_file(bicubic, source, target, Settings(), keep_metadata=keep)
    bicubic(source).save("whole" + target, keep_metadata=keep)
    assert Path(target).read_bytes()[:3] in (
        b"\x89PN",
        b"\xff\xd8\xff",
        b"II+" if "big" in target else b"II*",
    )
    strips, whole = read(target), read("whole" + target)
    assert (strips.exif, strips.xmp, strips.icc, strips.dpi) == (whole.exif, whole.xmp, whole.icc, whole.dpi)
    assert (strips.exif is not None) == keep


class Killed(BaseException):
    """The process is gone."""


def killed_at(monkeypatch, moment, late):
    """Let the process die at the n-th change of a file, before it is made, or after."""
    count = 0

    def dying(real):
        def change(*words, **named):
            nonlocal count
            count += 1
            if count == moment and not late:
                raise Killed
            done = real(*words, **named)
            if count == moment:
                raise Killed
            return done

        return change

    for owner, name in ((growing.Growing, "_certain"), (growing.Growing, "_say"), (growing.os, "replace")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


@pytest.mark.parametrize("target", ["out.png", "out.tif", "out.jpg"])
def test_killed_at_any_moment_the_same_call_goes_on_to_the_same_bytes(bicubic, target, monkeypatch):
    source, settings, moment = photo(size=(16, 31)), Settings(tile=16), 0
    upscale_file(bicubic, source, f"whole{target}", settings)
    expected = Path(f"whole{target}").read_bytes()
    while True:
        moment += 1
        for late in (False, True):
            with monkeypatch.context() as patched:
                killed_at(patched, moment, late)
                try:
                    upscale_file(bicubic, source, target, settings)
                except Killed:
                    assert not Path(target).exists() or Path(target).read_bytes() == expected
                else:
                    assert moment > 8, "there are several strips, and each makes two changes"
                    return
            upscale_file(bicubic, source, target, settings)
            assert Path(target).read_bytes() == expected
            assert not Path(f".{target}.part").exists()
            forget(Path(target))
            Path(target).unlink()
            assert [path for path in Path().iterdir() if path.name.startswith(".")] == [
                Path(f".whole{target}.part.jsonl")
            ]


def test_what_was_done_is_not_done_again(tiny, monkeypatch):
    source, settings, bands = photo(), Settings(tile=16), []
    restore = type(tiny.engine).restore

    def counting(self, *words, **named):
        bands.append(named["band"].top)
        return restore(self, *words, **named)

    monkeypatch.setattr(type(tiny.engine), "restore", counting)
    answers = iter([False] * 5 + [True])
    with pytest.raises(StoppedError):
        upscale_file(tiny, source, "out.png", settings, stop=lambda: next(answers))
    note = Path(".out.png.part.jsonl").read_text().splitlines()
    assert len([line for line in note if "checksum" in line]) == 6
    before, bands[:] = list(bands), []
    shares = []
    upscale_file(tiny, source, "out.png", settings, progress=shares.append)
    assert before[0] == 0
    assert 0 < bands[0] <= before[-1]
    assert shares[-1] == 1
    assert shares[0] == 7 / (6 + len(shares))
    assert len(before) + len(bands) <= len({*before, *bands}) + 2
    bands[:] = []
    upscale_file(tiny, source, "out.png", settings)  # finished, and not forgotten yet
    assert bands == []


def test_torn_ends_are_cut_off(bicubic):
    source = photo(size=(30, 31))
    upscale_file(bicubic, source, "whole.tif")
    answers = iter([False, True])
    with pytest.raises(StoppedError):
        upscale_file(bicubic, source, "out.tif", stop=lambda: next(answers))
    with Path(".out.tif.part").open("ab") as file:
        file.write(b"half a strip")
    with Path(".out.tif.part.jsonl").open("a") as file:
        file.write('\n{"end": 123, "si')
    upscale_file(bicubic, source, "out.tif")
    assert Path("out.tif").read_bytes() == Path("whole.tif").read_bytes()


@pytest.mark.parametrize("change", ["seed", "input", "quality", "part"])
def test_what_was_begun_otherwise_is_not_continued(tiny, change):
    source, named = photo(), {}
    with pytest.raises(StoppedError):
        upscale_file(tiny, source, "out.jpg", stop=lambda: True)
    settings = Settings(seed=1) if change == "seed" else Settings()
    if change == "input":
        photo(grey=True)
    if change == "quality":
        named = {"quality": 50}
    if change == "part":
        Path(".out.jpg.part").write_bytes(b"")
    upscale_file(tiny, source, "out.jpg", settings, **named)
    shutil.copy(source, "again.png")
    upscale_file(tiny, "again.png", "again.jpg", settings, **named)
    assert Path("out.jpg").read_bytes() == Path("again.jpg").read_bytes()


def test_memory_does_not_know_the_height(bicubic, monkeypatch):
    """Resident memory grows by less than a third of what the further rows of the result are as floats."""
    peaks = []
    for rows in (300, 1200):
        monkeypatch.setattr(sinks, "_STRIP_BYTES", 2**17)
        Image.fromarray(np.zeros((rows, 300, 3), np.uint8)).save("tall.png")
        held = []
        settings = Settings(tile=100, overlap=4)
        upscale_file(
            bicubic, "tall.png", "out.png", settings, progress=lambda _, into=held: into.append(rss())
        )
        peaks.append(max(held))
    assert peaks[1] < peaks[0] + 900 * 300 * 16 * 12 / 3


def rss():
    """Resident bytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("target", "settings", "says"),
    [
        ("out.webp", {}, "WEBP is not written strip by strip"),
        ("out.png", {"color": "adain"}, "adain needs the whole picture"),
        ("out.xyz", {}, "cannot write"),
    ],
)
def test_what_cannot_be_done_in_strips(bicubic, target, settings, says):
    with pytest.raises(UsageError, match=says):
        upscale_file(bicubic, photo(), target, Settings(**settings))


def test_bad_files_and_two_processes(bicubic):
    Path("text.png").write_text("Dear diary, this is no picture at all.")
    with pytest.raises(InputError, match=r"text\.png: not an image"):
        upscale_file(bicubic, "text.png", "out.png")
    whole = photo().read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.png: damaged or cut short"):
        upscale_file(bicubic, "cut.png", "out.png")
    with pytest.raises(InputError, match="over the limit"):
        upscale_file(bicubic, "photo.png", "out.png", max_pixels=100)
    with (
        growing.Growing(Path("out.png"), "key"),
        pytest.raises(InputError, match="another process is writing it"),
    ):
        upscale_file(bicubic, "photo.png", "out.png")
