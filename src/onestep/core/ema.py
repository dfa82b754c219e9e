"""Exponential moving average of trained parameters, with the usual ramp at the start."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """A float copy of some parameters that follows them slowly.

    After n updates the decay is ``min(decay, (1 + n) / (10 + n))``, so that an average that has seen little
    does not cling to where it started (the ramp of OFTSR 1.4 and of most diffusion trainers).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        """Start from the parameters as they are.

        Args:
            parameters: What to follow; the order identifies them in the state.
            decay: Share of the old average kept per update once the ramp is over, in [0, 1).
        """
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.shadow = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average one step towards the parameters."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live: list[Tensor] = [parameter.detach() for parameter in self.parameters]
        get_ema_multi_avg_fn(decay)(tuple(self.shadow), tuple(live), self.updates)
        self.updates += 1

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Generator[None]:
        """Put the average in place of the parameters for the length of a ``with``, then put them back."""
        live = [parameter.detach().clone() for parameter in self.parameters]
        self._assign(self.shadow)
        try:
            yield
        finally:
            self._assign(live)

    def state(self) -> dict[str, int | list[Tensor]]:
        """What a resumed run needs: number of updates and the averages."""
        return {"updates": self.updates, "shadow": self.shadow}

    @torch.no_grad()
    def restore(self, updates: int, shadow: Sequence[Tensor]) -> None:
        """Continue from what :meth:`state` returned."""
        self.updates = updates
        for mine, theirs in zip(self.shadow, shadow, strict=True):
            mine.copy_(theirs)

    def _assign(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.detach().copy_(value)
