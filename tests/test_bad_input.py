"""What users do wrong: one clear line, the right exit code, and no result that was not asked for."""

import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from command_line import one_line, upscale
from onestep.cli import run
from pictures import put

pytestmark = pytest.mark.usefixtures("workplace")
HUGE = 60_000


def png(width, height, data=b""):
    """A PNG whose header announces a size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bad_pictures():
    whole = Path(put("whole.png", (40, 40))).read_bytes()
    return {
        "missing": (None, "no such file"),
        "empty": (b"", "empty"),
        "truncated": (whole[: len(whole) // 2], "cut short"),
        "header-only": (whole[:20], "damaged"),
        "text": (b"Dear diary, today I wrote no picture at all.", "not an image"),
        "zero": (png(0, 5), "pixels"),
        "bomb": (png(HUGE, HUGE, zlib.compress(b"\0" * 1000)), "over the limit"),
        "liar": (png(50, 50, zlib.compress(b"\0" * 10)), "cut short"),
    }


@pytest.mark.parametrize(
    "what", ["missing", "empty", "truncated", "header-only", "text", "zero", "bomb", "liar"]
)
def test_bad_pictures_are_one_line_with_the_file_and_cost_nothing_else(what, capsys, tmp_path):
    content, says = bad_pictures()[what]
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    assert upscale("bad.png", "-o", "out.png") == 1
    line = one_line(capsys)
    assert "bad.png" in line
    assert says in line
    assert not (tmp_path / "out.png").exists()
    put("good.png")
    assert upscale("bad.png", "good.png", "-o", "out", "--json") == 1
    captured = capsys.readouterr()
    found = [json.loads(row) for row in captured.out.splitlines()]
    assert [row["status"] for row in found] == ["failed", "ok"]
    assert says in found[0]["error"]
    assert [file.name for file in Path("out").glob("[!.]*")] == ["good_x4.png"]


@pytest.mark.parametrize("what", ["empty", "truncated", "text", "zero", "bomb"])
def test_other_commands_refuse_bad_pictures_too(what, capsys, tmp_path):
    content, _ = bad_pictures()[what]
    Path("in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(content)
    assert run(["degrade", "in/bad.png", "-o", "out.png", "--preset", "bicubic"]) == 1
    assert "in/bad.png" in one_line(capsys)
    put("in/good.png")
    put("hr/bad.png")
    put("hr/good.png")
    words = ["evaluate", "--sr", "in", "--hr", "hr", "--metrics", "psnr-y", "-q"]
    assert run(words) == 1
    assert "in/bad.png" in one_line(capsys)


@pytest.mark.parametrize("word", ["nowhere", "nowhere/*.png", "."])
def test_words_that_name_no_picture(word, capsys):
    assert upscale(word, "-o", "out/") == 1
    one_line(capsys)


def test_a_folder_of_nothing_but_other_files(capsys, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no")
    assert upscale("in", "-o", "out") == 1
    assert "no pictures" in one_line(capsys)


WRONG_WORDS = {
    "scale too large": (["-s", "17"], "--scale 17"),
    "scale too small": (["-s", "0.9"], "--scale 0.9"),
    "scale is no number": (["-s", "big"], "--scale"),
    "scale is nan": (["-s", "nan"], "--scale"),
    "scale and width": (["-s", "2", "--width", "30"], "not both"),
    "width too large": (["--width", "999"], "1 to 16 times"),
    "width too small": (["--width", "3"], "1 to 16 times"),
    "width of nothing": (["--width", "0"], "--width"),
    "realism too large": (["-r", "1.5"], "realism 1.5"),
    "realism is nan": (["-r", "nan"], "realism"),
    "unknown option of the model": (["-O", "prompt=cat"], "no option 'prompt'"),
    "option without value": (["-O", "realism"], "NAME=VALUE"),
    "option of another type": (["-O", "realism=high"], "realism=high"),
    "tile is a word": (["-t", "huge"], "--tile huge"),
    "tile is negative": (["-t", "-5"], "--tile"),
    "tile of nothing": (["-t", "0"], "--tile 0"),
    "overlap is negative": (["--overlap", "-1"], "--overlap"),
    "no such device": (["-g", "quantum"], "quantum"),
    "no such precision": (["--dtype", "int4"], "int4"),
    "slow precision": (["--dtype", "float16"], "float16"),
    "negative seed": (["--seed", "-1"], "seed"),
    "no such colour fix": (["--color", "sepia"], "--color"),
    "no such format": (["--ext", "psd"], "--ext psd"),
    "quality out of range": (["--quality", "101"], "quality"),
    "no room for pixels": (["--max-pixels", "0"], "--max-pixels"),
    "two policies": (["--resume", "--overwrite"], "choose one"),
    "no such option": (["--magic"], "--magic"),
    "suffix for a file": (["--suffix", "_big"], "--suffix"),
    "extension against the name": (["--ext", "jpg"], "--ext"),
}


@pytest.mark.parametrize("what", WRONG_WORDS)
def test_wrong_words_are_one_line_exit_2_and_nothing_starts(what, capsys, tmp_path):
    words, says = WRONG_WORDS[what]
    put("photo.png")
    assert run(["upscale", "photo.png", "-o", "out.png", "-n", "tiny", "-g", "cpu", *words]) == 2
    assert says in one_line(capsys)
    assert not (tmp_path / "out.png").exists()


def test_missing_words(capsys):
    assert run(["upscale"]) == 2
    assert "onestep upscale --help" in one_line(capsys)
    assert run(["upscale", "a.png"]) == 2
    assert "--output" in one_line(capsys)
    assert run(["upscal", "a.png"]) == 2
    assert "upscale" in one_line(capsys)


def test_a_knob_that_the_model_lacks(capsys):
    put("photo.png")
    assert upscale("photo.png", "-o", "out.png", "-r", "0.5", model="bicubic") == 2
    assert "bicubic has no option 'realism'" in one_line(capsys)


@pytest.mark.parametrize("what", ["absent", "name", "empty", "other", "cut", "official", "picture"])
def test_wrong_model_files(what, home, capsys, tmp_path):
    put("photo.png")
    file = tmp_path / "model.safetensors"
    whole = (home / "tiny.safetensors").read_bytes()
    if what == "empty":
        file.write_bytes(b"")
    elif what == "other":
        save_file({"x": torch.zeros(2)}, file)
    elif what == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif what == "official":
        file = tmp_path / "model.pth"
        file.write_bytes(b"anything")
    elif what == "picture":
        file = tmp_path / "photo.png"
    elif what == "name":
        file = "tinyy"
    assert upscale("photo.png", "-o", "out.png", model=file) == 2
    assert str(file) in one_line(capsys)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("inputs", "out", "says"),
    [
        (["a.png", "b.png"], "out.png", "several inputs need a folder"),
        (["folder"], "out.png", "several inputs need a folder"),
        (["a.png"], "out.xyz", ".xyz"),
        (["a.png"], "", "-o is empty"),
        (["a.png"], "a.png", "would replace an input"),
        (["a.png", "a.jpg"], "out/", "would both become"),
        (["a.png"], "plain", "without an extension"),
        (["a.png"], "plain/out.png", "cannot be written"),
        (["a.png", "b.png"], "plain/out", "cannot be written"),
    ],
)
def test_impossible_outputs(inputs, out, says, capsys, tmp_path):
    for name in ("a.png", "a.jpg", "b.png", "folder/c.png"):
        put(name)
    (tmp_path / "plain").write_text("a file")
    before = (tmp_path / "a.png").read_bytes()
    words = ["--ext", "png"] if "a.jpg" in inputs else []
    assert upscale(*inputs, "-o", out, *words) == 2
    assert says in one_line(capsys)
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["upscale", "a.png", "-o", "b.png", "-s", "99"], 2, "--scale 99 is impossible"),
        (["upscale", "text.png", "-o", "b.png", "-n", "bicubic"], 1, "not an image"),
        (["degrade", "text.png", "-o", "b.png", "--preset", "bicubic"], 1, "not an image"),
        (["convert", "a.pth", "--method", "oftsr", "-o", "b.safetensors"], 1, "a.pth"),
    ],
)
def test_debug_shows_the_traceback_and_keeps_the_exit_code(words, code, says, capsys, tmp_path):
    (tmp_path / "text.png").write_text("Dear diary, nothing to see today.")
    assert run(words) == code
    assert says in one_line(capsys)
    assert run([*words, "--debug"]) == code
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("onestep: ")
