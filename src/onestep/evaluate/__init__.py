"""The evaluation journey: pairs of pictures become a report that names its protocol.

One picture at a time: restored (or read), rounded as a saved file is, scored against its HR partner, dropped.
A pair that cannot be scored costs one line in the report, and the rest is still scored.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import MappingProxyType
from typing import Final

import torch

from onestep.core.errors import InputError
from onestep.evaluate.candidates import Candidate, Degrade, Restored, Shown, Viewer, of_model, renamed
from onestep.evaluate.files import Surroundings, write
from onestep.evaluate.journal import Journal
from onestep.evaluate.pairs import Pair, degraded, finished, restored
from onestep.evaluate.protocols import PROTOCOLS, EvalProtocol, protocol
from onestep.evaluate.report import Difference, Entrant, Report, Row, Score, joined
from onestep.evaluate.run import Run
from onestep.evaluate.score import Scorer, require
from onestep.evaluate.work import outcomes
from onestep.metrics import METRICS

__all__ = [
    "FINISHED",
    "PROTOCOLS",
    "Candidate",
    "Difference",
    "Entrant",
    "EvalProtocol",
    "Pair",
    "Report",
    "Restored",
    "Row",
    "Score",
    "Shown",
    "Surroundings",
    "Viewer",
    "degraded",
    "evaluate",
    "finished",
    "joined",
    "of_model",
    "protocol",
    "restored",
    "write",
]

FINISHED: Final = Candidate()
"""Pictures that are finished."""
_USUAL_SCALE = 4
_GUESS = f"the factor is not known and taken as {_USUAL_SCALE}, for the border; --scale says otherwise"

Progress = Callable[[float, str], None]
"""(finished share in [0, 1], name of the picture)."""


def evaluate(
    pairs: Sequence[Pair],
    metrics: Sequence[str] | None = None,
    how: EvalProtocol = PROTOCOLS["full"],
    *,
    candidates: Sequence[Candidate] = (FINISHED,),
    degrade: Degrade | None = None,
    device: torch.device | str = "cpu",
    workers: int = 1,
    journal: Journal | None = None,
    failed: Mapping[str, str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> Report:
    """Score pairs, once per candidate.

    Memory holds a few pictures at a time, and the rows. Models restore in this process, one picture after the
    other; scores are taken here or by ``workers``, and are the same bits either way.

    Args:
        pairs: What to score, in order.
        metrics: Names of ``onestep.metrics``; None: those of the protocol. One whose weights cannot be had is
            skipped and said so.
        how: The protocol.
        candidates: Who is scored: finished pictures, or models.
        degrade: Makes LR from HR for pairs without LR.
        device: Where metrics with networks run.
        workers: Processes that score. A script that asks for more than one must guard its top level with
            ``if __name__ == "__main__"``.
        journal: Keeps what was scored, so that a run that was stopped goes on; None: nothing is kept.
        failed: Pictures that are known not to be scorable, and why.
        progress: Called before every picture.

    Raises:
        UsageError: An unknown metric, one that needs what there is not, or options that a model refuses.
        InputError: None of the metrics can be had.
    """
    start = time.perf_counter()
    names = tuple(dict.fromkeys(how.metrics if metrics is None else metrics))
    unknown = [name for name in names if metrics is None and name not in METRICS]
    names = tuple(name for name in names if name not in unknown)
    restores = any(one.restore is not None for one in candidates)
    small = restores or all(pair.lr is not None for pair in pairs)
    require(names, lr=small, tiles=restores)
    scale = next((one.scale for one in candidates if one.scale), None)
    how = how.at(scale) if how.scale is None and scale else how
    guess = [] if how.scale or not how.border_is_scale else [_GUESS]
    how = how.at(_USUAL_SCALE) if guess else how
    scorer = Scorer(names, how, str(device))
    if not scorer.measures and not scorer.sets:
        raise InputError("; ".join(f"{name} left out: {why}" for name, why in scorer.skipped.items()))
    scorer.skipped |= dict.fromkeys(unknown, "this version does not have it")
    run = Run(pairs, tuple(renamed(candidates)), scorer, degrade, journal, progress)
    with closing(outcomes(run.tasks(), scorer, workers)) as found:
        for job, outcome in found:
            run.take(job, outcome)
    entrants = run.entrants(failed, guess)
    for entrant in entrants:
        entrant.seconds, entrant.workers = round(time.perf_counter() - start, 3), workers
    return Report(how, entrants)
