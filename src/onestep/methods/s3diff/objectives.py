"""S3Diff, the training: image losses with online negative samples, and an adversary.

Four moves per iteration, in the order of section 4.3: the generator by image losses, the generator by the
adversary's judgement of a second pass, the discriminator by true images, the discriminator by that pass.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep import checkpoint
from onestep.core.config import from_dict
from onestep.core.contract import Loss, Objective, Pair
from onestep.core.errors import InputError, UsageError
from onestep.estimates import load_estimator
from onestep.methods.s3diff.model import S3diff, S3diffConfig, Up
from onestep.networks.diffusion_prior import DiffusionPrior
from onestep.networks.discriminator import Discriminator, DiscriminatorConfig
from onestep.networks.lpips import Lpips
from onestep.networks.lpips import Net as LpipsNet
from onestep.networks.prior_config import PriorConfig


@dataclass(frozen=True)
class S3diffTraining:
    """How the generator is trained; defaults are the published ones."""

    model: S3diffConfig = field(default_factory=S3diffConfig)
    """Its ``estimator`` is taken from the file of the estimator."""
    prior: str = ""
    """Release file of method "prior" to start from, not ``model.base``; it becomes part of the result."""
    estimator: str = ""
    """Release file of the degradation estimator, or of S3Diff; none: the one that came with the package."""
    mse: float = 2.0
    perceptual: float = 5.0
    perceptual_net: LpipsNet = "vgg"
    adversarial: float = 0.5
    """Weight of the adversary in all three moves that it has; 0 trains without one."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    negatives: float = 0.05
    """Share of pairs that shall come out as they went in, under the negative prompt."""
    clean: float = 0.01
    """Share of batches whose input is the true image; the estimator still sees the LR image."""
    up: Up = "bicubic"
    """How LR images come to HR size in training."""
    start: Literal["zero", "plain"] = "zero"
    """Fresh gates: almost zero, as published, or identities, so that adapters begin as plain ones."""
    leak: bool = False
    """As the published code: the discriminator's next move also has its gradient of the generator's move."""
    checkpointing: bool = False
    """Recompute layers in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        """Refuse shares that are none.

        Raises:
            UsageError: One line that names the field.
        """
        for name in ("negatives", "clean"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"objective.{name}={getattr(self, name):g}: must be from 0 to 1")

    def build(self) -> "DegradationGuided":
        """With fresh adapters and gates on the base, and the estimator's weights.

        Raises:
            UsageError: The base, the prior or the estimator is not there or of another kind.
            InputError: A file cannot be read.
        """
        config, known = self.model, None
        if config.gated:
            known = load_estimator(Path(self.estimator) if self.estimator else None)
            config = replace(config, estimator=known.config)
        model = _on_prior(config, Path(self.prior)) if self.prior else config.build()
        if known is not None and model.estimator is not None:
            model.estimator.load_state_dict(known.state_dict())
        if self.start == "plain" and model.gates is not None:
            model.gates.vae.begin_plain()
            model.gates.unet.begin_plain()
        lpips = Lpips.load(self.perceptual_net) if self.perceptual > 0 else None
        judge = self.discriminator.build() if self.adversarial > 0 else None
        return DegradationGuided(self, model, lpips, judge)


def _on_prior(config: S3diffConfig, path: Path) -> S3diff:
    """A generator on the prior of a release file.

    Raises:
        UsageError: The file holds another method.
        InputError: It cannot be read, or its card describes no prior.
    """
    tensors, card = checkpoint.read(path)
    if card.method != "prior":
        raise UsageError(f"{path}: holds the method {card.method!r}; a release file of 'prior' is needed")
    if not isinstance(card.config.get("prior"), Mapping):
        raise InputError(f"{path}: its card describes no prior; make the file again")
    shape = from_dict(PriorConfig, cast("Mapping[str, Any]", card.config["prior"]), "prior.")
    prior = DiffusionPrior.build(shape)
    checkpoint.load(prior, {name.removeprefix("prior."): tensor for name, tensor in tensors.items()}, path)
    return S3diff(replace(config, base=path.stem, prior=shape), prior)


class DegradationGuided(Objective):
    """The generator against image losses and a discriminator."""

    def __init__(
        self, config: S3diffTraining, model: S3diff, lpips: Lpips | None, judge: Discriminator | None
    ) -> None:
        super().__init__()
        self.config = config
        self.model: S3diff = model  # pyright: ignore[reportIncompatibleVariableOverride]
        self.perceptual, self.judge = lpips, judge
        if config.checkpointing:
            model.save_memory()

    def train(self, mode: bool = True) -> Self:
        """Estimator, features and ruler stay in evaluation mode, as they see to themselves."""
        return super().train(mode)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """The generator's, and the heads of the discriminator."""
        groups = {"model": self.model.trained()}
        return groups | ({} if self.judge is None else {"discriminator": list(self.judge.heads.parameters())})

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """Four moves (one without an adversary); sections 4.3 and 4.4."""
        config, judge = self.config, self.judge
        scores = self.model.scores(pair.lr)
        x_src = self.model.enlarged(pair.lr, config.up)
        if float(torch.rand(())) < config.clean:
            x_src = pair.hr
        wanted, unwanted = self.model.embedded().to(x_src.device)
        negative = torch.rand(len(x_src), device=x_src.device) < config.negatives
        target, text = routed(negative, x_src, pair.hr, unwanted, wanted)
        yield Loss("model", self.image_terms(self.restored(x_src, scores, text), target))
        if judge is None:
            return
        made = self.restored(x_src, scores, wanted.expand_as(text))
        with held(judge):
            loss = config.adversarial * judge.loss(made, real=True)
        yield Loss("model", {"adversarial": loss})
        made = made.detach()
        terms = {"real": config.adversarial * judge.loss(pair.hr, real=True)}
        if config.leak:
            terms["leak"] = config.adversarial * judge.loss(made, real=True)
        yield Loss("discriminator", terms)
        yield Loss("discriminator", {"fake": config.adversarial * judge.loss(made, real=False)})

    def restored(self, x_src: Tensor, scores: Tensor, text: Tensor) -> Tensor:
        """One pass without guidance, with a sample of the posterior of its own."""
        prior = self.model.prior
        sides = (side // prior.factor for side in x_src.shape[-2:])
        noise = torch.randn(len(x_src), prior.latent, *sides, device=x_src.device)
        return self.model.restore(x_src, noise, self.model.matrices(scores), text)

    def image_terms(self, made: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Squared error, and LPIPS where it has a weight, on images (B, 3, H, W) in [-1, 1]."""
        terms = {"mse": self.config.mse * F.mse_loss(made, target)}
        if self.perceptual is not None:
            terms["lpips"] = self.config.perceptual * self.perceptual(made, target).mean()
        return terms


def routed(
    negative: Tensor, x_src: Tensor, hr: Tensor, unwanted: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """Online negative samples: targets (B, 3, H, W) and embeddings (B, 77, C), by a mask (B,)."""
    target = torch.where(negative.reshape(-1, 1, 1, 1), x_src, hr)
    return target, torch.where(negative.reshape(-1, 1, 1), unwanted, wanted)


@contextmanager
def held(judge: Discriminator) -> Generator[None]:
    """Let no gradient reach the heads of what is calculated inside."""
    heads = list(judge.heads.parameters())
    before = [parameter.requires_grad for parameter in heads]
    for parameter in heads:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in zip(heads, before, strict=True):
            parameter.requires_grad_(flag)
