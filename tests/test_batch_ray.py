"""The engine of several machines, on this one: the same files, whoever dies. Needs the extra [ray]."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onestep.cli import run

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'onestep-sr[ray]'"
)
BROKEN = 5


@pytest.fixture(autouse=True)
def _home(home, tmp_path, monkeypatch):
    """One thread for every process: several that wait for each other take minutes on a busy machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def command(out, *more):
    return ["upscale", "in", "-o", str(out), "-n", "tiny", "-g", "cpu", "--dtype", "float32", "--json", *more]


def results(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("p*.png")}


def noted(folder):
    """The lines on finished results, by the worker that wrote them."""
    return {
        int(path.stem.rpartition("-")[2]): [
            json.loads(row) for row in path.read_text().splitlines() if '"ok"' in row
        ]
        for path in Path(folder).glob(".onestep.*-*.jsonl")
    }


@contextmanager
def on_ray(out):
    """The command with two workers or more; it is gone when the block ends."""
    words = [sys.executable, "-m", "onestep", *command(out, "--engine", "ray", "--cores", "1")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name == "nt", reason="kills as Unix does")
def test_a_worker_is_killed_and_the_local_engine_goes_on(capfd):
    """One start of Ray, which costs seconds, shows all of it. Pictures take long enough to be killed at."""
    Path("in").mkdir()
    names = [f"p{k:02}" for k in range(16)]
    for k, name in enumerate(names):
        array = np.random.default_rng(k).integers(0, 256, (100, 120, 3), dtype=np.uint8)
        Image.fromarray(array).save(f"in/{name}.png")
    Path(f"in/p{BROKEN:02}.png").write_bytes(b"no picture")
    assert run(command("here")) == 1
    expected = results("here")
    with on_ray("out") as process:
        while process.poll() is None and not any(noted("out").values()):
            time.sleep(0.01)
        victim = next(pid for pid, lines in noted("out").items() if lines)
        os.kill(victim, signal.SIGKILL)
        assert len(results("out")) < len(expected)
        out, err = process.communicate()
    assert process.returncode == 1, err
    rows = sorted((json.loads(line) for line in out.splitlines()), key=lambda row: row["input"])
    assert [row["input"] for row in rows] == [f"in/{name}.png" for name in names]
    assert [row["status"] for row in rows].count("ok") == len(expected) == len(names) - 1
    assert rows[BROKEN]["error"].startswith(f"in/p{BROKEN:02}.png: not an image")
    assert {row["width"] for row in rows if row["status"] == "ok"} == {480}
    assert results("out") == expected
    lines = noted("out")
    assert sorted(line["result"] for some in lines.values() for line in some) == sorted(expected)
    assert len([pid for pid, some in lines.items() if some and pid != victim]) > 0
    capfd.readouterr()
    (Path("out") / "p00_x4.png").unlink()
    assert run(command("out")) == 1
    again = [json.loads(line)["status"] for line in capfd.readouterr().out.splitlines()]
    assert again.count("skipped") == len(expected) - 1
    assert results("out") == expected


def test_words_about_ray(capfd):
    Path("in").mkdir()
    Image.new("RGB", (4, 4)).save("in/a.png")
    assert run(command("out", "--engine", "spark")) == 2
    assert "choose local or ray" in capfd.readouterr().err
    assert run(command("out", "--cores", "2")) == 2
    assert "--address and --cores are for --engine ray" in capfd.readouterr().err


def test_without_ray_one_line_says_what_to_install(capfd, monkeypatch):
    Path("in").mkdir()
    Image.new("RGB", (4, 4)).save("in/a.png")
    monkeypatch.setitem(sys.modules, "onestep.batch.ray_engine", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "onestep.batch.ray_engine")
    assert run(command("out", "--engine", "ray")) == 2
    assert "pip install 'onestep-sr[ray]'" in capfd.readouterr().err
