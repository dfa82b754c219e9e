"""The evaluation journey: pairs of pictures become a report that names its protocol.

One picture at a time: restored (or read), rounded as a saved file is, scored against its HR partner, dropped.
A pair that cannot be scored costs one line in the report, and the rest is still scored.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from onestep import metrics as table
from onestep.core.errors import InputError, OneStepError, UsageError
from onestep.core.picture import read
from onestep.evaluate.pairs import Pair, degraded, finished, restored
from onestep.evaluate.report import PROTOCOLS, EvalProtocol, Report, protocol

__all__ = [
    "DEFAULT_METRICS",
    "PROTOCOLS",
    "EvalProtocol",
    "Pair",
    "Report",
    "degraded",
    "evaluate",
    "finished",
    "protocol",
    "restored",
]

_log: Final = logging.getLogger("onestep")

REMAINDER = 3
"""HR rows and columns, at most, that a result at x4 may lack: what is left over when HR is divided by 4."""

DEFAULT_METRICS = ("psnr-y", "ssim-y", "lpips-squeeze", "niqe")

Progress = Callable[[float, str], None]
"""(finished share in [0, 1], name of the picture)."""


def evaluate(
    pairs: Sequence[Pair],
    names: Sequence[str] = DEFAULT_METRICS,
    how: EvalProtocol = PROTOCOLS["full"],
    *,
    device: torch.device | str = "cpu",
    failed: Mapping[str, str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> Report:
    """Score pairs.

    Args:
        pairs: What to score, in order.
        names: Metrics of ``onestep.metrics``; one whose weights cannot be had is skipped and said so.
        how: The protocol.
        device: Where metrics with networks run.
        failed: Pictures that are known not to be scorable, and why.
        progress: Called before every picture.

    Raises:
        UsageError: An unknown metric, or one that needs tile borders.
        InputError: None of the metrics can be had.
    """
    start = time.perf_counter()
    report = Report(how, (), failed=dict(failed))
    measures: dict[str, tuple[bool, table.Measure]] = {}
    for name in dict.fromkeys(names):
        needs = table.find(name).needs
        if needs == "borders":
            raise UsageError(f"the metric {name} needs tile borders; onestep.metrics.seam takes them")
        try:
            measures[name] = (needs == "pair", table.make(name, device))
        except InputError as error:
            report.skipped[name] = str(error)
    if not measures:
        raise InputError("; ".join(f"{name} left out: {why}" for name, why in report.skipped.items()))
    report.metrics = tuple(measures)
    for index, pair in enumerate(pairs):
        if progress:
            progress(index / len(pairs), pair.name)
        try:
            report.rows.append(_row(pair, measures, how, torch.device(device), report.notes))
        except (OneStepError, OSError) as error:
            report.failed[pair.name] = str(error)
    report.seconds = time.perf_counter() - start
    return report


def _row(
    pair: Pair,
    measures: Mapping[str, tuple[bool, table.Measure]],
    how: EvalProtocol,
    device: torch.device,
    notes: list[str],
) -> dict[str, Any]:
    truth = read(pair.hr)
    picture, seconds = pair.restored(truth)
    sr, hr = _aligned(pair.name, picture.rgb, truth.rgb)
    if not bool(torch.isfinite(sr).all()):
        raise InputError(f"{pair.name}: the result holds values that are not numbers")
    if how.round8:
        sr = (sr.clamp(0, 1) * 255).round() / 255
    if how.border:
        cut = slice(how.border, -how.border)
        sr, hr = sr[..., cut, cut], hr[..., cut, cut]
    if 0 in sr.shape:
        raise InputError(f"{pair.name}: nothing is left after cutting {how.border} pixels from every side")
    sr, hr = sr.to(device), hr.to(device)
    row: dict[str, Any] = {"name": pair.name, "seconds": None if seconds is None else round(seconds, 4)}
    for name, (paired, measure) in measures.items():
        row[name] = None
        try:
            row[name] = _finite(measure(sr, hr) if paired else measure(sr))
        except InputError as error:
            notes.append(f"{pair.name}: {name} left out: {error}")
            _log.warning(notes[-1])
    return row


def _finite(score: Tensor) -> float:
    value = float(score)
    if not math.isfinite(value):
        raise InputError(f"the score is {value}")
    return value


def _aligned(name: str, sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    """HR cut at the bottom and on the right to SR: its sides need not be multiples of the scale."""
    height, width = sr.shape[-2:]
    missing = (hr.shape[-2] - height, hr.shape[-1] - width)
    if min(missing) < 0 or max(missing) > REMAINDER:
        raise InputError(
            f"{name}: the result is {width}x{height}, HR is {hr.shape[-1]}x{hr.shape[-2]}; sizes must agree"
        )
    return sr, hr[..., :height, :width]
