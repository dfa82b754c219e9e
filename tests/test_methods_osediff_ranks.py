"""Two processes train the fake score together, which the published code does not."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

pytest.importorskip("diffusers")

from onestep.core.contract import Pair
from onestep.methods.osediff import OsediffConfig, OsediffTraining
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train.state import Training
from onestep.train.step import ALONE, Ranks
from prior_parts import TINY, shaken


def pair(index: int) -> Pair:
    generator = torch.Generator().manual_seed(index)
    return Pair(*(torch.rand(1, 3, side, side, generator=generator) * 2 - 1 for side in (4, 16)))


def moved(ranks: Ranks) -> dict[str, torch.Tensor]:
    """What both groups are after two steps; the pictures are divided among the ranks."""
    torch.manual_seed(0)
    made = OsediffTraining(
        OsediffConfig(base="tiny", prior=TINY), perceptual=0.0, prompt="a", negative="b"
    ).build()
    shaken(made.model.prior.parameters_of("generator"), by=0.02)
    moves = OptimizerConfig(lr=1e-3, kind="adamw")
    config = TrainConfig(
        steps=2,
        batch=2,
        micro=1,
        optimizers=dict.fromkeys(made.groups(), moves),
        ema=None,
        precision="float32",
        channels_last=False,
    )
    training = Training(made, config, ranks)
    made.train()
    for positions in zip(*[iter(training.positions())] * training.count, strict=True):
        training.advance([pair(position[0]) for position in positions])
    groups = made.groups()
    return {name: torch.cat([p.detach().flatten() for p in members]) for name, members in groups.items()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(moved(Ranks(rank, 2)), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_both_groups_move_alike_on_all_ranks_and_as_in_one_process(tmp_path: Path):
    mp.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = moved(ALONE)
    for group in ("model", "fake"):
        assert torch.equal(first[group], second[group])
        assert torch.allclose(first[group], alone[group], atol=1e-6)
