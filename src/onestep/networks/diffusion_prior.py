"""A latent diffusion prior (VAE, U-Net, text encoder, schedule) with adapters in roles on one frozen base.

Beside its neighbours this is the only place that knows diffusers and peft; both are imported when a prior is
made, not before. Images are (B, 3, H, W) in [-1, 1], sides multiples of ``factor``; latents are scaled to
about unit variance everywhere; t is an integer time of the schedule, 0 almost clean.

    z_t = sqrt(abar_t) z + sqrt(1 - abar_t) n          noised latent
    z   = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)  clean estimate from predicted noise, in float32
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from onestep.core.errors import UsageError
from onestep.core.memory import release_memory
from onestep.networks import tiled_vae
from onestep.networks.adapters import Adapters, unet_targets, vae_targets
from onestep.networks.prior_config import PriorConfig, Schedule, VaeShape
from onestep.networks.prompt_encoder import PromptEncoder, byte_tokenizer, text_model

Around = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Wraps a function (module, *inputs) -> output."""


def _as_it_is(run: Callable[..., Any]) -> Callable[..., Any]:
    return run


class DiffusionPrior(nn.Module):
    """The frozen base, its adapters, and what they calculate."""

    abar: Tensor
    scaling: Tensor

    def __init__(
        self, vae: nn.Module, unet: nn.Module, text: PromptEncoder, schedule: Schedule, *, whole: bool
    ) -> None:
        """Put the parts together, frozen.

        Args:
            vae: diffusers ``AutoencoderKL``.
            unet: diffusers ``UNet2DConditionModel`` that predicts the noise.
            text: Makes embeddings of prompts.
            schedule: What is left of a latent at every time.
            whole: Whether the state dict holds the base too; if not, only what the role ``ships`` trains.
        """
        super().__init__()
        self.vae, self.unet, self.text, self.whole = vae, unet, text, whole
        self.requires_grad_(False)
        shape, unet_shape = cast("Any", vae).config, cast("Any", unet).config
        self.register_buffer("abar", schedule.remaining().float(), persistent=False)
        self.register_buffer("scaling", torch.tensor(float(shape.scaling_factor)), persistent=whole)
        self.factor = 2 ** (len(shape.block_out_channels) - 1)
        """Pixels per latent, along a side."""
        self.latent = int(shape.latent_channels)
        self.widest = int(shape.block_out_channels[1])
        """Channels of the largest feature map at full size."""
        self.sample = int(unet_shape.sample_size)
        """Side of the latents that the U-Net was trained at."""
        self.unet_adapters = Adapters(unet, unet_targets(unet), first="conv_in")
        self.vae_adapters = Adapters(vae, vae_targets(vae))
        self.untiled = 768
        """Longest side in pixels of an image that goes through the VAE in one piece."""
        self.held = torch.float32
        """The type that matrices of the base are kept in."""
        self.ships: str | None = None
        """The role that is part of the state dict; adapters of others are not."""
        self.register_state_dict_post_hook(_only_shipped)
        self.register_load_state_dict_post_hook(_others_are_elsewhere)

    def latent_shape(self, lr: torch.Size, scale: int) -> torch.Size:
        """(B, C, h, w) of the latents of LR images (B, 3, H, W) that were enlarged by ``scale``."""
        return torch.Size((lr[0], self.latent, *(side * scale // self.factor for side in lr[2:])))

    @classmethod
    def build(cls, config: PriorConfig) -> "DiffusionPrior":
        """With fresh weights; its state dict holds everything.

        Raises:
            UsageError: The libraries of the extra ``diffusion`` are not installed.
        """
        with library():
            from diffusers import UNet2DConditionModel

            vae = build_vae(config.vae)
            unet: Any = UNet2DConditionModel(**config.unet.arguments(config.vae.latent, config.text.width))
            text = PromptEncoder(byte_tokenizer(), text_model(config.text), length=config.text.length)
        return cls(vae, unet, text, config.schedule, whole=True)

    def add_role(
        self, role: str, rank: int, *, vae_rank: int | None = None, prefix: str | None = None, full: bool
    ) -> None:
        """Give a role adapters on the whole U-Net, and on the encoder of the VAE where it has a rank there.

        Args:
            role: Its name.
            rank: Of the adapters of the U-Net.
            vae_rank: Of those of the VAE; None: the role leaves the VAE alone.
            prefix: Of the adapters' names; the role's name by default.
            full: Whether it has a full copy of the U-Net's first convolution.
        """
        with library():
            self.unet_adapters.add(role, rank, prefix=prefix, full=full)
            if vae_rank is not None:
                self.vae_adapters.add(role, vae_rank, prefix=prefix)

    def parameters_of(self, role: str) -> list[nn.Parameter]:
        """What a role trains."""
        adapted = [a for a in (self.unet_adapters, self.vae_adapters) if role in a.roles]
        return [parameter for adapters in adapted for parameter in adapters.parameters(role)]

    @contextmanager
    def using(self, role: str | None, parts: Sequence[str] | None = None) -> Generator[None]:
        """Let a role act in U-Net and VAE; None: the base alone; ``parts``: some parts of the U-Net alone."""
        in_vae = role if role in self.vae_adapters.roles else None
        with self.unet_adapters.using(role, parts), self.vae_adapters.using(in_vae):
            yield

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """A latent (B, latent, H / factor, W / factor) of an image: the posterior's mean, or a sample of it.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            noise: Standard normal, of the latent's shape; None: the mean.
        """
        vae = cast("Any", self.vae)
        with self._plain(vae) as dtype:
            image = image.to(dtype)
            if self._large(image.shape[-2:]):
                moments = tiled_vae.encode(vae, image)
            else:
                moments = vae.quant_conv(vae.encoder(image))
        return self.scaling * posterior(moments.float(), noise)

    def decode(self, latent: Tensor) -> Tensor:
        """An image (B, 3, H, W), nominally in [-1, 1], of a latent."""
        vae = cast("Any", self.vae)
        with self._plain(vae) as dtype:
            latent = (latent / self.scaling).to(dtype)
            if self._large([side * self.factor for side in latent.shape[-2:]]):
                return tiled_vae.decode(vae, latent)
            return vae.decoder(vae.post_quant_conv(latent))

    def epsilon(self, latent: Tensor, t: Tensor | int, text: Tensor) -> Tensor:
        """The noise that the U-Net sees in a latent (B, latent, h, w) at times t (B,), given embeddings."""
        unet = cast("Any", self.unet)
        text = text.expand(len(latent), -1, -1)
        with self._plain(unet) as dtype:
            return unet(latent.to(dtype), t, encoder_hidden_states=text.to(dtype)).sample

    def noised(self, latent: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t of a latent, in float32; t is (B,)."""
        abar = self.abar[t].reshape(-1, 1, 1, 1)
        return abar.sqrt() * latent.float() + (1 - abar).sqrt() * noise.float()

    def clean(self, latent: Tensor, epsilon: Tensor, t: Tensor | int) -> Tensor:
        """The clean estimate from predicted noise at times t, in float32."""
        abar = self.abar[t].reshape(-1, 1, 1, 1)
        return (latent.float() - (1 - abar).sqrt() * epsilon.float()) / abar.sqrt()

    def settle(self, role: str, dtype: torch.dtype | None = None) -> None:
        """Fold a role into the weights for good, in float32, and then cast them: faster, and no way back."""
        self.unet_adapters.settle(role, dtype)
        self.vae_adapters.settle(role, dtype)

    def hold(self, dtype: torch.dtype) -> None:
        """Keep the matrices of the base in this type; vectors, and what roles train, stay as they are.

        Where autocast is on, results are bit for bit the same: it casts matrices at every call. Memory is
        saved, and that work. Rounding is for good, so a base that is part of the state is left alone.
        """
        if self.whole or self.held == dtype:
            return
        roles = {*self.unet_adapters.roles, *self.vae_adapters.roles}
        kept = {id(parameter) for role in roles for parameter in self.parameters_of(role)}
        with torch.inference_mode(False), torch.no_grad():
            for parameter in (*self.vae.parameters(), *self.unet.parameters()):
                if parameter.ndim > 1 and id(parameter) not in kept:
                    parameter.data = parameter.data.to(dtype)
        self.held = dtype
        release_memory()

    @property
    def settled(self) -> str | None:
        """The role that was folded into the weights, if any."""
        return self.unet_adapters.settled

    def where(self) -> torch.device:
        """Where the weights are; as a context, where new ones are made."""
        return next(self.unet.parameters()).device

    def save_memory(self, *, unet: Around = _as_it_is, vae: Around = _as_it_is) -> None:
        """Recompute the layers of U-Net and VAE in the backward pass instead of keeping them.

        ``unet`` and ``vae`` wrap the function that runs a layer so, for what else must be as it was.
        """
        for network, adapters, around in (
            (self.unet, self.unet_adapters, unet),
            (self.vae, self.vae_adapters, vae),
        ):
            cast("Any", network).enable_gradient_checkpointing(around(_recomputing(adapters)))

    def _large(self, sides: Sequence[int]) -> bool:
        """Whether an image of these sides passes the VAE in windows; where gradients flow, none does."""
        return max(sides) > self.untiled and not torch.is_grad_enabled()

    @contextmanager
    def _plain(self, network: nn.Module) -> Generator[torch.dtype | None]:
        """The type of a network's inputs; one cast to low precision runs as it is, without autocast."""
        vector = next(parameter for parameter in network.parameters() if parameter.ndim == 1)
        if vector.dtype == torch.float32:
            if self.held != torch.float32 and not torch.is_autocast_enabled(vector.device.type):
                self.hold(torch.float32)
            yield None
        else:
            with torch.autocast(vector.device.type, enabled=False):
                yield vector.dtype


def build_vae(shape: VaeShape) -> nn.Module:
    """A diffusers ``AutoencoderKL`` with fresh weights.

    Raises:
        UsageError: The libraries of the extra ``diffusion`` are not installed.
    """
    with library():
        from diffusers import AutoencoderKL

        return cast("nn.Module", AutoencoderKL(**shape.arguments()))


def posterior(moments: Tensor, noise: Tensor | None) -> Tensor:
    """A sample, or with no noise the mean, of the Gaussian whose moments (B, 2 C, h, w) a VAE encodes to."""
    mean, logvar = moments.chunk(2, 1)
    return mean if noise is None else mean + (0.5 * logvar.clamp(-30, 20)).exp() * noise


@contextmanager
def library() -> Generator[None]:
    """Say in one line what is not installed.

    Raises:
        UsageError: A library of the extra ``diffusion`` is missing.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"this needs {error.name or error}, which is not installed: pip install 'onestep-sr[diffusion]'"
        ) from error


def _recomputing(adapters: Adapters) -> Callable[..., Any]:
    """Checkpointing that recomputes with the adapters that acted in the forward pass."""

    def run(module: nn.Module, *inputs: Any) -> Any:
        state = adapters.state
        return checkpoint(
            module, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), adapters.resuming(state))
        )

    return run


def _absent(prior: DiffusionPrior) -> set[str]:
    """Names of a prior's own tensors that are not part of its state dict."""
    shipped, other = set[str](), set[str]()
    for part, adapters in (("unet", prior.unet_adapters), ("vae", prior.vae_adapters)):
        for role in adapters.roles:
            names = {f"{part}.{name}" for name in adapters.names(role)}
            if role == prior.ships:
                shipped |= names
            else:
                other |= names
    if prior.whole:
        return other
    return {"scaling", *(name for name, _ in prior.named_parameters())} - shipped


def _only_shipped(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    del metadata
    for name in _absent(cast("DiffusionPrior", module)):
        state.pop(prefix + name, None)


def _others_are_elsewhere(module: nn.Module, incompatible: Any) -> None:
    absent = _absent(cast("DiffusionPrior", module))
    for key in list(incompatible.missing_keys):
        parts = key.split(".")
        if any(".".join(parts[start:]) in absent for start in range(len(parts))):
            incompatible.missing_keys.remove(key)
