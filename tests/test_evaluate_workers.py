"""Worker processes and stopped runs: the same scores bit for bit, whatever happened on the way."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation_folders import bicubic, enlarged, photograph, put, without_seconds, write_folders
from onestep.core.errors import InputError
from onestep.evaluate import FINISHED, Entrant, evaluate, finished, protocol, restored
from onestep.evaluate.journal import Journal, beside, key
from onestep.evaluate.score import Outcome, Scorer, Task
from onestep.evaluate.work import outcomes

SCORER = Scorer(("psnr",), protocol("full"))
FREE = ("psnr", "ssim-y", "ms-ssim", "lr-consistency")

SLOW = """
import sys, time
from onestep.evaluate import score
was = score.Scorer.__call__
def slowly(self, task):
    time.sleep(0.1)
    return was(self, task)
score.Scorer.__call__ = slowly
if __name__ == "__main__":
    from onestep.cli.entry import run
    sys.exit(run(sys.argv[1:]))
"""


def scored(folder, workers, names=FREE, **rest):
    pairs, _ = restored(folder / "lr", folder / "hr")
    candidates = [
        bicubic(),
        bicubic("bright", lambda lr: enlarged(replace(lr, rgb=(lr.rgb * 1.1).clamp(0, 1)))),
    ]
    return evaluate(pairs, names, protocol("full-float"), candidates=candidates, workers=workers, **rest)


def test_one_and_two_workers_give_the_same_bits(tmp_path, caplog):
    folder = write_folders(tmp_path, count=7, height=192, width=208)
    (folder / "hr" / "p3.png").write_bytes(b"broken")
    (folder / "hr" / "p4.png").unlink()
    pages = [Image.fromarray(photograph(top, 192, 208)) for top in (0, 9)]
    pages[0].save(folder / "hr" / "p4.tif", save_all=True, append_images=pages[1:])
    found, said = [], []
    for workers in (1, 2):
        caplog.clear()
        found.append(without_seconds(scored(folder, workers)))
        said.append(caplog.messages)
    assert found[0] == found[1]
    assert (
        said[0]
        == said[1]
        == [f"{folder / 'hr' / 'p4.tif'}: has several frames or pages, only the first is used"] * 2
    )
    assert len(found[0][0]["images"]) == 6
    assert "p3" in found[0][1]["failed"]


def test_metrics_with_networks_and_sets_too(tmp_path, development_data, monkeypatch):
    monkeypatch.setenv("ONESTEP_HOME", str(development_data / "metrics"))
    folder = write_folders(tmp_path, count=5, height=192, width=208)
    names = ("lpips-squeeze", "niqe", "brisque", "kid-squeeze")
    one, two = (without_seconds(scored(folder, workers, names)) for workers in (1, 2))
    assert one == two
    assert all(score["mean"] is not None for score in one[0]["metrics"].values())


class Inline:
    """A pool whose processes are this one, and whose work is done at once."""

    def __init__(self, workers, context, start, arguments):
        self.scorer = Scorer(*arguments)

    def submit(self, _, task):
        future = Future()
        future.set_result(self.scorer(task))
        return future

    def shutdown(self, cancel_futures):
        pass


class Broken(Inline):
    """A pool one of whose processes was ended."""

    def submit(self, _, task):
        raise BrokenProcessPool("a child process terminated abruptly")


class TestPool:
    """Tasks to outcomes in several processes."""

    def test_only_a_few_tasks_are_taken_ahead(self, tmp_path, monkeypatch):
        monkeypatch.setattr("onestep.evaluate.work.ProcessPoolExecutor", Inline)
        folder = write_folders(tmp_path, count=1)
        task = Task("p0", folder / "hr" / "p0.png", folder / "sr" / "p0.png")
        taken = []

        def tasks():
            for number in range(40):
                taken.append(number)
                yield number, Outcome(failed="no") if number % 7 == 3 else task

        for number, (mark, outcome) in enumerate(outcomes(tasks(), SCORER, workers=2)):
            assert mark == number
            assert (outcome.failed == "no") if number % 7 == 3 else outcome.scores["psnr"] > 20
            assert len(taken) <= number + 6
        assert len(taken) == 40

    def test_a_worker_that_was_ended_is_one_line(self, monkeypatch):
        monkeypatch.setattr("onestep.evaluate.work.ProcessPoolExecutor", Broken)
        tasks = [(0, Task("p0", Path("hr.png"), Path("sr.png")))]
        with pytest.raises(InputError, match="fewer --workers"):
            list(outcomes(tasks, SCORER, workers=2))


class TestKilled:
    """A run that is killed, and the same command again."""

    COUNT = 24

    @pytest.fixture
    def words(self, tmp_path):
        write_folders(tmp_path, count=self.COUNT, height=48, width=48)
        (tmp_path / "slow.py").write_text(SLOW)
        return [sys.executable, "slow.py", "evaluate", "--sr", "sr", "--hr", "hr", "--metrics", "psnr,ssim"]

    def lines(self, path):
        return [line for line in path.read_text().splitlines() if line] if path.exists() else []

    def kill_after(self, words, root, journal, count):
        process = subprocess.Popen(words, cwd=root, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 90
        while len(self.lines(journal)) < count and time.monotonic() < until:
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        offspring = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        return offspring

    def test_what_was_scored_is_not_scored_again(self, tmp_path, words):
        journal = beside(tmp_path / "r.json")
        offspring = self.kill_after([*words, "--workers", "2", "-o", "r.json"], tmp_path, journal, 3)
        kept = self.lines(journal)
        assert 3 <= len(kept) < self.COUNT
        assert not (tmp_path / "r.json").exists()
        with journal.open("a") as file:
            file.write('\n{"key": "torn')
        pairs, _ = finished(tmp_path / "sr", tmp_path / "hr")
        calls = []
        with pytest.MonkeyPatch.context() as patch:
            was = Scorer.__call__
            patch.setattr(Scorer, "__call__", lambda self, task: calls.append(task.name) or was(self, task))
            report = evaluate(pairs, ("psnr", "ssim"), journal=Journal(journal))
        assert len(calls) == self.COUNT - len(kept)
        assert without_seconds(report) == without_seconds(evaluate(pairs, ("psnr", "ssim")))
        until = time.monotonic() + 60
        while not all(ended(pid) for pid in offspring):
            assert time.monotonic() < until, "a worker outlived the process that started it"
            time.sleep(0.05)

    def test_the_same_command_goes_on_and_clears_up(self, tmp_path, words):
        words = [*words, "-o", "r.json"]
        journal = beside(tmp_path / "r.json")
        self.kill_after(words, tmp_path, journal, 3)
        assert not (tmp_path / "r.json").exists()
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        pairs, _ = finished(tmp_path / "sr", tmp_path / "hr")
        written = json.loads((tmp_path / "r.json").read_text())
        assert without_seconds(written) == without_seconds(evaluate(pairs, ("psnr", "ssim")))
        assert not journal.exists()


def ended(pid):
    """Whether a process is gone, or a zombie that nobody has waited for."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


class TestJournal:
    """What is kept of a picture."""

    def test_an_outcome_comes_back_as_it_was(self, tmp_path):
        journal = Journal(tmp_path / "j")
        features = {"kid": (np.float32([0.1, 2]), np.float32([np.pi, -1e-30]))}
        outcome = Outcome({"psnr": 0.1 + 0.2, "ssim": None}, {"ssim": "too small"}, features, 5, 6)
        journal.add("a", outcome, 1.5, 7)
        journal.add("b", Outcome({"psnr": 1.0}), None, None)
        again = Journal(tmp_path / "j")
        kept = again.find("a")
        assert kept is not None
        assert (kept.outcome.scores, kept.outcome.missing) == (outcome.scores, outcome.missing)
        assert (kept.outcome.width, kept.outcome.height, kept.seconds, kept.memory) == (5, 6, 1.5, 7)
        for ours, theirs in zip(kept.outcome.features["kid"], features["kid"], strict=True):
            assert ours.tobytes() == theirs.tobytes()
        assert again.find("c") is None

    @pytest.mark.parametrize(
        "change",
        ["hr", "sr", "metrics", "protocol", "weights", "nothing"],
    )
    def test_a_change_of_anything_scores_again(self, tmp_path, change, monkeypatch):
        folder = write_folders(tmp_path, count=2)
        journal = tmp_path / "j"
        pairs, _ = finished(folder / "sr", folder / "hr")
        evaluate(pairs, ("psnr",), journal=Journal(journal))
        if change in ("hr", "sr"):
            put(folder / change / "p1.png", np.zeros((64, 96, 3), np.uint8))
        names = ("psnr", "ssim") if change == "metrics" else ("psnr",)
        how = protocol("classic-y-crop" if change == "protocol" else "full")
        weights = "other" if change == "weights" else None
        candidate = replace(FINISHED, entrant=Entrant(weights_sha256=weights))
        calls = []
        was = Scorer.__call__
        monkeypatch.setattr(Scorer, "__call__", lambda self, task: calls.append(task.name) or was(self, task))
        evaluate(pairs, names, how, candidates=[candidate], journal=Journal(journal))
        wanted = {"nothing": [], "hr": ["p1"], "sr": ["p1"]}
        assert calls == wanted.get(change, ["p0", "p1"])

    def test_a_folder_that_cannot_be_written_is_one_line(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(InputError, match="cannot be written"):
            Journal(tmp_path / "file" / "j").add("a", Outcome(), None, None)

    def test_keys_do_not_depend_on_the_order_of_settings(self):
        assert key(a=1, b={"x": 1, "y": 2}) == key(b={"y": 2, "x": 1}, a=1) != key(a=1, b={})
