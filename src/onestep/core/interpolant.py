"""Between a clean image and its source: the path that flows and diffusions walk.

House time: t = 0 is clean, t = 1 is the source.
"""

from abc import ABC, abstractmethod

from torch import Tensor


def like(t: Tensor, x: Tensor) -> Tensor:
    """Append axes to a time (B,), so that it broadcasts over x (B, C, H, W); a map (B, 1, H, W) is kept."""
    return t if t.ndim == x.ndim else t.reshape(-1, *[1] * (x.ndim - 1))


class Interpolant(ABC):
    """x_t = alpha(t) * x + beta(t) * z, and what a network's prediction says about x."""

    @abstractmethod
    def at(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The point at time t, shape of x (B, C, H, W); t is (B,) in [0, 1]."""

    @abstractmethod
    def clean(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean estimate that a prediction at (x_t, t) amounts to: the common currency of all methods."""


class Straight(Interpolant):
    """alpha = 1 - t, beta = t; the network predicts the velocity dx_t/dt = z - x (OFTSR 1.1; CTMSR 1.2)."""

    def at(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """(1 - t) x + t z."""
        t = like(t, x)
        return (1 - t) * x + t * z

    def clean(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """x_t - t v."""
        return x_t - like(t, x_t) * prediction


def source_vp(lr_up: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """The variance-preserving source sqrt(1 - sigma^2) y + sigma e (OFTSR, section 3.1 of the paper)."""
    return (1 - sigma**2) ** 0.5 * lr_up + sigma * noise
