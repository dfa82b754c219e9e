"""``onestep bench``: what it prints and writes."""

import json

import pytest

from onestep.cli import run

pytestmark = pytest.mark.usefixtures("workplace")


def test_bench_prints_and_writes_what_was_measured(monkeypatch, capsys, tmp_path):
    from onestep.bench import SMALL, Measurement, Report

    row = Measurement(SMALL.name, "onestep", 5, 0.5, 2.0, 3.5, 1.0, 10**8, 2 * 10**8, 10**8)
    floor = {"gemm": 1e9}
    asked = {}

    def measured(model, **words):
        asked.update(words, model=model)
        return Report("tiny", "0.1.0", {"threads": 1}, floor, (row,), {"rival": "not installed"})

    monkeypatch.setattr("onestep.bench.bench", measured)
    monkeypatch.setattr("onestep.bench.report.markdown", lambda report: f"# {report.model}\n")
    assert run(["bench", "-n", "tiny", "--repeats", "2", "--json", "-o", "out/b.json"]) == 0
    assert (asked["model"], asked["repeats"], asked["rivals"]) == ("tiny", 2, None)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads((tmp_path / "out" / "b.json").read_text())
    assert json.loads(captured.out)["measurements"][0]["seconds_per_mpx"] == 2.0
    assert run(["bench", "-o", "b.md"]) == 0
    assert (tmp_path / "b.md").read_text() == "# tiny\n"
    assert run(["bench", "-o", "b.txt"]) == 2
