"""One training step of any method: every loss that an objective yields becomes one optimizer move."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from onestep.core.contract import Loss, Objective, Pair
from onestep.core.errors import OneStepError, UsageError
from onestep.data import keyed
from onestep.recipe import TrainConfig


class DivergedError(OneStepError):
    """A loss or a gradient is not a finite number; the last saved state is untouched."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    index: int = 0
    count: int = 1


ALONE = Ranks()
"""The only process."""


def train_step(
    objective: Objective,
    optimizers: Mapping[str, Optimizer],
    micro: Sequence[Pair],
    step: int,
    *,
    config: TrainConfig,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Walk one step of the objective, moving a group at every loss it yields.

    All micro-batches walk through ``objective.losses`` together: each goes to its next yield and is
    back-propagated at once; then the gradients of the yielded group are averaged over micro-batches and
    ranks, clipped, and its optimizer moves. The gradients of *all* groups are cleared after every move, or
    one move's loss would leak into the next one's network. Random numbers are seeded before each advance by
    (seed, step, micro-batch counted over all ranks, move), so that neither ranks nor a resumed run change
    them.

    Args:
        objective: What is trained.
        optimizers: One per group, learning rates set.
        micro: This rank's micro-batches, equally large.
        step: Counted from 0.
        config: Seed, clipping and precision.
        ranks: Which of how many processes this is.

    Returns:
        Mean terms as "group/term" and gradient norms (before clipping) as "norm/group"; when a group moves
        again, its later values carry the number of the move, as in "norm/group.2".

    Raises:
        DivergedError: A loss or a gradient norm is not finite; the group has not moved.
        UsageError: The objective yields what its groups do not have.
    """
    groups = objective.groups()
    everything = [parameter for members in groups.values() for parameter in members]
    walks = [objective.losses(pair, step) for pair in micro]
    log: dict[str, float] = {}
    move = 0
    while (loss := _advance(walks, micro, step, move, config, ranks)) is not None:
        if loss.group not in groups:
            raise UsageError(f"the objective moves group {loss.group!r}; its groups are {', '.join(groups)}")
        members = groups[loss.group]
        terms = _average(members, torch.stack(list(loss.terms.values())), ranks)
        norm = nn.utils.clip_grad_norm_(members, math.inf if config.clip is None else config.clip)
        values = torch.cat([terms, norm.detach().reshape(1).to(terms)]).tolist()
        names = [*(f"{loss.group}/{name}" for name in loss.terms), f"norm/{loss.group}"]
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise DivergedError(
                    f"step {step}: {name} is {value}; the last saved state is kept: lower the learning rate"
                )
            log[f"{name}.{move}" if name in log else name] = value
        optimizers[loss.group].step()
        for parameter in everything:
            parameter.grad = None
        move += 1
    return log


def _advance(
    walks: Sequence[Iterator[Loss]],
    micro: Sequence[Pair],
    step: int,
    move: int,
    config: TrainConfig,
    ranks: Ranks,
) -> Loss | None:
    """Take every micro-batch to its next yield and back-propagate it there.

    Returns:
        The move with this rank's share of the mean terms, detached; None when the objective is done.
    """
    device, total = micro[0].hr.device, ranks.count * len(micro)
    shares: dict[str, Tensor] = {}
    moves: set[str | None] = set()
    for index, walk in enumerate(walks):
        torch.manual_seed(keyed("step", config.seed, step, ranks.index * len(micro) + index, move))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = next(walk, None)
        if not torch.is_grad_enabled():
            raise UsageError("losses() yielded inside a block without gradients; yield after the block")
        moves.add(loss.group if loss else None)
        if loss is not None:
            (loss.total.float() / total).backward()
            for name, term in loss.terms.items():
                share = term.detach().float() / total
                shares[name] = shares[name] + share if name in shares else share
    if len(moves) > 1:
        raise UsageError(f"the micro-batches of step {step} disagree on move {move}: {moves}")
    group = moves.pop()
    return None if group is None else Loss(group, shares)


def _average(members: Sequence[nn.Parameter], terms: Tensor, ranks: Ranks) -> Tensor:
    """Sum the shares of all ranks, gradients in place; a gradient that no rank has stays absent.

    The terms travel with the gradients, so that all ranks see the same values and stop together.
    """
    if ranks.count == 1:
        return terms
    has = terms.new_tensor([float(member.grad is not None) for member in members])
    grads = [torch.zeros_like(member) if member.grad is None else member.grad for member in members]
    flat = torch.cat([terms, has, *(grad.reshape(-1).to(terms) for grad in grads)])
    dist.all_reduce(flat)
    summed, had, *parts = flat.split([len(terms), len(has), *(member.numel() for member in members)])
    for member, part, present in zip(members, parts, had.tolist(), strict=True):
        # In the memory layout of the parameter: fused optimizers walk both side by side.
        member.grad = torch.empty_like(member).copy_(part.reshape(member.shape)) if present else None
    return summed
