"""The loop: steps, learning rates, average, states, log; it stops cleanly and continues exactly."""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from onestep.core.contract import Objective, OneStepModel, Pair
from onestep.core.errors import OneStepError
from onestep.data import Pairs
from onestep.recipe import TrainConfig
from onestep.train.run_folder import RunFolder
from onestep.train.state import Training
from onestep.train.step import ALONE, Ranks

Look = Callable[[OneStepModel, int], None]
"""Called with the model as it would ship, and the step."""


class StoppedError(OneStepError):
    """The run was told to stop (Ctrl-C, SIGTERM); its state is saved."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands; what the progress callback gets after every step."""

    step: int
    """Steps done."""
    steps: int
    seconds: float
    """Wall time of this step."""
    losses: Mapping[str, float]
    """What the log gets: terms as "group/term", "norm/group", "lr/group", "seconds", "seconds_waiting"."""


def fit(
    objective: Objective,
    pairs: Pairs,
    config: TrainConfig,
    run: RunFolder,
    look: Look | None = None,
    *,
    look_every: int = 0,
    ranks: Ranks = ALONE,
    deadline: float = math.inf,
    progress: Callable[[Progress], None] | None = None,
) -> int:
    """Train until the last step, the deadline or a signal; continue from the newest state of the folder.

    Args:
        objective: On its device already.
        pairs: Training pairs by position, values in [0, 1].
        config: The loop's settings.
        run: Where states and the log go.
        look: Called by rank 0 with the averaged model in evaluation mode, without gradients.
        look_every: Steps between two looks; there is always one at the end, and with 0 no other.
        ranks: Which of how many processes this is.
        deadline: ``time.monotonic()`` after which the run stops cleanly; one step is always made.
        progress: Called by rank 0 after every step.

    Returns:
        The step reached.

    Raises:
        StoppedError: By SIGINT or SIGTERM, after the state was saved.
        DivergedError: As :func:`onestep.train.step.train_step`.
        UsageError: The batch cannot be divided so, or the state does not fit.
    """
    training = _resumed(objective, config, run, ranks)
    device = next(objective.parameters()).device
    log = _Log(run, training.step)
    look, progress = (look, progress) if ranks.index == 0 else (None, None)
    batches = pairs.batches(training.positions(), pin=device.type != "cpu")
    stopping = training.step >= config.steps
    with _stop_signals() as signals:
        while not stopping:
            values = _step(training, batches, device)
            log.add(values)
            due = training.step == config.steps or bool(signals) or time.monotonic() > deadline
            stopping = _any_rank(due, ranks, device)
            if stopping or training.step % config.log_every == 0:
                log.write(training.step)
            if stopping or training.step % config.save_every == 0:
                run.save(training.step, training.state())
            if not stopping and look_every and training.step % look_every == 0:
                _show(training, look)
            if progress:
                progress(Progress(training.step, config.steps, values["seconds"], values))
    if signals:
        raise StoppedError(
            f"stopped at step {training.step}, saved in {run.path}; the same command continues"
        )
    _show(training, look)
    _any_rank(False, ranks, device)  # nobody leaves before the first rank has written
    return training.step


def _resumed(objective: Objective, config: TrainConfig, run: RunFolder, ranks: Ranks) -> Training:
    training = Training(objective, config, ranks)
    if state := run.resume():
        training.restore(state)
    objective.train()
    return training


def _show(training: Training, look: Look | None) -> None:
    if look:
        with training.shipped() as model, torch.no_grad():
            look(model, training.step)


def _step(
    training: Training, batches: Iterator[tuple[Tensor, Tensor]], device: torch.device
) -> dict[str, float]:
    """One step: losses, norms, learning rates, seconds it took and seconds of them it waited for data."""
    started = time.monotonic()
    layout = training.config.channels_last
    micro = [_pair(*next(batches), device, layout) for _ in range(training.count)]
    waited = time.monotonic() - started
    losses = training.advance(micro)
    return {**losses, "seconds": time.monotonic() - started, "seconds_waiting": waited}


class _Log:
    """Means of everything since the last line of the log."""

    def __init__(self, run: RunFolder, step: int) -> None:
        self.run, self.since = run, step
        self.sums: dict[str, float] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def write(self, step: int) -> None:
        self.run.log(step, {name: value / (step - self.since) for name, value in self.sums.items()})
        self.since, self.sums = step, {}


def _pair(lr: Tensor, hr: Tensor, device: torch.device, channels_last: bool) -> Pair:
    """A batch on its device, from [0, 1] to [-1, 1]."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    lr, hr = (x.to(device, non_blocking=True, memory_format=layout) * 2 - 1 for x in (lr, hr))
    return Pair(lr, hr)


@contextmanager
def _stop_signals() -> Generator[list[int]]:
    """Collect SIGINT and SIGTERM for the length of a ``with``, so that a step is finished first.

    A second Ctrl-C does not wait.
    """
    received: list[int] = []

    def collect(number: int, frame: object) -> None:
        del frame
        if number in received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    stops = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, collect) for number in stops}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _any_rank(stop: bool, ranks: Ranks, device: torch.device) -> bool:
    """Whether any rank wants to stop: all must leave the loop at the same step."""
    if ranks.count == 1:
        return stop
    flag = torch.tensor([float(stop)], device=device)
    dist.all_reduce(flag)
    return bool(flag.item())
