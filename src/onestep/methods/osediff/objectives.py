"""OSEDiff, the training: image losses, and variational score distillation in the latent space.

One base holds three roles: the generator, the fake score (adapters that track the generator's own outputs)
and, with no adapters at all, the real score. Sections are those of docs/methods/osediff.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep import checkpoint
from onestep.core.config import from_dict
from onestep.core.contract import Loss, Objective, Pair
from onestep.core.errors import InputError, UsageError
from onestep.methods.osediff import prompts
from onestep.methods.osediff.model import GENERATOR, Osediff, OsediffConfig
from onestep.networks.diffusion_prior import DiffusionPrior
from onestep.networks.lpips import Lpips
from onestep.networks.lpips import Net as LpipsNet
from onestep.networks.prior_config import PriorConfig

FAKE = "fake"
"""The role of the fake score."""


def guided(wanted: Tensor, unwanted: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: from the negative prompt's prediction to the prompt's, and beyond."""
    return unwanted + scale * (wanted - unwanted)


def score_distillation(z: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """The term whose gradient in z is 2 g / numel, g = (fake - real) / mean |z - real| (section 3.3).

    Args:
        z: What the generator made, (B, ...).
        fake: Clean estimate of z, noised, by the score of what the generator makes.
        real: The same by the score of the prior.

    Returns:
        A scalar, the mean of g squared.
    """
    with torch.no_grad():
        weight = (z - real).abs().flatten(1).mean(1).reshape(-1, *[1] * (z.ndim - 1))
        goal = z - (fake - real) / weight.clamp_min(1e-6)
    return F.mse_loss(z, goal)


@dataclass(frozen=True)
class OsediffTraining:
    """How the generator is trained; defaults are the published ones."""

    model: OsediffConfig = field(default_factory=OsediffConfig)
    prior: str = ""
    """Release file of method "prior" to start from instead of ``model.base``; part of the result."""
    mse: float = 1.0
    perceptual: float = 2.0
    perceptual_net: LpipsNet = "vgg"
    vsd: float = 1.0
    """Weight of score distillation; 0 trains without it, and without a fake score."""
    guidance: float = 7.5
    """Of the real score, between ``negative`` and the prompt."""
    times: tuple[int, int] = (20, 980)
    """From (inclusive) and to (exclusive) which times distillation noises."""
    prompt: str = ""
    negative: str = prompts.NEGATIVE
    tagger: Literal["none", "hr", "lr"] = "none"
    """Whether tags are put before the prompt, and of what: the true image, as published, or the LR one."""
    fake_parts: Literal["all", "middle"] = "all"
    """Where the fake score's adapters act; the published training lets only those of the middle block."""
    upsampling: Literal["random", "bicubic"] = "random"
    """How LR images come to HR size: area, bilinear or bicubic at random, then 8 bit, as published."""
    checkpointing: bool = False
    """Recompute layers in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        """Refuse times that are none.

        Raises:
            UsageError: One line that names the field.
        """
        if not 0 <= self.times[0] < self.times[1]:
            raise UsageError(
                f"objective.times={list(self.times)}: must be two numbers, the smaller one first"
            )

    def build(self) -> "ScoreDistillation":
        """With fresh adapters on the base.

        Raises:
            UsageError: The base or the prior is not there or of another kind.
            InputError: A file cannot be read.
        """
        if not self.prior:
            return ScoreDistillation(self, self.model.build(), self._lpips())
        path = Path(self.prior)
        tensors, card = checkpoint.read(path)
        if card.method != "prior":
            raise UsageError(f"{path}: holds the method {card.method!r}; a release file of 'prior' is needed")
        shape = prior_shape(card.config, path)
        config, prior = replace(self.model, base=path.stem, prior=shape), DiffusionPrior.build(shape)
        own = {name.removeprefix("prior."): tensor for name, tensor in tensors.items()}
        checkpoint.load(prior, own, path)
        return ScoreDistillation(self, Osediff(config, prior), self._lpips())

    def outline(self) -> "ScoreDistillation":
        """The same without numbers, on the device "meta": for counting what a run would take."""
        with torch.device("meta"):
            lpips = Lpips(self.perceptual_net) if self.perceptual > 0 else None
        if not self.prior:
            return ScoreDistillation(self, self.model.outline(), lpips)
        shape = prior_shape(checkpoint.read_card(Path(self.prior)).config, Path(self.prior))
        return ScoreDistillation(self, replace(self.model, prior=shape).outline(), lpips)

    def _lpips(self) -> Lpips | None:
        return Lpips.load(self.perceptual_net) if self.perceptual > 0 else None


def prior_shape(config: Mapping[str, Any], path: Path) -> PriorConfig:
    """The shape of the prior that the card of a release file describes.

    Raises:
        InputError: The card does not describe one.
    """
    if not isinstance(config.get("prior"), Mapping):
        raise InputError(f"{path}: its card describes no prior; make the file again")
    return from_dict(PriorConfig, cast("Mapping[str, Any]", config["prior"]), "prior.")


class ScoreDistillation(Objective):
    """Image losses and score distillation move the generator; then the fake score follows it."""

    def __init__(self, config: OsediffTraining, model: Osediff, lpips: Lpips | None) -> None:
        super().__init__()
        self.config = config
        self.model: Osediff = model  # pyright: ignore[reportIncompatibleVariableOverride]
        self.perceptual = lpips
        prior = model.prior
        if config.vsd > 0:
            with prior.where():
                prior.add_role(FAKE, model.config.rank_unet, full=False)
            # Named here as well, since the prior's state is what ships.
            self.fake = nn.ParameterList(prior.parameters_of(FAKE))
        if config.times[1] > len(prior.abar):
            raise UsageError(f"objective.times={list(config.times)}: the base has {len(prior.abar)} times")
        if config.checkpointing:
            prior.save_memory()

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """The generator's adapters and first convolution; and, with distillation, the fake score's."""
        groups = {"model": self.model.prior.parameters_of(GENERATOR)}
        return groups | ({"fake": list(self.fake)} if self.config.vsd > 0 else {})

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """Two moves on one forward pass: the generator, then the fake score on what came before that move."""
        config, prior = self.config, self.model.prior
        lr_up = self.upsampled(pair.lr)
        wanted, unwanted = self.embeddings(pair)
        noise = torch.randn(len(lr_up), prior.latent, *(n // prior.factor for n in lr_up.shape[-2:]))
        z, image = self.model.restore(lr_up, noise.to(lr_up.device), wanted)
        terms = {"mse": config.mse * F.mse_loss(image, pair.hr)}
        if self.perceptual is not None:
            terms["lpips"] = config.perceptual * self.perceptual(image, pair.hr).mean()
        if config.vsd > 0:
            terms["vsd"] = config.vsd * self.distilled(z, wanted, unwanted)
        yield Loss("model", terms)
        if config.vsd > 0:
            yield Loss("fake", {"noise": self.tracked(z.detach(), wanted)})

    def distilled(self, z: Tensor, wanted: Tensor, unwanted: Tensor) -> Tensor:
        """Score distillation of latents (B, C, h, w), given embeddings of prompt and negative prompt."""
        prior = self.model.prior
        low, high = self.config.times
        with torch.no_grad():
            t = torch.randint(low, high, (len(z),), device=z.device)
            z_t = prior.noised(z, torch.randn_like(z), t)
            with prior.using(FAKE, self._parts):
                fake = prior.epsilon(z_t, t, wanted).float()
            twice = torch.cat([unwanted.expand_as(wanted), wanted])
            negative, positive = prior.epsilon(torch.cat([z_t, z_t]), t.repeat(2), twice).float().chunk(2)
            real = guided(positive, negative, self.config.guidance)
            clean = prior.clean(z_t, fake, t), prior.clean(z_t, real, t)
        return score_distillation(z, *clean)

    def tracked(self, z: Tensor, text: Tensor) -> Tensor:
        """The fake score's own loss, E |eps(z_t, t) - n|^2, on detached latents (section 3.4)."""
        prior = self.model.prior
        t = torch.randint(len(prior.abar), (len(z),), device=z.device)
        noise = torch.randn_like(z)
        with prior.using(FAKE, self._parts):
            eps = prior.epsilon(prior.noised(z, noise, t), t, text)
        return F.mse_loss(eps.float(), noise)

    def upsampled(self, lr: Tensor) -> Tensor:
        """x_L, (B, 3, H, W) in [-1, 1]: at HR size in a random mode, then as an 8-bit file holds it."""
        size = (lr.shape[-2] * self.model.config.scale, lr.shape[-1] * self.model.config.scale)
        modes = ["bicubic"] * len(lr)
        if self.config.upsampling == "random":
            drawn = torch.randint(3, (len(lr),), device="cpu").tolist()
            modes = [("area", "bilinear", "bicubic")[mode] for mode in drawn]
        lr = lr.float()
        each = [F.interpolate(one[None], size, mode=mode) for one, mode in zip(lr, modes, strict=True)]
        return ((torch.cat(each) + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1

    def embeddings(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """Of the prompts (B, 77, C), and of the negative prompt (1, 77, C)."""
        config, encoder = self.config, self.model.prior.text
        tagger = prompts.installed_tagger() if config.tagger != "none" else None
        if tagger is None:
            texts = [config.prompt] * len(pair.hr)
        else:
            seen = pair.hr if config.tagger == "hr" else pair.lr
            tags = [tagger.tags(prompts.picture_of(image)) for image in seen]
            texts = [prompts.shortened(some, config.prompt, encoder.fits) for some in tags]
        found = encoder.embed([*texts, config.negative]).to(pair.hr.device)
        return found[:-1], found[-1:]

    @property
    def _parts(self) -> tuple[str, ...] | None:
        return ("others",) if self.config.fake_parts == "middle" else None
