"""The benchmark of OSEDiff and S3Diff, rehearsed on tiny priors: rows run and are shown."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("diffusers")

from onestep.cli import run
from onestep.cli.entry import ENVIRONMENT
from onestep.networks.prior_config import PriorConfig

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*ENVIRONMENT, "ONESTEP_HOME"):  # what the script sets is taken back
        monkeypatch.setenv(name, os.environ.get(name, ENVIRONMENT.get(name, "")))
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path))
    maker = script("random_priors")
    maker.make(tmp_path, maker.tiny())
    for words in maker.commands(tmp_path):
        assert run([*words, "-q"]) == 0
    return tmp_path


ROWS = (
    "plain diffusers, float32",
    "and adapters merged",
    "and bfloat16: what onestep does",
    "live gates: what onestep does",
    "folded gates",
    "latents whole",
)


def test_rows_run_and_are_shown(home: Path, monkeypatch: pytest.MonkeyPatch):
    bench = script("priors")
    monkeypatch.setattr(bench, "PriorConfig", PriorConfig.tiny)  # whose operations are counted
    monkeypatch.setattr(bench, "GEMM", 64)
    found = {name: bench.work(name, home, 8) for name in ROWS}
    for name, one in found.items():
        assert min(one[stage] for stage in ("encode", "epsilon", "decode")) > 0, name
        row = bench.ROWS[name]
        merged = row.method == "osediff" and not row.plain and row.options.get("merge", True)
        assert (one["fold"] > 0) == (merged or row.options.get("gates") == "folded"), name
        assert (one["text"] > 0) == row.plain, "the embeddings are kept"
    lines = bench.tables(found).splitlines()
    for name in ROWS:
        assert sum(line.startswith(f"| {name} | ") for line in lines) == 1
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
