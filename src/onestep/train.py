"""The training journey: a recipe becomes a release file, by one loop that knows no method.

Read :func:`train_step` first: it turns the losses an objective yields into optimizer moves.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

import onestep
from onestep.checkpoint import Card, load, read, write
from onestep.core.config import to_dict
from onestep.core.contract import Loss, Objective, OneStepModel, Pair
from onestep.core.ema import Ema
from onestep.core.errors import OneStepError, UsageError
from onestep.data import Pairs, keyed
from onestep.degrade.presets import preset
from onestep.recipe import OptimizerConfig, Recipe, TrainConfig
from onestep.run_folder import RunFolder


class Interrupted(OneStepError):
    """The run was told to stop (Ctrl-C, SIGTERM); its state is saved."""


class Diverged(OneStepError):
    """A loss or a gradient is not a finite number; the last saved state is untouched."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Progress:
    """Where a run stands; what the progress callback gets after every step."""

    step: int
    steps: int
    seconds: float
    """Wall time of this step."""
    losses: Mapping[str, float]


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then constant or half a cosine."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = min(1.0, (step - config.warmup) / max(1, steps - 1 - config.warmup))
    return config.lr * (config.decay_to + (1 - config.decay_to) * 0.5 * (1 + math.cos(math.pi * done)))


def _all_reduce(parameters: Sequence[nn.Parameter], terms: Tensor, ranks: Ranks) -> Tensor:
    """Sum gradients and loss terms over ranks; a gradient that no rank has stays absent."""
    if ranks.count == 1:
        return terms
    has = terms.new_tensor([float(p.grad is not None) for p in parameters])
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([terms, has, *(grad.reshape(-1).to(terms.dtype) for grad in grads)])
    dist.all_reduce(flat)
    sizes = [len(terms), len(has), *(p.numel() for p in parameters)]
    summed, had, *parts = flat.split(sizes)
    for parameter, part, present in zip(parameters, parts, had.tolist(), strict=True):
        parameter.grad = part.reshape(parameter.shape).to(parameter.dtype) if present else None
    return summed


def _advance(
    walks: Sequence[Iterator[Loss]],
    groups: Mapping[str, list[nn.Parameter]],
    total: int,
    seed: Callable[[int], None],
    autocast: Callable[[], Any],
) -> tuple[str, dict[str, Tensor]] | None:
    """Take every micro-batch to its next yield and back-propagate it; the mean of each term, or None at the end."""
    means: dict[str, Tensor] = {}
    names: list[str | None] = []
    for index, walk in enumerate(walks):
        seed(index)
        with autocast():
            loss = next(walk, None)
        if not torch.is_grad_enabled():
            raise AssertionError("losses() yielded inside a block without gradients")
        names.append(loss.group if loss else None)
        if loss is None:
            continue
        if loss.group not in groups:
            raise UsageError(
                f"the objective yields a loss for group {loss.group}, which groups() does not have"
            )
        (loss.total.float() / total).backward()
        for name, term in loss.terms.items():
            part = term.detach().float() / total
            means[name] = means[name] + part if name in means else part
    if len(set(names)) != 1:
        raise UsageError(f"the micro-batches of one step disagree on the next move: {names}")
    return None if names[0] is None else (names[0], means)


def train_step(
    objective: Objective,
    optimizers: Mapping[str, Optimizer],
    micro: Sequence[Pair],
    step: int,
    *,
    config: TrainConfig,
    ranks: Ranks = Ranks(),
) -> dict[str, float]:
    """One step of any method: every yielded loss becomes one optimizer move.

    All micro-batches walk through ``objective.losses`` together: each goes to its next yield, is
    back-propagated at once, then the gradients of the yielded group are averaged over micro-batches and ranks,
    clipped, and its optimizer moves; the gradients of *all* groups are cleared after every move, or one move's
    loss would leak into the next one's network. Random numbers are seeded before each advance by (seed, step,
    micro-batch counted over all ranks, move), so that neither ranks nor interruptions change them.

    Args:
        objective: What is trained.
        optimizers: One per group.
        micro: This rank's micro-batches, equally large.
        step: Counted from 0.
        config: Seed, clipping and precision.
        ranks: Which of how many processes this is.

    Returns:
        Mean terms as "group/term" and gradient norms as "norm/group".

    Raises:
        Diverged: A loss or a gradient norm is not finite; the group has not moved.
        UsageError: The objective yields what its groups do not have.
    """
    device = micro[0].hr.device
    groups = objective.groups()
    walks = [objective.losses(pair, step) for pair in micro]
    first, total = ranks.index * len(micro), ranks.count * len(micro)
    log: dict[str, float] = {}

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")

    move = 0
    while True:

        def seed(index: int, move: int = move) -> None:
            torch.manual_seed(keyed("step", config.seed, step, first + index, move))

        advanced = _advance(walks, groups, total, seed, autocast)
        if advanced is None:
            return log
        group, means = advanced
        parameters = groups[group]
        values = _all_reduce(parameters, torch.stack(list(means.values())), ranks)
        norm = nn.utils.clip_grad_norm_(parameters, config.clip if config.clip is not None else math.inf)
        *terms, size = torch.cat([values, norm.detach().reshape(1).to(values)]).tolist()
        report = {f"{group}/{name}": value for name, value in zip(means, terms, strict=True)} | {
            f"norm/{group}": size
        }
        bad = [f"{name} = {value}" for name, value in report.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(
                f"step {step}: {bad[0]} is not finite; continue from the last state with a lower learning rate"
            )
        log |= {(f"{name}.{move}" if name in log else name): value for name, value in report.items()}
        optimizers[group].step()
        for parameter in (p for members in groups.values() for p in members):
            parameter.grad = None
        move += 1


def make_optimizers(objective: Objective, config: TrainConfig) -> dict[str, Optimizer]:
    """One optimizer per group, and no gradient for any parameter outside the groups.

    Raises:
        UsageError: A group without optimizer settings, or settings without a group.
    """
    groups = objective.groups()
    if groups.keys() != config.optimizers.keys():
        raise UsageError(
            f"train.optimizers has {sorted(config.optimizers)}, the objective has groups {sorted(groups)}"
        )
    trained = {id(p) for members in groups.values() for p in members}
    for parameter in objective.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    made: dict[str, Optimizer] = {}
    for name, members in groups.items():
        one = config.optimizers[name]
        made[name] = kinds[one.kind](
            members, lr=one.lr, betas=one.betas, eps=one.eps, weight_decay=one.weight_decay, fused=True
        )
    return made


def _kept(objective: Objective) -> dict[str, Tensor]:
    """What a state holds of the objective: trained parameters and buffers; frozen helpers are built again."""
    frozen = {n for n, p in objective.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in objective.state_dict().items() if name not in frozen}


class _Fit:
    """One run of the loop: what is trained, and where it stands."""

    def __init__(self, objective: Objective, config: TrainConfig, run: RunFolder, ranks: Ranks) -> None:
        self.objective, self.config, self.run, self.ranks = objective, config, run, ranks
        if config.batch % (ranks.count * self.micro_size):
            raise UsageError(
                f"train.batch={config.batch} is not a multiple of {ranks.count} ranks x train.micro={self.micro_size}"
            )
        self.optimizers = make_optimizers(objective, config)
        self.ema = None if config.ema is None else Ema(objective.groups()["model"], config.ema)
        self.step = 0

    @property
    def micro_size(self) -> int:
        return self.config.micro or max(1, self.config.batch // self.ranks.count)

    def positions(self) -> Iterator[list[int]]:
        """Positions of each micro-batch of this rank, from the current step to the last."""
        per_rank = self.config.batch // self.micro_size // self.ranks.count
        for step in range(self.step, self.config.steps):
            for index in range(self.ranks.index * per_rank, (self.ranks.index + 1) * per_rank):
                start = step * self.config.batch + index * self.micro_size
                yield list(range(start, start + self.micro_size))

    def save(self) -> None:
        self.run.save(
            self.step,
            {
                "step": self.step,
                "objective": _kept(self.objective),
                "optimizers": {name: one.state_dict()["state"] for name, one in self.optimizers.items()},
                "ema": self.ema.state() if self.ema else None,
            },
        )

    def resume(self) -> None:
        state = self.run.resume()
        if state is None:
            return
        found = self.objective.load_state_dict(state["objective"], strict=False)
        missing = set(found.missing_keys) & _kept(self.objective).keys()
        if missing or found.unexpected_keys:
            name = next(iter([*missing, *found.unexpected_keys]))
            raise UsageError(
                f"{self.run.path}: the state does not fit the objective ({name}); choose another folder"
            )
        for name, one in self.optimizers.items():
            fresh = one.state_dict()["param_groups"]
            one.load_state_dict({"state": state["optimizers"][name], "param_groups": fresh})
        if self.ema and state["ema"]:
            self.ema.restore(state["ema"]["updates"], state["ema"]["shadow"])
        self.step = int(state["step"])

    def one(self, micro: Sequence[Pair]) -> dict[str, float]:
        """One step: learning rates, moves, average."""
        rates: dict[str, float] = {}
        for name, optimizer in self.optimizers.items():
            rates[f"lr/{name}"] = learning_rate(self.config.optimizers[name], self.step, self.config.steps)
            for group in optimizer.param_groups:
                group["lr"] = rates[f"lr/{name}"]
        losses = train_step(
            self.objective, self.optimizers, micro, self.step, config=self.config, ranks=self.ranks
        )
        if self.ema:
            self.ema.update()
        self.step += 1
        return losses | rates

    @contextmanager
    def shipped(self) -> Iterator[OneStepModel]:
        """The model as it would ship: averaged, in evaluation mode."""
        model = self.objective.model
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            if self.ema:
                with self.ema.applied():
                    yield model
            else:
                yield model
        finally:
            for module in training:
                module.training = True


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM for the length of a ``with``, so that a step is finished first."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {
        s: signal.signal(s, lambda number, _: received.append(number))
        for s in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agreed(stop: bool, ranks: Ranks, device: torch.device) -> bool:
    """Whether any rank wants to stop: all ranks must leave the loop at the same step."""
    if ranks.count == 1:
        return stop
    flag = torch.tensor([float(stop)], device=device)
    dist.all_reduce(flag)
    return bool(flag.item())


def fit(
    objective: Objective,
    pairs: Pairs,
    config: TrainConfig,
    run: RunFolder,
    look: Callable[[OneStepModel, int, bool], None] | None = None,
    *,
    look_every: int = 0,
    ranks: Ranks = Ranks(),
    deadline: float = math.inf,
    progress: Callable[[Progress], None] | None = None,
) -> int:
    """Train until the last step, the deadline or a signal; continue from the newest state of the folder.

    Args:
        objective: On its device already.
        pairs: Training pairs by position, values in [0, 1].
        config: The loop's settings.
        run: Where states and the log go.
        look: Called with (the averaged model, step, whether this is the last time) by rank 0, every
            ``look_every`` steps and at the end.
        look_every: Steps between two looks; 0 looks only at the end.
        ranks: Which of how many processes this is.
        deadline: ``time.monotonic()`` after which the run stops cleanly.
        progress: Called after every step.

    Returns:
        The step reached.

    Raises:
        Interrupted: By SIGINT or SIGTERM, after the state was saved.
        Diverged: As :func:`train_step`.
        UsageError: Batch, ranks and micro-batches do not divide, or the state does not fit.
    """
    state = _Fit(objective, config, run, ranks)
    state.resume()
    objective.train()
    device = next(objective.parameters()).device
    batches = (
        pairs.batches(state.positions(), pin=device.type != "cpu") if state.step < config.steps else iter(())
    )
    stopping = False
    with _stop_signals() as signals:
        sums: dict[str, float] = {}
        since = state.step
        while state.step < config.steps and not stopping:
            start = time.monotonic()
            micro = [
                _pair(*next(batches), device, config.channels_last)
                for _ in range(config.batch // state.micro_size // ranks.count)
            ]
            waited = time.monotonic() - start
            losses = state.one(micro)
            seconds = time.monotonic() - start
            for name, value in (losses | {"seconds": seconds, "seconds_waiting": waited}).items():
                sums[name] = sums.get(name, 0.0) + value
            stopping = _agreed(bool(signals) or time.monotonic() > deadline, ranks, device)
            last = stopping or state.step == config.steps
            if last or state.step % config.log_every == 0:
                run.log(state.step, {name: value / (state.step - since) for name, value in sums.items()})
                sums, since = {}, state.step
            if last or state.step % config.save_every == 0:
                state.save()
            if look and not last and look_every and state.step % look_every == 0 and not ranks.index:
                with state.shipped() as model:
                    look(model, state.step, False)
            if progress:
                progress(Progress(state.step, config.steps, seconds, losses))
        if signals:
            raise Interrupted(
                f"stopped at step {state.step}, state saved in {run.path}; run the same command to continue"
            )
        if look and not ranks.index:
            with state.shipped() as model:
                look(model, state.step, True)
    return state.step


def _pair(lr: Tensor, hr: Tensor, device: torch.device, channels_last: bool) -> Pair:
    """A batch on its device, from [0, 1] to [-1, 1]."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    lr, hr = (x.to(device, non_blocking=True, memory_format=layout) * 2 - 1 for x in (lr, hr))
    return Pair(lr, hr)


def _join() -> Ranks:
    """Join the processes that torchrun started; alone when it did not."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Ranks(dist.get_rank(), count) if count > 1 else Ranks()


def _device(name: str) -> torch.device:
    """The named device; "auto" is the accelerator of this rank, or the CPU."""
    if name != "auto":
        return torch.device(name)
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return torch.get_default_device()
    torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(found.type, torch.accelerator.current_device_index())


def _release(recipe: Recipe, model: OneStepModel, step: int, path: Path, scores: Mapping[str, Any]) -> None:
    """Write the release file of a model."""
    card = Card(
        name=recipe.name,
        method=recipe.method,
        config=to_dict(getattr(model, "config", {})),
        traits=asdict(model.traits),
        step=step,
        license=recipe.card.license,
        recipe=to_dict(recipe),
        version=onestep.__version__,
        scores=dict(scores),
        limits=list(recipe.card.limits),
        attributions=list(recipe.card.attributions),
        defaults=dict(recipe.card.defaults),
    )
    write(path, model.state_dict(), card, half=recipe.card.half)


def train(
    recipe: Recipe,
    folder: Path,
    *,
    init: Path | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
    replace: bool = False,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Path:
    """Train a recipe, or continue it: the same call again picks up where the folder stands.

    Args:
        recipe: What to train.
        folder: The run folder; made when missing.
        init: Release file whose weights the model starts from; a folder that has a state needs it no more.
        max_minutes: Stop cleanly after this long, state and release file saved.
        device: "auto", or a torch device name.
        replace: Continue a folder that belongs to another recipe.
        progress: Called after every step.
        notice: Called with one-line remarks.

    Returns:
        The release file.

    Raises:
        UsageError: The recipe does not fit the folder, the data or the number of ranks.
        Interrupted: By SIGINT or SIGTERM, after the state was saved.
        Diverged: As :func:`train_step`.
    """
    started = time.monotonic()
    ranks = _join()
    run = RunFolder(folder, writes=ranks.index == 0)
    run.settle(to_dict(recipe), replace=replace)
    torch.manual_seed(keyed("init", recipe.train.seed))
    objective = recipe.objective.build()
    if init is not None and not run.states():
        load(objective.model, read(init)[0], init)
    objective.to(_device(device))
    if recipe.train.channels_last:
        objective.to(memory_format=torch.channels_last)
    pairs = Pairs(recipe.data, preset(recipe.degradation, recipe.data.scale), recipe.train.seed)
    if not run.open_board() and notice:
        notice("tensorboard is not installed, so only log.jsonl is written (pip install tensorboard)")

    def look(model: OneStepModel, step: int, last: bool) -> None:
        _release(recipe, model, step, run.release(step), {})

    try:
        step = fit(
            objective,
            pairs,
            recipe.train,
            run,
            look,
            look_every=recipe.check.every,
            ranks=ranks,
            deadline=math.inf if max_minutes is None else started + 60 * max_minutes,
            progress=progress,
        )
    finally:
        run.close()
    return run.release(step)
