"""Batches: every item has its outcome, in order, with reading, model and writing at once."""

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batch_parts import do, files, items_of, lines, manifest, worker
from onestep import Picture, Upscaler
from onestep.batch import local
from onestep.batch.item import Item
from onestep.batch.worker import Worker, upright_size
from onestep.cli import run
from onestep.core.errors import InputError
from pictures import put

pytestmark = pytest.mark.usefixtures("workplace")


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
