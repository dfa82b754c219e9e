"""Runs of ``onestep upscale``: which files are done, skipped or failed, what is planned, and what is said."""

import json
import shutil

import pytest
from PIL import Image

from command_line import records, upscale
from onestep.cli import run
from pictures import put

pytestmark = pytest.mark.usefixtures("workplace")

KEYS = {
    "input",
    "output",
    "status",
    "width",
    "height",
    "model",
    "realism",
    "seed",
    "seconds",
    "tiles",
    "error",
}


@pytest.fixture
def album(tmp_path):
    for index in range(3):
        put(tmp_path / "album" / f"p{index}.png", seed=index)
    return tmp_path / "album"


def test_one_json_line_per_input_with_the_keys_of_the_contract(album, capsys):
    assert upscale(album, "-o", "out", "--json", "--seed", 3) == 0
    found = records(capsys)
    assert all(row.keys() == KEYS for row in found)
    first = dict(found[0])
    assert first.pop("seconds") > 0
    assert first == {
        "input": str(album / "p0.png"),
        "output": "out/p0_x4.png",
        "status": "ok",
        "width": 48,
        "height": 36,
        "model": "tiny",
        "realism": 0.5,
        "seed": 3,
        "tiles": 1,
        "error": None,
    }
    assert [row["output"] for row in found] == [f"out/p{index}_x4.png" for index in range(3)]


def test_skipped_and_failed_lines_have_the_same_keys(album, capsys):
    (album / "p1.png").write_bytes(b"")
    assert upscale(album, "-o", "out") == 1
    capsys.readouterr()
    assert upscale(album, "-o", "out", "--json") == 1
    found = records(capsys)
    assert all(row.keys() == KEYS for row in found)
    assert [row["status"] for row in found] == ["skipped", "failed", "skipped"]
    assert "empty" in found[1]["error"]


def test_files_folders_and_globs_together_each_once(album, tmp_path, capsys):
    photo = put(tmp_path / "photo.png")
    put(album / "deep" / "q.png")
    words = [photo, album, str(album / "p*.png"), str(album / "**" / "q.png")]
    assert upscale(*words, "-o", "out", "--json") == 0
    names = [row["output"] for row in records(capsys)]
    assert names == ["out/photo_x4.png", *(f"out/p{index}_x4.png" for index in range(3)), "out/q_x4.png"]


def test_resume_does_what_is_missing_changed_or_asked_differently(album, tmp_path, capsys):
    def statuses(*words):
        capsys.readouterr()
        assert upscale(album, "-o", "out", "--json", *words) == 0
        return [row["status"] for row in records(capsys)]

    assert statuses() == ["ok"] * 3
    assert statuses() == ["skipped"] * 3
    assert statuses("--resume") == ["skipped"] * 3
    (tmp_path / "out" / "p1_x4.png").unlink()
    assert statuses() == ["skipped", "ok", "skipped"]
    (tmp_path / "out" / "p0_x4.png").write_bytes(b"somebody else's")
    assert statuses() == ["ok", "skipped", "skipped"]
    put(album / "p2.png", (13, 9))
    assert statuses() == ["skipped", "skipped", "ok"]
    assert statuses("--seed", 1) == ["ok"] * 3
    assert statuses("--seed", 1) == ["skipped"] * 3


def test_a_changed_model_file_is_noticed(album, home, tmp_path, capsys):
    model = shutil.copy(home / "tiny.safetensors", tmp_path / "mine.safetensors")
    assert upscale(album, "-o", "out", model=str(model)) == 0
    shutil.copy(home / "tiny-teacher.safetensors", model)
    capsys.readouterr()
    assert upscale(album, "-o", "out", "--json", model=str(model)) == 0
    assert [row["status"] for row in records(capsys)] == ["ok"] * 3


def test_overwrite_and_skip_existing(album, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p0_x4.png").write_bytes(b"mine")
    assert upscale(album, "-o", "out", "--skip-existing", "--json") == 0
    assert [row["status"] for row in records(capsys)] == ["skipped", "ok", "ok"]
    assert (tmp_path / "out" / "p0_x4.png").read_bytes() == b"mine"
    assert upscale(album, "-o", "out", "--overwrite", "--json") == 0
    assert [row["status"] for row in records(capsys)] == ["ok"] * 3


def test_results_in_the_folder_of_the_inputs_are_not_taken_for_inputs(album, capsys):
    assert upscale(album, "-o", album) == 0
    assert upscale(album, "-o", album, "-s", 2, "--json") == 0
    assert len(records(capsys)) == 3
    assert len(list(album.glob("[!.]*"))) == 9


def test_a_single_file_is_done_whenever_it_is_asked_for(capsys):
    put("photo.png")
    for _ in range(2):
        assert upscale("photo.png", "-o", "out.png", "--json") == 0
    assert [row["status"] for row in records(capsys)] == ["ok", "ok"]


def test_max_pixels(album, capsys):
    put(album / "p1.png", (30, 30))
    assert upscale(album, "-o", "out", "--max-pixels", 500, "--json") == 1
    found = records(capsys)
    assert [row["status"] for row in found] == ["ok", "failed", "ok"]
    assert "30 x 30 pixels" in found[1]["error"]


def test_a_dry_run_says_sizes_and_memory_and_writes_nothing(album, tmp_path, capsys):
    (album / "p1.png").write_bytes(b"")
    assert upscale(album, "-o", "out", "-s", 6, "--dry-run", "--json") == 1
    captured = capsys.readouterr()
    found = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["status"] for row in found] == ["planned", "failed", "planned"]
    assert (found[0]["width"], found[0]["height"], found[0]["tiles"]) == (72, 54, 2)
    assert found[0]["memory"] > 12 * 72 * 54
    assert found[0].keys() - KEYS == {"memory"}
    assert "72x54" in captured.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_foresees_what_is_skipped_and_turned(album, tmp_path, capsys):
    assert upscale(album, "-o", "out") == 0
    exif = Image.Exif()
    exif[0x0112] = 6
    put(album / "p3.jpg", (12, 8), exif=exif)
    capsys.readouterr()
    assert upscale(album, "-o", "out", "--dry-run", "--json") == 0
    found = records(capsys)
    assert [row["status"] for row in found] == ["skipped"] * 3 + ["planned"]
    assert (found[-1]["width"], found[-1]["height"]) == (32, 48)


def test_quiet_says_nothing_but_errors(album, capsys):
    (album / "p1.png").write_bytes(b"")
    assert upscale(album, "-o", "out", "-q") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("onestep: ")
    assert captured.err.count("\n") == 1


def test_verbose_says_why_a_file_is_skipped(album, capsys):
    assert upscale(album, "-o", "out") == 0
    capsys.readouterr()
    assert upscale(album, "-o", "out", "-v") == 0
    assert capsys.readouterr().err.count("skipped") == 3


def test_without_a_name_the_default_model_is_used(capsys):
    put("photo.png")
    assert run(["upscale", "photo.png", "-o", "out.png", "-g", "cpu", "--json"]) == 0
    from onestep import catalog

    assert records(capsys)[0]["model"] == catalog.default()
