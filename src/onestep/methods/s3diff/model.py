"""S3Diff, the model: the degradation of an image steers the adapters of a text-to-image prior, in one step.

Paper: "Degradation-Guided One-Step Image Super-Resolution with Diffusion Priors" (arXiv 2409.17058). Sections
are those of docs/methods/s3diff.md. With y the LR image, x_L the same at HR size, E and D the VAE, T = 999:

    d   = (blur, noise) of y, and M = gates(d)         matrices of the adapters of E and of the U-Net
    z_L = E(x_L)                                       a sample of the posterior, scaled
    e   = e_neg + g (e_pos - e_neg)                    the U-Net with two fixed prompts, g = 1.07
    z   = (z_L - sqrt(1 - abar_T) e) / sqrt(abar_T)    in float32; no noise is ever added
    x   = clamp(D(z), -1, 1)

Deviations from the paper and the official code: docs/methods/s3diff.md.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.core.config import at_least
from onestep.core.contract import ColorFix, Condition, OneStepModel, Traits
from onestep.methods.s3diff.options import S3diffOptions
from onestep.networks import prior_folders
from onestep.networks.adapters import Adapters
from onestep.networks.degradation_estimator import DegradationEstimator, EstimatorConfig
from onestep.networks.diffusion_prior import DiffusionPrior, library
from onestep.networks.gates import Gates, Gating, Matrices, unet_block, unet_targets, vae_block, vae_targets
from onestep.networks.latent_tiling import tiled
from onestep.networks.prior_config import PriorConfig

GENERATOR = "generator"
"""The role that ships."""
POSITIVE = (
    "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
)
"""What every picture is said to be (section 3; the spelling counts)."""
NEGATIVE = "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth"
"""What guidance moves away from, and what a part of the training pairs is said to be."""

Up = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class S3diffConfig:
    """A generator on a base (method "s3diff")."""

    base: str = "sd-turbo"
    """Name of the base, or its folder; a release file then holds what was trained, and not the base."""
    prior: PriorConfig | None = None
    """Shape of a prior that is part of the release file; ``base`` is then only a name."""
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Shape of the degradation estimator, which is part of the release file."""
    scale: int = 4
    rank_unet: int = 32
    rank_vae: int = 16
    gated: bool = True
    """Whether the degradation steers the adapters; plain adapters are for comparison."""
    up: Up = "bilinear"
    """How LR images come to HR size; bicubic was used in training, and by the first release."""
    color: ColorFix = "wavelet"
    prompt: str = POSITIVE
    negative: str = NEGATIVE

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: One line that names the field.
        """
        at_least(self, ("scale", "rank_unet", "rank_vae"))

    def build(self) -> "S3diff":
        """With fresh adapters, gates and estimator on the base, which is loaded, or fresh where it is part.

        Raises:
            UsageError: The base is not there or of another kind.
            InputError: The base cannot be read.
        """
        return S3diff(self, prior_folders.load(self.base, self.prior))

    def outline(self) -> "S3diff":
        """The same without numbers, on the device "meta": for counting."""
        prior = prior_folders.outline(self.base, self.prior)
        with torch.device("meta"):
            return S3diff(self, prior)


class S3diff(OneStepModel):
    """The one-step generator."""

    Options = S3diffOptions
    decides_on_padded = False  # the estimator was trained on pictures as they are

    def __init__(self, config: S3diffConfig, prior: DiffusionPrior) -> None:
        """Add adapters, gates and estimator to a prior."""
        super().__init__()
        self.config = replace(config, base=Path(config.base).name)
        self.prior = prior
        prior.unet_adapters = Adapters(prior.unet, {"": unet_targets(prior.unet)}, first="conv_in")
        prior.vae_adapters = Adapters(prior.vae, {"": vae_targets(prior.vae)})
        with library():
            prior.unet_adapters.add(GENERATOR, config.rank_unet, prefix="default", full=True)
            prior.vae_adapters.add(GENERATOR, config.rank_vae, prefix="vae_skip")
        prior.ships = GENERATOR
        levels = [len(cast("Any", net).config.block_out_channels) for net in (prior.vae, prior.unet)]
        self.vae_gating = Gating(prior.vae_adapters, GENERATOR, partial(vae_block, levels=levels[0]))
        self.unet_gating = Gating(prior.unet_adapters, GENERATOR, partial(unet_block, levels=levels[1]))
        self.estimator: DegradationEstimator | None = None
        self.gates: Gates | None = None
        if config.gated:
            self.estimator = DegradationEstimator(config.estimator).eval().requires_grad_(False)
            self.gates = Gates(
                rank_vae=config.rank_vae,
                rank_unet=config.rank_unet,
                levels_vae=levels[0],
                levels_unet=levels[1],
            ).requires_grad_(False)
        self._held: tuple[float, ...] = ()
        self.time = len(prior.abar) - 1
        self.latent_tile = 3 * prior.sample // 2
        """Side in latents above which the U-Net sees tiles; 96 for SD-Turbo."""
        self.latent_overlap = prior.sample // 2
        self.traits = _traits(config, prior, levels[1])
        self.register_state_dict_pre_hook(_unfolded)
        self.register_load_state_dict_pre_hook(_unfolded)

    def trained(self) -> list[nn.Parameter]:
        """What the generator's moves move: adapters, the U-Net's first convolution, the gates without W."""
        gates = list(self.gates.parameters()) if self.gates is not None else []
        return [*self.prior.parameters_of(GENERATOR), *gates]

    def train(self, mode: bool = True) -> Self:
        """The estimator stays in evaluation mode."""
        super().train(mode)
        if self.estimator is not None:
            self.estimator.eval()
        return self

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """Of a latent: noise is what the posterior's sample is drawn with."""
        return self.prior.latent_shape(lr, self.config.scale)

    def layer_bytes(self, dtype: torch.dtype) -> float:
        """Bytes per LR pixel: three of the VAE's largest feature maps, at HR size."""
        return 3 * self.prior.widest * dtype.itemsize * self.config.scale**2

    def condition(self, lr: Tensor, options: S3diffOptions) -> Condition:
        """Scores (B, 2), both embeddings (B, 2, 77, C), and guidance, spread, folding (B, 3)."""
        text = self.embedded(options.prompt, options.negative).to(lr.device)
        fold = options.gates == "folded" or (options.gates == "auto" and self._pays(lr))
        numbers = [options.guidance, options.posterior == "sample", fold and not self._moving()]
        return {
            "degradation": self.scores(lr, options.blur, options.noise),
            "text": text.expand(len(lr), -1, -1, -1),
            "numbers": lr.new_tensor(numbers, dtype=torch.float32).expand(len(lr), -1),
        }

    def embedded(self, prompt: str | None = None, negative: str | None = None) -> Tensor:
        """Embeddings (2, 77, C) of a prompt and a negative prompt; None: those of the configuration."""
        own = self.config
        texts = [own.prompt if prompt is None else prompt, own.negative if negative is None else negative]
        return self.prior.text.embed(texts)

    def scores(self, lr: Tensor, blur: float | None = None, noise: float | None = None) -> Tensor:
        """Blur and noise (B, 2) of LR images (B, 3, h, w) in [-1, 1]: estimated, or as the user says."""
        given = (blur, noise)
        if self.estimator is None or None not in given:
            return lr.new_tensor([one or 0.0 for one in given], dtype=torch.float32).expand(len(lr), -1)
        with torch.no_grad(), torch.autocast(lr.device.type, enabled=False):
            found = self.estimator(lr.float())
        for column, value in enumerate(given):
            if value is not None:
                found[:, column] = value
        return found

    def matrices(self, scores: Tensor) -> Matrices:
        """The gates of scores (B, 2); of plain adapters, identities."""
        if self.gates is not None:
            return self.gates(scores)
        sizes = (
            (self.config.rank_vae, self.vae_gating.blocks),
            (self.config.rank_unet, self.unet_gating.blocks),
        )
        whole = [
            torch.eye(rank, device=scores.device).expand(len(scores), n, rank, rank) for rank, n in sizes
        ]
        return Matrices(*whole)

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, 3, h * scale, w * scale) in [-1, 1]."""
        numbers, text, scores = (condition[name] for name in ("numbers", "text", "degradation"))
        guidance, spread, fold = numbers[0].tolist()
        matrices = self.matrices(scores)
        self._hold(lr.device.type)
        if fold and len(lr) == 1:
            self.fold(scores, matrices)
        else:
            self.unfold()
        lr_up = self.enlarged(lr, self.config.up)
        return self.restore(lr_up, noise * spread, matrices, text[:, 0], text[:, 1], guidance)

    def enlarged(self, lr: Tensor, up: Up) -> Tensor:
        """x_L: LR images at HR size, without antialiasing, clamped."""
        size = (lr.shape[-2] * self.config.scale, lr.shape[-1] * self.config.scale)
        return F.interpolate(lr.float(), size, mode=up).clamp(-1, 1)

    def restore(
        self,
        lr_up: Tensor,
        noise: Tensor,
        matrices: Matrices,
        text: Tensor,
        negative: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Restored images (B, 3, H, W) in [-1, 1].

        Args:
            lr_up: x_L, (B, 3, H, W) in [-1, 1].
            noise: Standard normal, of the latent's shape; zeros give the mean of the posterior.
            matrices: Of the batch.
            text: Embedding of the prompt, (B, 77, C).
            negative: Embedding of what guidance moves away from, (B, 77, C).
            guidance: 1 follows the prompt alone, in half the time.
        """
        with self._acting(matrices):
            latent = self.prior.encode(lr_up, noise)

            def epsilon(piece: Tensor) -> Tensor:
                if negative is None or guidance == 1:
                    return self.prior.epsilon(piece, self.time, text).float()
                with self.unet_gating.using(torch.cat([matrices.unet] * 2)):
                    both = self.prior.epsilon(torch.cat([piece] * 2), self.time, torch.cat([text, negative]))
                wanted, unwanted = both.float().chunk(2)
                return unwanted + guidance * (wanted - unwanted)

            eps = tiled(epsilon, latent, self.latent_tile, self.latent_overlap)
        clean = self.prior.clean(latent, eps, self.time)
        return self.prior.decode(clean).float().clamp(-1, 1)

    def fold(self, scores: Tensor, matrices: Matrices) -> None:
        """Put the adapters and gates of one image into the weights, unless they are there already."""
        device = scores.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        held = (*scores.flatten().tolist(), 0.0 if low is None else 1.0)
        if held != self._held or not self.unet_gating.folded:
            self.vae_gating.fold(matrices.vae, low)
            self.unet_gating.fold(matrices.unet, low)
            self._held = held

    def unfold(self) -> None:
        """Put the plain weights back."""
        self.vae_gating.unfold()
        self.unet_gating.unfold()

    def save_memory(self) -> None:
        """Recompute the layers of U-Net and VAE in the backward pass instead of keeping them."""
        self.prior.save_memory(unet=self.unet_gating.recomputed, vae=self.vae_gating.recomputed)

    @contextmanager
    def _acting(self, matrices: Matrices) -> Generator[None]:
        """Let the adapters and these matrices act."""
        with (
            self.prior.using(GENERATOR),
            self.vae_gating.using(matrices.vae),
            self.unet_gating.using(matrices.unet),
        ):
            yield

    def _hold(self, device: str) -> None:
        """Keep the base in what is calculated in, where nothing is trained."""
        if device == "meta" or self._moving():
            return
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        if low != self.prior.held:
            self.unfold()
            self.prior.hold(low)

    def _moving(self) -> bool:
        return any(parameter.requires_grad for parameter in self.trained())

    def _pays(self, lr: Tensor) -> bool:
        """Whether folding takes less time than it saves: so many pixels in all, over all tiles."""
        pixels = lr.shape[-2] * lr.shape[-1] * self.config.scale**2
        return pixels > 4 * (self.prior.sample * self.prior.factor) ** 2

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Weights that are put aside would be left behind."""
        self.unfold()
        return super()._apply(fn, recurse)


def _traits(config: S3diffConfig, prior: DiffusionPrior, levels: int) -> Traits:
    native, whole = prior.sample * prior.factor, prior.factor * 2 ** (levels - 1)
    multiple = whole // math.gcd(whole, config.scale)
    return Traits(
        config.scale,
        multiple_of=multiple,
        minimum=multiple,
        tile=max(1024, 2 * native) // config.scale // multiple * multiple,
        overlap=128 // config.scale,
        color=config.color,
    )


def _unfolded(module: nn.Module, *_: Any) -> None:
    """What is saved, and what is copied into, are the plain weights."""
    cast("S3diff", module).unfold()
