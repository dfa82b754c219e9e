"""The other side of a measurement: one process, one job, nothing else in memory.

Run as ``python -m onestep.bench.worker``. It reads a job as a line of JSON, answers with a line, then runs
once for every further line and answers with the seconds; when the input ends, it answers with its memory.
"""

import json
import sys
import time
from pathlib import Path
from typing import IO, Any

from onestep.bench.runners import Job, make


def status(field: str) -> int | None:
    """A memory figure of this process in bytes, such as ``VmHWM`` (peak) or ``VmRSS``; None off Linux."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def peak() -> int | None:
    """Peak resident memory of this process in bytes; None where the system does not say (Windows)."""
    known = status("VmHWM")
    if known is None and sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        known = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return known


def serve(lines: IO[str], answers: IO[str]) -> None:
    """Do what the lines ask for, one answer each."""

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    job = json.loads(lines.readline())
    if "floor" in job:
        from onestep.bench.floor import floor

        answer(floor=floor(job["floor"], job["repeats"]))
        return
    try:
        run = make(Job(**job))
    except ImportError as error:
        answer(absent=str(error))
        return
    answer(loaded=status("VmRSS"))
    for _ in lines:
        start, worked = time.perf_counter(), time.process_time()
        result = run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - worked
        del result
        answer(seconds=seconds, cpu=cpu)
    answer(peak=peak())


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
