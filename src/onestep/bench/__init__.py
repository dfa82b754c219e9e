"""The bench journey: speed and memory of a model, as ratios against others measured in the same minutes.

Every measurement has a process of its own (:mod:`onestep.bench.worker`), so that peak memory is its own too.
The processes of one case are kept waiting and take turns, so that whatever else the machine does hits all of
them; of each the fastest run counts.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onestep
from onestep.bench.runners import OURS, RIVALS, SCALE, Job
from onestep.core.errors import OneStepError, UsageError

FIRST = "onestep"
"""The runner that all others are compared with."""
LONG = 20.0
"""Seconds: a runner that has worked longer than this on a case is not run again."""


@dataclass(frozen=True)
class Case:
    """One picture size and who runs on it."""

    name: str
    width: int
    height: int
    runners: tuple[str, ...]
    repeats: int | None = None
    """Runs of each; None: as asked for."""

    @property
    def megapixels(self) -> float:
        """Of the output."""
        return self.width * self.height * SCALE**2 / 1e6

    @property
    def pixel_bytes(self) -> int:
        """Input and output pixels as three float32 each."""
        return 12 * self.width * self.height * (1 + SCALE**2)


SMALL = Case("128x128 -> 512x512", 128, 128, (*OURS, *RIVALS))
PHOTO = Case("864x576 -> 3456x2304 (0.5 Mpx photo)", 864, 576, (*OURS, *RIVALS))
LARGE = Case("1728x1152 -> 6912x4608 (four times the area)", 1728, 1152, (FIRST,), repeats=1)
CASES = (SMALL, PHOTO, LARGE)


@dataclass(frozen=True)
class Measurement:
    """One runner on one case."""

    case: str
    runner: str
    runs: int
    seconds: float
    """Fastest run."""
    seconds_per_mpx: float
    """Per output megapixel."""
    cpu_seconds_per_mpx: float
    """Least work, summed over threads, per output megapixel: hardly moves when others use the machine."""
    ratio: float | None
    """Of ``seconds`` to those of onestep in the same case."""
    loaded: int | None
    """Resident bytes after imports and loading, before the first picture."""
    peak: int | None
    """Peak resident bytes of the whole process."""
    beyond_pixels: int | None
    """Peak less the input and output pixels as float32."""


@dataclass(frozen=True)
class Report:
    """What ``onestep bench`` found."""

    model: str
    version: str
    machine: dict[str, Any]
    floor: dict[str, Any]
    measurements: tuple[Measurement, ...]
    absent: dict[str, str]
    """Runner, with the case where it is not for all -> why it was left out."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def find(self, case: Case, runner: str = FIRST) -> Measurement | None:
        """The measurement of a runner on a case."""
        found = (m for m in self.measurements if (m.case, m.runner) == (case.name, runner))
        return next(found, None)


class Worker:
    """A measuring process and the line-by-line talk with it."""

    def __init__(self, job: dict[str, Any], path: Path | None = None) -> None:
        """Start it; ``path`` is an extra folder of packages for this process alone."""
        environment = dict(os.environ)
        if path is not None:
            known = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = str(path) + (os.pathsep + known if known else "")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onestep.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._name = str(job.get("runner", "floor"))
        self._seconds: list[float] = []
        self._cpu: list[float] = []
        self._say(json.dumps(job))

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make sure that the process is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def answer(self) -> dict[str, Any]:
        """The next line it says.

        Raises:
            OneStepError: It died; the message holds its last words.
        """
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # rivals print remarks of their own
                return json.loads(line)
        words = self._process.stderr.read().strip().splitlines() or ["no message"]
        code = self._process.wait()
        how = f"killed by signal {-code}, as for want of memory" if code < 0 else words[-1]
        raise OneStepError(f"bench: {self._name} failed: {how}")

    def run(self) -> float:
        """Work once; the seconds it took."""
        self._say("run")
        answer = self.answer()
        self._seconds.append(float(answer["seconds"]))
        self._cpu.append(float(answer["cpu"]))
        return self._seconds[-1]

    def finish(self) -> dict[str, Any]:
        """No more work: the last answer."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.answer()

    def wants_more(self, repeats: int) -> bool:
        """Whether it should run again: one warm-up and ``repeats`` runs, unless it is slow."""
        return len(self._seconds) <= repeats and sum(self._seconds) < LONG

    @property
    def best(self) -> tuple[int, float, float]:
        """Number of runs, the fastest of them, and the least work (CPU seconds over all threads)."""
        return len(self._seconds), min(self._seconds), min(self._cpu)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


def bench(
    model: str | None = None,
    *,
    repeats: int = 5,
    rivals: Path | None = None,
    cases: Sequence[Case] = CASES,
    notice: Callable[[str], None] | None = None,
) -> Report:
    """Measure a model on the CPU.

    Args:
        model: Name or release file; None is the default model. It must enlarge four times.
        repeats: Timed runs of each runner on each case, after one to warm up; slow ones run less often.
        rivals: Folder with the rivals' packages (``benchmarks/rivals.sh`` makes one); they are also found
            when they are installed beside us.
        cases: Picture sizes and runners.
        notice: Called with one line before each case.

    Raises:
        UsageError: No such model, or one of another scale.
        OneStepError: A measurement died.
    """
    from onestep import catalog

    entry = catalog.find(model)
    if entry.card.traits.get("scale") != SCALE:
        raise UsageError(f"bench measures models that enlarge {SCALE} times; {entry.name} does not")
    name = model or entry.name
    _tell(notice, "the machine's rates")
    with Worker({"floor": name, "repeats": max(repeats, 3)}) as worker:
        floor: dict[str, Any] = worker.answer()["floor"]
    measurements: list[Measurement] = []
    absent: dict[str, str] = {}
    knob = "realism" in catalog.load(entry).Options.__dataclass_fields__
    for case in cases:
        _tell(notice, case.name)
        runners = [runner for runner in case.runners if knob or "realism" not in runner]
        measurements += _measure(case, runners, name, repeats, rivals, absent)
    return Report(entry.name, onestep.__version__, _machine(), floor, tuple(measurements), absent)


def _tell(notice: Callable[[str], None] | None, what: str) -> None:
    if notice:
        notice(f"measuring: {what}")


def _measure(
    case: Case,
    runners: Sequence[str],
    model: str,
    repeats: int,
    rivals: Path | None,
    absent: dict[str, str],
) -> list[Measurement]:
    """All runners of a case, taking turns."""
    waiting: dict[str, Worker] = {}
    loaded: dict[str, int | None] = {}
    with ExitStack() as stack:
        for runner in runners:
            job = asdict(Job(runner, case.width, case.height, None if runner in RIVALS else model))
            worker = stack.enter_context(Worker(job, rivals if runner in RIVALS else None))
            first = worker.answer()
            if "absent" in first:
                absent[runner] = first["absent"]
            else:
                waiting[runner], loaded[runner] = worker, first["loaded"]
        turns = case.repeats if case.repeats is not None else repeats
        while working := [runner for runner, worker in waiting.items() if worker.wants_more(turns)]:
            for runner in working:
                try:
                    waiting[runner].run()
                except OneStepError as error:
                    if runner not in RIVALS:
                        raise
                    absent[f"{runner}, {case.name}"] = str(error).removeprefix("bench: ")
                    del waiting[runner]
        peaks = {runner: worker.finish()["peak"] for runner, worker in waiting.items()}
        best = {runner: worker.best for runner, worker in waiting.items()}
    base = best[FIRST][1] if FIRST in best else None
    return [
        Measurement(
            case.name,
            runner,
            runs,
            seconds,
            seconds / case.megapixels,
            cpu / case.megapixels,
            None if base is None else seconds / base,
            loaded[runner],
            peaks[runner],
            None if peaks[runner] is None else peaks[runner] - case.pixel_bytes,
        )
        for runner, (runs, seconds, cpu) in best.items()
    ]


def _machine() -> dict[str, Any]:
    import torch

    return {
        "system": platform.system(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
