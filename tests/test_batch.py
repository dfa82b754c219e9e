"""Batches: nothing lost, nothing half, nothing done twice, whatever happens to the process."""

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
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onestep import Picture, Upscaler, UsageError
from onestep.batch import journal, local
from onestep.batch.item import Item
from onestep.batch.journal import Journal, content_hash, unnamed
from onestep.batch.manifest import Manifest
from onestep.batch.worker import Worker, upright_size
from onestep.cli import run
from onestep.core.errors import InputError
from onestep.plan import Settings
from pictures import put


@pytest.fixture(autouse=True)
def _home(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def items_of(count, broken=()):
    """Items from ``in`` to ``out``, some of whose inputs are no pictures."""
    Path("out").mkdir(exist_ok=True)
    items = [Item(put(f"in/p{k}.png", seed=k), Path(f"out/p{k}_x4.png")) for k in range(count)]
    for k in broken:
        items[k].source.write_bytes(b"Dear diary, no picture today.")
    return items


def manifest(**changes):
    return replace(Manifest("bicubic", Settings(), device="cpu", folder=Path("out")), **changes)


def worker(**changes):
    task = manifest(**changes)
    return Worker(task, task.load(), task.journal())


def do(items, one=None, **named):
    return list(local.run(one or worker(), list(enumerate(items)), **named))


def lines():
    """What the journals say, without the lines that spell out settings."""
    rows = [row for path in Path("out").glob(".onestep*.jsonl") for row in path.read_text().splitlines()]
    return [line for row in rows if row and "status" in (line := json.loads(row))]


def files():
    return sorted(path.name for path in Path("out").iterdir() if path.suffix != ".jsonl")


# The pipeline


def test_every_item_has_its_outcome_in_order():
    outcomes = do(items_of(9, broken=(2, 5)))
    assert [outcome.index for outcome in outcomes] == list(range(9))
    assert [outcome.status for outcome in outcomes] == ["ok"] * 2 + ["failed"] + ["ok"] * 2 + [
        "failed",
        *["ok"] * 3,
    ]
    assert (outcomes[0].width, outcomes[0].height, outcomes[0].tiles) == (48, 36, 1)
    assert outcomes[2].error == "in/p2.png: not an image that can be read: use PNG, JPEG, WebP, TIFF or BMP"
    assert files() == [f"p{k}_x4.png" for k in (0, 1, 3, 4, 6, 7, 8)]
    assert sorted((line["status"], line["input"]) for line in lines())[:2] == [
        ("failed", "p2.png"),
        ("failed", "p5.png"),
    ]


def test_results_are_those_of_the_python_object():
    items = items_of(3)
    do(items)
    up = Upscaler.load("bicubic", device="cpu")
    for item in items:
        up(item.source).save("alone.png")
        assert item.target.read_bytes() == Path("alone.png").read_bytes()


def test_reading_goes_ahead_and_writing_behind_while_the_model_runs(monkeypatch):
    one, now, most = worker(), {"load": 0, "restore": 0, "write": 0}, set()
    guard = threading.Lock()

    def slow(name):
        real = getattr(Worker, name)

        def step(self, *words):
            with guard:
                now[name] += 1
                most.add(tuple(step for step, count in now.items() if count))
            time.sleep(0.03)
            try:
                return real(self, *words)
            finally:
                with guard:
                    now[name] -= 1

        return step

    for name in now:
        monkeypatch.setattr(Worker, name, slow(name))
    do(items_of(8), one)
    together = {name for steps in most if len(steps) > 1 for name in steps}
    assert together == {"load", "restore", "write"}
    assert all(steps.count("restore") <= 1 for steps in most)


def test_what_is_on_its_way_is_bounded(monkeypatch):
    """With room for one picture alone, the next is read when the last is written."""
    held = most = 0
    guard, load, write = threading.Lock(), Worker.load, Worker.write

    def loading(self, task):
        nonlocal held, most
        with guard:
            held += 1
            most = max(most, held)
        return load(self, task)

    def writing(self, restored):
        nonlocal held
        done = write(self, restored)
        with guard:
            held -= 1
        return done

    monkeypatch.setattr(Worker, "load", loading)
    monkeypatch.setattr(Worker, "write", writing)
    items = items_of(6)
    need = worker().prepare(0, items[0]).memory
    for room, at_once in ((need - 1, 1), (2 * need, 2), (100 * need, 9)):
        held = most = 0
        shutil.rmtree("out")
        Path("out").mkdir()
        monkeypatch.setattr(local, "free_memory", lambda _, room=room: room / local._SHARE)
        assert [outcome.status for outcome in do(items)] == ["ok"] * 6
        assert most <= at_once
    assert most > 2


def test_a_defect_is_not_swallowed(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Picture, "save", broken)
    with pytest.raises(ZeroDivisionError):
        do(items_of(2))


def test_stop_finishes_what_the_model_has_begun():
    count = iter(range(10))
    outcomes = do(items_of(6), stop=lambda: next(count) == 3)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    assert files() == [f"p{k}_x4.png" for k in range(3)]
    assert [outcome.status for outcome in do(items_of(6))] == ["skipped"] * 3 + ["ok"] * 3


def test_large_pictures_go_strip_by_strip_and_stop_between_strips(monkeypatch):
    monkeypatch.setattr("onestep.batch.worker.LARGE", 0)
    monkeypatch.setattr("onestep.stream.sinks._STRIP_BYTES", 1000)
    items = items_of(2)
    count = iter(range(100))
    assert do(items, stop=lambda: next(count) == 6) == []
    assert [name for name in files() if name.endswith(".part")] == ["..p0_x4.png.ready.png.part"]
    assert [outcome.status for outcome in do(items)] == ["ok"] * 2
    assert files() == ["p0_x4.png", "p1_x4.png"]
    assert [path.name for path in Path("out").glob("*.jsonl")] == [".onestep.jsonl"]
    Upscaler.load("bicubic", device="cpu")(items[0].source).save("alone.png")
    with Image.open("alone.png") as one, Image.open(items[0].target) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_strips_can_be_asked_for_or_forbidden():
    items = [Item(put("in/a.png"), Path("out/a.webp"))]
    Path("out").mkdir()
    (refused,) = do(items, worker(strips="always"))
    assert refused.refused
    assert "not written strip by strip" in refused.error
    assert run(["upscale", "in/a.png", "-o", "out/", "-n", "bicubic", "--stream"]) == 0
    assert worker(strips="never").prepare(0, Item(Path("in/a.png"), Path("out/a.png"))).strips is False


def test_what_a_format_cannot_hold_is_said_before_the_work(monkeypatch):
    Path("out").mkdir()
    monkeypatch.setattr(Upscaler, "run", None)
    (outcome,) = do([Item(put("in/wide.png", (4100, 1)), Path("out/wide.webp"))])
    assert (
        outcome.error == "out/wide.webp: WEBP holds at most 16383 pixels a side, not 16400: use .png or .tif"
    )


def test_messages_name_results_as_the_user_does(monkeypatch):
    def full(self, path, **_):
        raise InputError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(Picture, "save", full)
    (outcome,) = do(items_of(1))
    assert outcome.error == "out/p0_x4.png: cannot be written (No space left on device)"


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


def test_settings_of_all_kinds_decide():
    maps = [{"realism": np.full((2, 2), value)} for value in (0.1, 0.2)]
    known = {json.dumps(manifest(options=options).identity) for options in (*maps, {"realism": 0.5}, {})}
    assert len(known) == 4
    assert manifest(keep="overwrite", run="1").identity == manifest().identity


def test_another_model_under_the_same_name_is_refused():
    with pytest.raises(InputError, match="another model goes by this name"):
        manifest(model="tiny", weights="0" * 64).load()


def test_sizes_are_read_from_headers():
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(put("in/a.png")) as image:
        image.save("in/turned.jpg", exif=exif)
    assert upright_size(Path("in/a.png"), 1000) == (12, 9)
    assert upright_size(Path("in/turned.jpg"), 1000) == (9, 12)
    with pytest.raises(InputError, match="over the limit"):
        upright_size(Path("in/a.png"), 100)


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
