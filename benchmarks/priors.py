"""Time and memory of OSEDiff and S3Diff on a full-size Stable Diffusion 2.1 with random weights, on the CPU.

    python benchmarks/random_priors.py HOME              makes the folder
    python benchmarks/priors.py HOME [--rows TEXT]       measure: all rows, or those whose name has the text
    python benchmarks/priors.py HOME --table             print what has been measured so far

Every row has a process of its own, one after another. Times are those of the processor, summed over threads:
they hardly move when others use the machine too.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import onestep
from onestep import catalog
from onestep.bench.floor import GEMM
from onestep.bench.runners import photo
from onestep.bench.worker import peak
from onestep.cli.entry import ENVIRONMENT
from onestep.networks.diffusion_prior import DiffusionPrior
from onestep.networks.prior_config import PriorConfig

WHOLE = 1 << 30
STAGES = {
    "text": "text",
    "encode": "encoder",
    "epsilon": "U-Net",
    "decode": "decoder",
    "fold": "merging, folding",
}


@dataclass(frozen=True)
class Row:
    """One configuration."""

    group: str
    method: str
    dtype: str = "bfloat16"
    last: bool = True
    """Whether weights are laid out with channels last."""
    plain: bool = False
    """Whether the networks are called as with diffusers alone, nothing of ours around them."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    whole: bool = False
    """Whether the U-Net sees even large latents whole."""
    side: int = 128


OSE, S3, BIG = "OSEDiff, 128x128 -> 512x512", "S3Diff, 128x128 -> 512x512", "S3Diff, 256x256 -> 1024x1024"
OFF, ONE, LIVE, FOLDED = {"merge": False}, {"guidance": 1.0}, {"gates": "live"}, {"gates": "folded"}
ROWS = {
    "plain diffusers, float32": Row(OSE, "osediff", "float32", False, True),
    "onestep, float32, embeddings kept": Row(OSE, "osediff", "float32", False, options=OFF),
    "and adapters merged": Row(OSE, "osediff", "float32", False),
    "and channels last": Row(OSE, "osediff", "float32"),
    "and bfloat16: what onestep does": Row(OSE, "osediff"),
    "that without merging": Row(OSE, "osediff", options=OFF),
    "live gates: what onestep does": Row(S3, "s3diff", options=LIVE),
    "folded gates": Row(S3, "s3diff", options=FOLDED),
    "live gates, guidance 1": Row(S3, "s3diff", options=LIVE | ONE),
    "folded gates, guidance 1": Row(S3, "s3diff", options=FOLDED | ONE),
    "plain diffusers, float32, two passes of the U-Net": Row(S3, "s3diff", "float32", False, True),
    "latents in tiles: what onestep does": Row(BIG, "s3diff", side=256),
    "latents whole": Row(BIG, "s3diff", side=256, whole=True),
}


def plainly(model: Any, home: Path, lr: Tensor, clock: "Clock") -> Callable[[int], object]:
    """The same networks as diffusers calls them: adapters act, the text encoder runs for every picture."""
    from transformers import CLIPTextModel

    prior, two = model.prior, hasattr(model, "gates")
    folder = home / model.config.base / "text_encoder"
    text = CLIPTextModel.from_pretrained(str(folder), dtype=torch.float32).eval()
    prompts = [model.config.prompt, model.config.negative] if two else [""]

    def embedded(one: str) -> Tensor:
        return text(prior.text.tokens([one])).last_hidden_state

    def run(_: int) -> object:
        with torch.inference_mode():
            x = F.interpolate(lr, scale_factor=4, mode="bicubic").clamp(-1, 1)
            known = [clock("text", embedded, one) for one in prompts]
            acting = model._acting(model.matrices(model.scores(lr))) if two else prior.using("generator")
            with acting:
                z = clock("encode", prior.vae.encode, x).latent_dist.sample() * prior.scaling
                eps = [clock("epsilon", prior.unet, z, model.time, one).sample for one in known]
            both = eps[1] + 1.07 * (eps[0] - eps[1]) if two else eps[0]
            clean = prior.clean(z, both, model.time) / prior.scaling
            return clock("decode", prior.vae.decode, clean).sample.clamp(-1, 1)

    return run


class Clock:
    """Seconds of the processor per stage."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES, 0.0)

    def __call__(self, stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do it, and add what it takes."""
        start = time.process_time()
        found = work(*arguments)
        self.spent[stage] += time.process_time() - start
        return found


def ours(model: Any, row: Row, clock: Clock) -> Callable[[int], object]:
    """As ``onestep upscale`` does it, what the row switches off aside."""
    up, prior = onestep.Upscaler(model, device="cpu", dtype=row.dtype), model.prior
    if not row.last:
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
    if row.whole:
        model.latent_tile = WHOLE
    merging = (prior, "settle") if row.method == "osediff" else (model, "fold")
    watched = [*((prior, stage, stage) for stage in ("encode", "epsilon", "decode")), (*merging, "fold")]
    for owner, name, stage in watched:
        object.__setattr__(owner, name, partial(clock, stage, getattr(owner, name)))
    picture = photo(row.side, row.side)

    def run(turn: int) -> object:
        scores = {"blur": 0.3 + 0.01 * turn, "noise": 0.2} if row.method == "s3diff" else {}
        return up(picture, seed=turn, **scores, **row.options)

    return run


def work(name: str, home: Path, side: int | None) -> dict[str, Any]:
    """A row, measured in this process: a first picture and, where one is quick, a second one."""
    row = ROWS[name] if side is None else replace(ROWS[name], side=side)
    os.environ["ONESTEP_HOME"] = str(home)
    if not row.plain:
        os.environ.update(ENVIRONMENT)
    model = catalog.load(catalog.find(str(home / f"{row.method}.safetensors"))).eval()
    lr = torch.from_numpy(photo(row.side, row.side)).permute(2, 0, 1)[None].float() / 127.5 - 1
    clock, runs = Clock(), list[dict[str, float]]()
    run = plainly(model, home, lr, clock) if row.plain else ours(model, row, clock)
    found = {"start": time.process_time(), "loading peak": peak()}
    for turn in range(2 if row.dtype == "bfloat16" and row.side <= 128 else 1):
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        clock.spent = dict.fromkeys(STAGES, 0.0)
        begin, cpu = time.perf_counter(), time.process_time()
        run(turn)
        taken = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
        runs.append({**clock.spent, **taken, "peak": float(peak() or 0)})
    a, b = (torch.rand(GEMM, GEMM).to(getattr(torch, row.dtype)) for _ in range(2))
    gemm = list[float]()
    for _ in range(8):
        clock.spent["text"] = 0.0
        clock("text", torch.matmul, a, b)
        gemm.append(clock.spent["text"])
    return {**found, "first": runs[0], **runs[-1], "gemm": min(gemm), "fold": runs[0]["fold"]}


def operations(config: PriorConfig, side: int) -> dict[str, int]:
    """Multiply-adds of encoder, U-Net and decoder for an image of this side, nothing being calculated."""
    with torch.device("meta"), torch.no_grad():
        prior = DiffusionPrior.build(config)
        z = torch.empty(1, config.vae.latent, *[side // prior.factor] * 2)
        stages = {
            "encode": lambda: prior.encode(torch.empty(1, 3, side, side)),
            "epsilon": lambda: prior.epsilon(z, torch.zeros(1), torch.empty(1, 77, config.text.width)),
            "decode": lambda: prior.decode(z),
        }
        prior.untiled, found = WHOLE, dict[str, int]()
        for stage, calculate in stages.items():
            with FlopCounterMode(display=False) as counter:
                calculate()
            found[stage] = counter.get_total_flops() // 2
    return found


def tables(found: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    lines = [
        f"{platform.machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}, onestep "
        f"{onestep.__version__}; {time.strftime('%Y-%m-%d')}."
    ]
    for group in dict.fromkeys(row.group for row in ROWS.values()):
        mine = [name for name, row in ROWS.items() if row.group == group and name in found]
        if not mine:
            continue
        count = operations(PriorConfig(), 4 * ROWS[mine[0]].side)
        parts = ", ".join(f"{STAGES[stage]} {value / 1e9:.0f}" for stage, value in count.items())
        lines += ["", f"## {group}", "", f"G multiply-adds: {parts}.", ""]
        heads = ["what", "a picture", "times as fast", *STAGES.values(), "start"]
        heads += ["peak MB, loading", "first picture", "second", "matrix product GFLOP/s"]
        lines.append(f"| {' | '.join(heads)} |")
        lines.append("|---" * len(heads) + "|")
        whole = {name: sum(found[name][stage] for stage in STAGES if stage != "fold") for name in mine}
        for name, total in whole.items():
            one = found[name]
            times = " | ".join(f"{one[stage]:.1f}" for stage in STAGES)
            second = f"{one['peak'] / 1e6:.0f}" if one["peak"] != one["first"]["peak"] else "–"
            sizes = f"{one['loading peak'] / 1e6:.0f} | {one['first']['peak'] / 1e6:.0f} | {second}"
            lines.append(
                f"| {name} | {total:.1f} | {whole[mine[0]] / total:.2f} | {times} | {one['start']:.1f} "
                f"| {sizes} | {2 * GEMM**3 / one['gemm'] / 1e9:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure and print, or be a measuring process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--rows", default="")
    parser.add_argument("--row")
    parser.add_argument("--side", type=int)
    given = parser.parse_args()
    home, results = given.home.resolve(), given.home / "results.json"
    os.environ["ONESTEP_HOME"] = str(home)
    if given.row:
        print(json.dumps(work(given.row, home, given.side)))
        return
    wanted = [name for name, row in ROWS.items() if given.rows in f"{row.group}: {name}"]
    for name in [] if given.table else wanted:
        command = [sys.executable, __file__, str(home), "--row", name]
        command += ["--side", str(given.side)] if given.side else []
        passive = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # threads that wait take no time
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=passive).stdout
        found = json.loads(results.read_text()) if results.is_file() else {}
        found[name] = json.loads(said.splitlines()[-1])
        results.write_text(json.dumps(found))
        print(f"{name}: {found[name]['cpu']:.1f} s", file=sys.stderr, flush=True)
    print(tables(json.loads(results.read_text()) if results.is_file() else {}))


if __name__ == "__main__":
    main()
