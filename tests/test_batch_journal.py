"""The journal of a batch: nothing lost, half or done twice, whatever happens to the process."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from batch_parts import do, files, items_of, lines
from onestep import Picture, UsageError
from onestep.batch import journal
from onestep.batch.journal import Journal, content_hash, unnamed
from onestep.cli import run
from pictures import put

pytestmark = pytest.mark.usefixtures("workplace")


# The journal


def noted(source="in/a.png", target="out/a_x4.png", settings=(("seed", 0),), name=""):
    Path("out").mkdir(exist_ok=True)
    source, target = Path(source) if Path(source).exists() else put(source), Path(target)
    book = Journal(Path("out"), dict(settings), name)
    unnamed(target).write_bytes(b"a result")
    book.add(source, target, content_hash(source), {"width": 4})
    return source, target


def finished(source, target, settings=(("seed", 0),)):
    return Journal(Path("out"), dict(settings)).finished(source, target) is not None


def test_a_result_is_finished_while_input_settings_and_result_stay():
    source, target = noted()
    assert target.read_bytes() == b"a result"
    assert not unnamed(target).exists()
    assert finished(source, target)
    assert not finished(source, target, (("seed", 1),))
    assert not finished(put("in/b.png"), target)
    target.write_bytes(b"other...")
    assert not finished(source, target)


def test_a_copy_of_the_input_is_known_by_its_content():
    source, target = noted()
    os.utime(source, (1, 1))
    assert finished(source, target)
    content = bytearray(source.read_bytes())
    content[-1] ^= 1
    source.write_bytes(content)
    assert not finished(source, target)


def test_a_result_that_was_noted_but_not_named_gets_its_name(monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "replace", killed)
        with pytest.raises(Killed):
            noted()
    target = Path("out/a_x4.png")
    assert not target.exists()
    assert finished(Path("in/a.png"), target)
    assert target.read_bytes() == b"a result"


def test_journals_of_all_workers_are_read():
    source, target = noted(name="host-1")
    assert finished(source, target)
    assert Journal(Path("out"), {}).results() == [target]
    first, _, line = Path("out/.onestep.host-1.jsonl").read_text().splitlines()[:3]
    assert first == ""
    assert json.loads(line)["content"] == content_hash(source)


def test_only_one_run_writes_to_a_folder():
    Path("out").mkdir()
    one = Journal(Path("out"), {})
    one.claim()
    with pytest.raises(UsageError, match="another run writes results there"):
        Journal(Path("out"), {}).claim()
    one.release()
    Path("out/..a.ready.png.0123abcd.part").write_bytes(b"torn")
    one.claim()
    one.release()
    assert files() == []


# Death


class Killed(BaseException):
    """The process is gone."""


def test_killed_at_any_moment_nothing_is_lost_half_or_done_twice(monkeypatch):
    """Every change of a file in turn is the last that the process makes, half made ones included."""
    items, moment = items_of(2), 0
    saves = []
    save = Picture.save

    def counting(self, path, **named):
        save(self, path, **named)
        saves.append(Path(path).name)

    monkeypatch.setattr(Picture, "save", counting)
    while True:
        moment += 1
        for late in (False, True):
            shutil.rmtree("out")
            Path("out").mkdir()
            saves.clear()
            with monkeypatch.context() as patched:
                ended = dying(patched, moment, late)
                with contextlib.suppress(Killed):
                    do(items)
                if not ended:
                    assert moment > 6, "two items, and each makes three changes"
                    return
            outcomes = do(items)
            assert {outcome.status for outcome in outcomes} <= {"ok", "skipped"}
            assert files() == ["p0_x4.png", "p1_x4.png"]
            done = [line["result"] for line in lines() if line["status"] == "ok"]
            assert sorted(done) == ["p0_x4.png", "p1_x4.png"]
            for item in items:
                with Image.open(item.target) as image:
                    image.load()


def dying(patched, moment, late):
    """From the n-th change of a file on, nothing more happens; says so in a list."""
    count, ended, guard = 0, [], threading.Lock()

    def last(real):
        def change(*words, **named):
            nonlocal count
            with guard:
                count += 1
                mine = count
            if mine > moment or (mine == moment and not late):
                ended.append(mine)
                raise Killed
            done = real(*words, **named)
            if mine == moment:
                ended.append(mine)
                raise Killed
            return done

        return change

    patched.setattr(journal.os, "replace", last(os.replace))
    patched.setattr(Journal, "_append", last(Journal._append))
    return ended


def test_a_real_kill_and_the_same_command_again():
    for k in range(30):
        put(f"in/p{k:02}.png", (40, 40), seed=k)
    Path("in/p07.png").write_bytes(b"no picture")
    words = [
        sys.executable,
        "-m",
        "onestep",
        "upscale",
        "in",
        "-o",
        "out",
        "-n",
        "bicubic",
        "-g",
        "cpu",
        "-q",
    ]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    goal = random.randint(1, 20)
    while process.poll() is None and len(list(Path("out").glob("p*.png"))) < goal:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in Path("out").glob("p*.png"):
        with Image.open(path) as image:
            image.load()
    assert run(words[3:]) == 1
    assert files() == [f"p{k:02}_x4.png" for k in range(30) if k != 7]
    done = [line["result"] for line in lines() if line["status"] == "ok"]
    assert len(done) == len(set(done)) == 29
