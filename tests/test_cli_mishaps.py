"""What goes wrong while a command runs: one clear line, the right exit code, nothing finished lost."""

import json
import os
import signal
from pathlib import Path

import pytest

from command_line import one_line, upscale
from onestep import Picture, Upscaler
from onestep.cli import entry
from onestep.onepass import Engine
from pictures import put

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(capsys, tmp_path):
    put("photo.png")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert upscale("photo.png", "-o", "locked/out.png") == 2
    assert "locked" in one_line(capsys)


def test_a_full_disk_fails_the_file_and_leaves_no_half(monkeypatch, capsys, tmp_path):
    put("in/a.png")
    put("in/b.png")
    save = Picture.save

    def full(self, path, **saving):
        if Path(path).name.startswith(".a_x4"):  # written under another name first
            raise OSError(28, "No space left on device", str(path))
        save(self, path, **saving)

    monkeypatch.setattr(Picture, "save", full)
    assert upscale("in", "-o", "out", "-q") == 1
    assert "No space left" in one_line(capsys)
    assert [file.name for file in Path("out").glob("[!.]*")] == ["b_x4.png"]


def test_a_picture_too_large_for_the_memory(monkeypatch, capsys):
    put("photo.png")
    monkeypatch.setattr("onestep.upscaler.free_memory", lambda _: 1000)
    assert upscale("photo.png", "-o", "out.png") == 1
    assert "ask for a smaller size" in one_line(capsys)


@pytest.mark.parametrize(("times", "finished"), [(1, 2), (2, 1)])
def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(times, finished, monkeypatch, capsys):
    """Ctrl-C while the second of three is done: once, it is finished; twice, it is dropped."""
    for index in range(3):
        put(f"in/p{index}.png", seed=index)
    forward, count = Engine._forward, 0

    def interrupted(*words, **named):
        nonlocal count
        count += 1
        if count == 2:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return forward(*words, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "_forward", interrupted)
        assert upscale("in", "-o", "out", "--json") == 130
    captured = capsys.readouterr()
    assert captured.err.count("press Ctrl-C again") == 1
    assert "of 3 finished and kept; the same command continues" in captured.err
    assert "Traceback" not in captured.err
    if times == 1:
        assert [json.loads(row)["status"] for row in captured.out.splitlines()] == ["ok"] * finished
        assert "interrupted: 2 of 3" in captured.err
    there = sorted(file.name for file in Path("out").iterdir())
    assert there == [".onestep.jsonl", *(f"p{index}_x4.png" for index in range(finished))]
    assert upscale("in", "-o", "out", "--json") == 0
    statuses = [json.loads(row)["status"] for row in capsys.readouterr().out.splitlines()]
    assert statuses == ["skipped"] * finished + ["ok"] * (3 - finished)


def test_what_an_earlier_run_finished_counts_as_kept(monkeypatch, capsys):
    put("in/a.png")
    assert upscale("in", "-o", "out") == 0
    put("in/b.png")

    def interrupted(*_, **__):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Engine, "_forward", interrupted)
    assert upscale("in", "-o", "out") == 130
    assert "interrupted: 1 of 2 finished and kept" in capsys.readouterr().err


def test_a_torn_journal_is_no_obstacle(capsys, tmp_path):
    put("in/a.png")
    assert upscale("in", "-o", "out") == 0
    journal = tmp_path / "out" / ".onestep.jsonl"
    journal.write_bytes(journal.read_bytes() + b'\n{"result": "a_x4')
    capsys.readouterr()
    assert upscale("in", "-o", "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "skipped"


def test_a_defect_of_ours_is_one_line_too(monkeypatch, capsys):
    put("photo.png")

    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Upscaler, "run", broken)
    with pytest.raises(ZeroDivisionError):
        upscale("photo.png", "-o", "out.png")
    capsys.readouterr()
    entry._in_one_line(ZeroDivisionError, ZeroDivisionError("a defect"), None)
    assert "unexpected ZeroDivisionError: a defect" in one_line(capsys)
