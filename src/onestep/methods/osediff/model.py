"""OSEDiff, the model: a text-to-image prior, adapted at low rank, restores an encoded LR image in one step.

Paper: "One-Step Effective Diffusion Network for Real-World Image Super-Resolution" (arXiv 2406.08177).
Sections are those of docs/methods/osediff.md. With x_L the LR image at HR size, E and D the VAE, c the
embedding of a prompt, T = 999:

    z_L = E(x_L)                                       a posterior sample, scaled; E carries adapters
    e   = eps(z_L, T, c)                               the U-Net carries adapters and a conv_in of its own
    z   = (z_L - sqrt(1 - abar_T) e) / sqrt(abar_T)    in float32; no noise is ever added
    x   = clamp(D(z), -1, 1)

Deviations from the paper and the official code: docs/methods/osediff.md, section 9.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from onestep.core.config import at_least
from onestep.core.contract import ColorFix, Condition, OneStepModel, Traits
from onestep.core.picture import Picture
from onestep.core.resize import resize
from onestep.methods.osediff import prompts
from onestep.networks import prior_folders
from onestep.networks.diffusion_prior import DiffusionPrior
from onestep.networks.latent_tiling import tiled
from onestep.networks.prior_config import PriorConfig

GENERATOR = "generator"
"""The role that ships."""


@dataclass(frozen=True)
class OsediffConfig:
    """A generator on a base (method "osediff")."""

    base: str = "sd-2.1-base"
    """Name of the base, or its folder; a release file then holds what was trained, and not the base."""
    prior: PriorConfig | None = None
    """Shape of a prior that is part of the release file; ``base`` is then only a name."""
    scale: int = 4
    rank_unet: int = 4
    rank_vae: int = 4
    color: ColorFix = "adain"

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: One line that names the field.
        """
        at_least(self, ("scale", "rank_unet", "rank_vae"))

    def build(self) -> "Osediff":
        """With fresh adapters on the base, which is loaded, or has fresh weights where it is part of this.

        Raises:
            UsageError: The base is not there or of another kind.
            InputError: The base cannot be read.
        """
        return Osediff(self, prior_folders.load(self.base, self.prior))

    def outline(self) -> "Osediff":
        """The same without numbers, on the device "meta": for counting."""
        prior = prior_folders.outline(self.base, self.prior)
        with torch.device("meta"):
            return Osediff(self, prior)


@dataclass(frozen=True)
class OsediffOptions:
    """Knobs of the model."""

    prompt: str | Callable[[Picture], str] = ""
    """What is on the picture; in Python also a function that looks at it and says so."""
    tagger: Literal["auto", "none"] = "auto"
    """auto: names of things are put before the prompt where a tagger is on this machine."""
    posterior: Literal["sample", "mean"] = "sample"
    """What of the encoder's distribution is restored: a sample, as published (of the seed), or its mean."""
    merge: bool = True
    """Fold the adapters into the weights at the first picture: faster, and the model cannot be trained."""


class Osediff(OneStepModel):
    """The one-step generator."""

    Options = OsediffOptions

    def __init__(self, config: OsediffConfig, prior: DiffusionPrior) -> None:
        """Add the adapters to a prior."""
        super().__init__()
        self.config = replace(config, base=Path(config.base).name)
        self.prior = prior
        prior.add_role(GENERATOR, config.rank_unet, vae_rank=config.rank_vae, prefix="default", full=True)
        prior.ships = GENERATOR
        self.time = len(prior.abar) - 1
        self.latent_tile = 3 * prior.sample // 2
        """Side in latents above which the U-Net sees tiles; 96 for Stable Diffusion 2.1-base."""
        self.latent_overlap = prior.sample // 2
        native = prior.sample * prior.factor
        self.traits = Traits(
            config.scale,
            multiple_of=prior.factor // math.gcd(prior.factor, config.scale),
            minimum=-(-native // config.scale),
            tile=max(2048, 2 * native) // config.scale,
            overlap=128 // config.scale,
            color=config.color,
        )

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """Of a latent: noise is what the posterior's sample is drawn with."""
        return self.prior.latent_shape(lr, self.config.scale)

    def layer_bytes(self, dtype: torch.dtype) -> float:
        """Bytes per LR pixel: three of the VAE's largest feature maps, at HR size."""
        return 3 * self.prior.widest * dtype.itemsize * self.config.scale**2

    def condition(self, lr: Tensor, options: OsediffOptions) -> Condition:
        """{"text": (B, 77, C), "spread": (B, 1, 1, 1)}; folds the adapters where wanted and possible."""
        training = any(parameter.requires_grad for parameter in self.prior.parameters_of(GENERATOR))
        if options.merge and not training and self.prior.settled is None:
            low = torch.is_autocast_enabled(lr.device.type)
            self.prior.settle(GENERATOR, torch.get_autocast_dtype(lr.device.type) if low else None)
        texts = [self.text_of(image, options) for image in lr]
        spread = lr.new_full((len(lr), 1, 1, 1), float(options.posterior == "sample"))
        return {"text": self.prior.text.embed(texts).to(lr.device), "spread": spread}

    def text_of(self, image: Tensor, options: OsediffOptions) -> str:
        """The prompt for one image (3, h, w) in [-1, 1]."""
        if callable(options.prompt):
            return options.prompt(prompts.picture_of(image))
        tagger = prompts.installed_tagger() if options.tagger == "auto" else None
        tags = tagger.tags(prompts.picture_of(image)) if tagger else []
        return prompts.shortened(tags, options.prompt, self.prior.text.fits)

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, 3, h * scale, w * scale) in [-1, 1]."""
        size = (lr.shape[-2] * self.config.scale, lr.shape[-1] * self.config.scale)
        lr_up = resize(lr.float(), size).clamp(-1, 1)
        _, image = self.restore(lr_up, noise * condition["spread"], condition["text"])
        return image

    def restore(self, lr_up: Tensor, noise: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """The latent (B, 4, H / 8, W / 8), float32 and scaled, and its image (B, 3, H, W) in [-1, 1].

        Args:
            lr_up: x_L, (B, 3, H, W) in [-1, 1].
            noise: Standard normal, of the latent's shape; zeros give the mean of the posterior.
            text: (B, 77, C).
        """
        with self.prior.using(GENERATOR):
            latent = self.prior.encode(lr_up, noise)

            def epsilon(piece: Tensor) -> Tensor:
                return self.prior.epsilon(piece, self.time, text)

            eps = tiled(epsilon, latent, self.latent_tile, self.latent_overlap)
        clean = self.prior.clean(latent, eps, self.time)
        return clean, self.prior.decode(clean).float().clamp(-1, 1)
