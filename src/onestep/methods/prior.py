"""A latent diffusion prior of our own, small enough for a CPU: what the methods on priors start from here.

First an autoencoder (method "prior-vae"), then noise prediction on its latents with two captions, clean and
degraded, and none in a tenth of the cases (method "prior"). The block types are those of Stable Diffusion,
so what works on one works on the other. As a restorer the prior is the slow baseline: the upsampled LR image
is noised up to a strength and denoised in many steps (SDEdit, arXiv 2108.01073; DDIM, arXiv 2010.02502).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep import checkpoint
from onestep.core.config import from_dict
from onestep.core.contract import Condition, Loss, NoOptions, Objective, OneStepModel, Pair, Traits
from onestep.core.errors import UsageError
from onestep.core.resize import resize
from onestep.networks.diffusion_prior import DiffusionPrior, build_vae, posterior
from onestep.networks.lpips import Lpips
from onestep.networks.lpips import Net as LpipsNet
from onestep.networks.prior_config import PriorConfig, VaeShape

CLEAN = "a clean, sharp photograph"
"""Caption of true photographs."""
DEGRADED = "a degraded photograph, blurry, noisy, compressed"
"""Caption of photographs that were degraded and enlarged again."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the autoencoder (method "prior-vae")."""

    vae: VaeShape = field(default_factory=lambda: PriorConfig.mini().vae)

    def build(self) -> "Autoencoder":
        """With fresh weights."""
        return Autoencoder(self)


class Autoencoder(OneStepModel):
    """An image through its latent and back."""

    Options = NoOptions
    scaling: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = build_vae(config.vae)
        self.traits = Traits(scale=1, multiple_of=config.vae.factor, minimum=16, tile=256, overlap=32)
        self.register_buffer("scaling", torch.tensor(config.vae.scaling))

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """None is used: the posterior's mean is decoded."""
        return torch.Size((lr[0], 0, lr[2], lr[3]))

    def condition(self, lr: Tensor, options: NoOptions) -> Condition:
        """Nothing."""
        return {}

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to its reconstruction."""
        return self.decode(posterior(self.moments(lr), None))

    def moments(self, image: Tensor) -> Tensor:
        """Mean and log-variance of the posterior, unscaled: (B, 2 C, h, w), float32."""
        vae = cast("Any", self.vae)
        return vae.quant_conv(vae.encoder(image)).float()

    def decode(self, latent: Tensor) -> Tensor:
        """An image of an unscaled latent."""
        vae = cast("Any", self.vae)
        return vae.decoder(vae.post_quant_conv(latent)).float()


@dataclass(frozen=True)
class ReconstructionConfig:
    """Training of the autoencoder."""

    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    perceptual: float = 0.5
    """Weight of LPIPS beside the absolute difference."""
    perceptual_net: LpipsNet = "squeeze"
    kl: float = 1e-5
    """Weight of the divergence from a standard normal, per latent element."""

    def build(self) -> "Reconstruction":
        """With fresh weights."""
        return Reconstruction(self)


class Reconstruction(Objective):
    """E |D(E(x)) - x| + LPIPS + KL; beside it, the scale that gives latents unit variance is measured."""

    def __init__(self, config: ReconstructionConfig) -> None:
        super().__init__()
        self.config = config
        self.model: Autoencoder = config.model.build()  # pyright: ignore[reportIncompatibleVariableOverride]
        self.perceptual = Lpips.load(config.perceptual_net) if config.perceptual > 0 else None

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """One group."""
        return {"model": list(self.model.parameters())}

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """One move, on HR alone."""
        moments = self.model.moments(pair.hr)
        mean, logvar = moments.chunk(2, 1)
        latent = posterior(moments, torch.randn_like(mean))
        image = self.model.decode(latent)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        terms = {"absolute": (image - pair.hr).abs().mean(), "kl": self.config.kl * divergence}
        if self.perceptual is not None:
            terms["lpips"] = self.config.perceptual * self.perceptual(image, pair.hr).mean()
        with torch.no_grad():
            self.model.scaling.lerp_(1 / latent.std().clamp_min(1e-6), 1.0 if step == 0 else 0.01)
        yield Loss("model", terms)


@dataclass(frozen=True)
class PriorModelConfig:
    """A prior whose weights are all its own (method "prior")."""

    prior: PriorConfig = field(default_factory=PriorConfig.mini)
    scale: int = 4

    def build(self) -> "PriorModel":
        """With fresh weights."""
        return PriorModel(self)


@dataclass(frozen=True)
class PriorOptions:
    """Knobs of the prior as a restorer."""

    prompt: str = CLEAN
    negative: str = DEGRADED
    guidance: float = 1.0
    """How far predictions are moved from the negative prompt's to the prompt's and beyond; 1 = not."""
    strength: float = 0.5
    """Share of the schedule that is noised and denoised; at 1 the LR image is ignored: a free sample."""
    evaluations: int = 20
    """Denoising steps."""


class PriorModel(OneStepModel):
    """Noise the enlarged LR image, then denoise it along DDIM: many steps, for comparison and samples."""

    Options = PriorOptions

    def __init__(self, config: PriorModelConfig) -> None:
        super().__init__()
        self.config = config
        self.prior = DiffusionPrior.build(config.prior)
        side = config.prior.unet.sample * self.prior.factor // config.scale
        step = max(1, self.prior.factor // config.scale)
        self.traits = Traits(config.scale, multiple_of=step, minimum=side, tile=2 * side, overlap=side // 2)

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """Of a latent."""
        return self.prior.latent_shape(lr, self.config.scale)

    def condition(self, lr: Tensor, options: PriorOptions) -> Condition:
        """Embeddings of both prompts, and the numbers as tensors."""
        text = self.prior.text.embed([options.prompt, options.negative]).to(lr.device)
        numbers = torch.tensor([options.guidance, options.strength, float(options.evaluations)])
        return {"text": text[None], "numbers": numbers[None]}

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, 3, h * scale, w * scale)."""
        guidance, strength, evaluations = condition["numbers"][0].tolist()
        text = condition["text"][0]
        last = len(self.prior.abar) - 1
        times = torch.linspace(strength * last, 0, round(evaluations) + 1).round().long().tolist()
        latent = self.prior.encode(enlarged(lr, self.config.scale))
        z = self.prior.noised(latent, noise, torch.full((len(lr),), times[0], device=lr.device))
        if strength >= 1:
            z = noise.float()
        for now, then in pairwise(times):
            eps = self._guided(z, now, text, guidance).float()
            clean = self.prior.clean(z, eps, now)
            left = self.prior.abar[then]
            z = clean if then == 0 else left.sqrt() * clean + (1 - left).sqrt() * eps
        return self.prior.decode(z).float()

    def _guided(self, z: Tensor, t: int, text: Tensor, guidance: float) -> Tensor:
        if guidance == 1:
            return self.prior.epsilon(z, t, text[:1])
        wanted, unwanted = self.prior.epsilon(torch.cat([z, z]), t, text.repeat_interleave(len(z), 0)).chunk(
            2
        )
        return unwanted + guidance * (wanted - unwanted)


def enlarged(lr: Tensor, scale: int) -> Tensor:
    """An image in [-1, 1], enlarged by antialiased bicubic, clamped."""
    return resize(lr.float(), (lr.shape[-2] * scale, lr.shape[-1] * scale)).clamp(-1, 1)


@dataclass(frozen=True)
class NoisePredictionConfig:
    """Training of the U-Net and the text encoder on latents of a finished autoencoder."""

    autoencoder: str = ""
    """Release file of "prior-vae"."""
    prior: PriorConfig = field(default_factory=PriorConfig.mini)
    """The shape of its ``vae`` is taken from the release file."""
    scale: int = 4
    degraded: float = 0.4
    """Share of training pictures that are degraded ones."""
    unprompted: float = 0.1
    """Share of training pictures with the empty caption."""

    def build(self) -> "NoisePrediction":
        """With fresh weights, and the autoencoder's.

        Raises:
            UsageError: No autoencoder is named, or the file holds another method.
        """
        if not self.autoencoder:
            raise UsageError(
                "a prior needs an autoencoder: --set objective.autoencoder=FILE (a release file)"
            )
        path = Path(self.autoencoder)
        tensors, card = checkpoint.read(path)
        if card.method != "prior-vae":
            raise UsageError(
                f"{path}: holds the method {card.method!r}; a release file of 'prior-vae' is needed"
            )
        shape = from_dict(AutoencoderConfig, card.config).vae
        config = PriorModelConfig(
            PriorConfig(shape, self.prior.unet, self.prior.text, self.prior.schedule), self.scale
        )
        autoencoder = Autoencoder(AutoencoderConfig(shape))
        checkpoint.load(autoencoder, tensors, path)
        model = config.build()
        model.prior.vae.load_state_dict(autoencoder.vae.state_dict())
        model.prior.scaling.copy_(autoencoder.scaling)
        return NoisePrediction(self, model)


class NoisePrediction(Objective):
    """E |eps(z_t, t, caption) - n|^2 on clean and on degraded pictures, each with its caption."""

    def __init__(self, config: NoisePredictionConfig, model: PriorModel) -> None:
        super().__init__()
        self.config = config
        self.model: PriorModel = model  # pyright: ignore[reportIncompatibleVariableOverride]
        self.register_buffer("captions", model.prior.text.tokens([CLEAN, DEGRADED, ""]), persistent=False)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """U-Net and text encoder; the autoencoder is frozen."""
        prior = self.model.prior
        return {"model": [*prior.unet.parameters(), *prior.text.parameters()]}

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """One move."""
        prior, config = self.model.prior, self.config
        prior.text.forget()
        chosen = torch.rand(len(pair.hr), device=pair.hr.device) < config.degraded
        spoiled = enlarged(pair.lr, config.scale)
        image = torch.where(chosen.reshape(-1, 1, 1, 1), spoiled, pair.hr)
        with torch.no_grad():
            shape = torch.Size(
                (len(image), prior.latent, *(side // prior.factor for side in image.shape[-2:]))
            )
            latent = prior.encode(image, torch.randn(shape, device=image.device))
        noise = torch.randn_like(latent)
        t = torch.randint(len(prior.abar), (len(latent),), device=latent.device)
        silent = torch.rand(len(latent), device=latent.device) < config.unprompted
        caption = torch.where(silent, 2, chosen.long())
        text = prior.text(cast("Tensor", self.captions))[caption]
        eps = prior.epsilon(prior.noised(latent, noise, t), t, text).float()
        yield Loss("model", {"noise": F.mse_loss(eps, noise)})
