"""Speed and memory of the released CTMSR network with random weights, on the CPU.

Run: ``python benchmarks/ctmsr.py [OUT.md] [--repeats N]``. Every row has a process of its own; the processes
of a size take turns, and of each the fastest run counts. The rate of a matrix product is measured in the same
process, between the runs.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import onestep
from onestep.bench.floor import GEMM
from onestep.bench.runners import photo
from onestep.bench.worker import peak, status
from onestep.methods.ctmsr import Ctmsr, CtmsrConfig

SIDES = (64, 128)
ROWS = {
    "onestep, bfloat16": "bfloat16",
    "onestep, float32": "float32",
    "same network, plain eager float32": "plain",
}


def build() -> Ctmsr:
    """The released network; what its weights are does not change the work."""
    torch.manual_seed(0)
    return CtmsrConfig().build().eval()


def operations(side: int) -> int:
    """Floating-point operations of one pass, counted by torch without doing them."""
    with torch.device("meta"):
        model = build()
        lr, noise = torch.empty(1, 3, side, side), torch.empty(1, 3, 4 * side, 4 * side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(lr, noise, {})
    return counter.get_total_flops()


def timed(run: Callable[[], object]) -> float:
    """Seconds that it takes once."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def work(row: str, side: int) -> None:
    """The measuring process: runs once per line that it reads, and answers with the seconds."""
    picture, kind = photo(side, side), ROWS[row]
    if kind == "plain":
        model = build()
        lr = torch.from_numpy(picture).permute(2, 0, 1)[None].float().contiguous() / 127.5 - 1
        noise = torch.randn(1, 3, 4 * side, 4 * side)

        def run() -> object:
            with torch.inference_mode():
                return model(lr, noise, {})

    else:
        upscaler = onestep.Upscaler(build(), device="cpu", dtype=kind)

        def run() -> object:
            return upscaler(picture, tile="off")

    matrix = torch.rand(GEMM, GEMM).to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    print(json.dumps({"loaded": status("VmRSS")}), flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        product = min(timed(lambda: matrix @ matrix) for _ in range(8))
        print(json.dumps({"seconds": seconds, "cpu": cpu, "gemm": product, "peak": peak()}), flush=True)


def measure(side: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Row -> best of its runs, after one to warm up."""
    workers = {
        row: subprocess.Popen(
            [sys.executable, __file__, "--row", row, "--side", str(side)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for row in ROWS
    }
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    loaded: dict[str, Any] = {}
    for row, worker in workers.items():
        assert worker.stdout is not None
        loaded[row] = json.loads(worker.stdout.readline())
    for _ in range(repeats + 1):
        for row, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("run\n")
            worker.stdin.flush()
            found[row].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    return {
        row: {name: min(one[name] for one in runs[1:]) for name in ("seconds", "cpu", "gemm")}
        | {"peak": runs[-1]["peak"], **loaded[row]}
        for row, runs in found.items()
    }


def table(side: int, repeats: int) -> str:
    """The rows of one size, in Markdown."""
    flops, pixels, rows = operations(side), (4 * side) ** 2 / 1e6, measure(side, repeats)
    plain = rows["same network, plain eager float32"]["seconds"]
    lines = [
        f"## {side}x{side} -> {4 * side}x{4 * side}",
        "",
        f"{flops / 2e9:.1f} G multiply-adds.",
        "",
        "| what | s per output Mpx | times as fast as plain | CPU s per Mpx | peak memory MB | loaded MB "
        "| GFLOP/s | matrix product GFLOP/s | share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, best in rows.items():
        rate, gemm = flops / best["seconds"] / 1e9, 2 * GEMM**3 / best["gemm"] / 1e9
        lines.append(
            f"| {row} | {best['seconds'] / pixels:.3g} | {plain / best['seconds']:.2f} "
            f"| {best['cpu'] / pixels:.3g} | {best['peak'] / 1e6:.0f} | {best['loaded'] / 1e6:.0f} "
            f"| {rate:.0f} | {gemm:.0f} | {rate / gemm:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and write, or be a measuring process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--row")
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.row:
        work(arguments.row, arguments.side)
        return
    head = (
        "# CTMSR, released network: speed and memory\n\n"
        "The released architecture (171,518,529 parameters) with random weights. "
        f"{platform.machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}, onestep "
        f"{onestep.__version__}; {time.strftime('%Y-%m-%d')}. Rows of a table took turns; the fastest of "
        f"{arguments.repeats} runs counts. Ratios travel to other machines, seconds do not. "
        "Made by `benchmarks/ctmsr.py`."
    )
    text = "\n\n".join([head, *(table(side, arguments.repeats) for side in SIDES)]) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
