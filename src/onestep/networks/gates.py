"""Gates: a small matrix between the two factors of an adapter, made for each image from its degradation.

S3Diff (arXiv 2409.17058), sections 1.3 and 1.4 of docs/methods/s3diff.md. With scores d = (blur, noise) of an
image, W a fixed vector, and one learned embedding e_j for each block j of a network:

    F   = [sin 2 pi d_blur W, cos 2 pi d_blur W, sin 2 pi d_noise W, cos 2 pi d_noise W]
    M_j = Linear([relu(Linear(F)), relu(Linear(e_j))]), as an r x r matrix, row by row
    h'  = h M_j, h the r channels behind the first factor, so the change of a weight is s B M_j^T A

All adapters of one block share its matrix. Matrices and products are calculated in float32.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from onestep.core.errors import UsageError
from onestep.core.memory import release_memory
from onestep.networks.adapters import ALPHA, Adapters

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

FREQUENCIES = 64
"""Length of W, of an embedding, and of what is made of it."""
_INNER = 256
_SMALL = 1e-5
"""What the fresh weights of all linear layers are multiplied by: at the start the gates are almost zero."""

_UNET = (
    *("to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out"),
    *("proj_in", "proj_out", "ff.net.2", "ff.net.0.proj"),
)
_VAE = (
    *("conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out"),
    *("to_k", "to_q", "to_v", "to_out.0"),
)


def unet_targets(unet: nn.Module) -> list[str]:
    """Where the adapters of a U-Net sit: 257 modules in Stable Diffusion 2.1 (section 1.2)."""
    return [name for name in _weights(unet) if _ends(name, _UNET)]


def vae_targets(vae: nn.Module) -> list[str]:
    """Where those of a VAE sit: in its encoder alone, 31 modules in Stable Diffusion."""
    return [name for name in _weights(vae) if name.startswith("encoder.") and _ends(name, _VAE)]


def _weights(network: nn.Module) -> list[str]:
    kinds = (nn.Conv2d, nn.Linear)
    return [name for name, module in network.named_modules() if isinstance(module, kinds)]


def _ends(name: str, endings: Sequence[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def unet_block(name: str, levels: int = 4) -> int:
    """Which block of a U-Net a module is in: on the way down, middle, on the way up, all else."""
    first, _, rest = name.partition(".")
    if first == "mid_block":
        return levels
    if first in ("down_blocks", "up_blocks"):
        return int(rest.partition(".")[0]) + (0 if first == "down_blocks" else levels + 1)
    return 2 * levels + 1


def vae_block(name: str, levels: int = 4) -> int:
    """Which block of a VAE's encoder a module is in: on the way down, middle, all else."""
    first, _, rest = name.removeprefix("encoder.").partition(".")
    if first == "mid_block":
        return levels
    return int(rest.partition(".")[0]) if first == "down_blocks" else levels + 1


def fourier(scores: Tensor, frequencies: Tensor) -> Tensor:
    """F: scores (B, 2) and W (K,) to (B, 4 K), sines and cosines of blur, then of noise."""
    angles = 2 * math.pi * scores.float()[..., None] * frequencies.float()
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)


class BlockGates(nn.Module):
    """The matrices of one network."""

    def __init__(self, rank: int, blocks: int) -> None:
        super().__init__()
        self.rank, self.blocks = rank, blocks
        self.de_mlp = nn.Sequential(nn.Linear(4 * FREQUENCIES, _INNER), nn.ReLU())
        self.block_embeddings = nn.Embedding(blocks, FREQUENCIES)
        self.block_mlp = nn.Sequential(nn.Linear(FREQUENCIES, FREQUENCIES), nn.ReLU())
        self.fuse_mlp = nn.Linear(_INNER + FREQUENCIES, rank**2)
        with torch.no_grad():
            for layer in (self.de_mlp[0], self.block_mlp[0], self.fuse_mlp):
                assert isinstance(layer, nn.Linear)
                nn.init.kaiming_normal_(layer.weight).mul_(_SMALL)
                layer.bias.zero_()

    @torch.no_grad()
    def begin_plain(self) -> None:
        """Begin at the identity, with inner layers of the usual size: plain adapters that can be steered."""
        for layer in (self.de_mlp[0], self.block_mlp[0]):
            nn.init.kaiming_normal_(cast("nn.Linear", layer).weight)
        self.fuse_mlp.bias.copy_(torch.eye(self.rank).flatten())

    def forward(self, features: Tensor) -> Tensor:
        """F (B, 256) to M (B, blocks, rank, rank); the first index of a matrix is on A's side."""
        degradation = self.de_mlp(features)[:, None].expand(-1, self.blocks, -1)
        block = self.block_mlp(self.block_embeddings.weight).expand(len(features), -1, -1)
        fused = self.fuse_mlp(torch.cat([degradation, block], -1))
        return fused.reshape(len(features), self.blocks, self.rank, self.rank)


@dataclass(frozen=True)
class Matrices:
    """The gates of a batch, one matrix per image (or one for all) and block."""

    vae: Tensor
    """(B, blocks, r, r)"""
    unet: Tensor
    """(B, blocks, r, r)"""


class Gates(nn.Module):
    """Scores of degradation to the matrices of VAE and U-Net; W is drawn once and never trained."""

    w: Tensor

    def __init__(self, *, rank_vae: int, rank_unet: int, levels_vae: int = 4, levels_unet: int = 4) -> None:
        """With fresh weights.

        Args:
            rank_vae: Of the VAE's adapters.
            rank_unet: Of the U-Net's.
            levels_vae: Levels of resolution of the VAE.
            levels_unet: Those of the U-Net.
        """
        super().__init__()
        self.register_buffer("w", torch.randn(FREQUENCIES))
        self.vae = BlockGates(rank_vae, levels_vae + 2)
        self.unet = BlockGates(rank_unet, 2 * levels_unet + 2)

    def forward(self, scores: Tensor) -> Matrices:
        """(B, 2): blur and noise, in [0, 1]."""
        with torch.autocast(scores.device.type, enabled=False):
            features = fourier(scores, self.w)
            return Matrices(self.vae(features), self.unet(features))


@dataclass(frozen=True)
class _Gated:
    layer: "LoraLayer"
    adapter: str
    block: int

    @property
    def host(self) -> nn.Conv2d | nn.Linear:
        return cast("nn.Conv2d | nn.Linear", self.layer.get_base_layer())


class Gating:
    """The gates of one role's adapters of one network, applied as they are or folded into the weights."""

    def __init__(self, adapters: Adapters, role: str, block: Callable[[str], int]) -> None:
        """Hook the first factor of every adapter of a role.

        Args:
            adapters: Of a network; the role has been added.
            role: Whose.
            block: Name of a module of the plain network -> its block.
        """
        names = set(adapters.roles[role].values())
        self.gated: list[_Gated] = []
        self._matrices: Tensor | None = None
        self._network = adapters.network
        self._plain: list[tuple[nn.Parameter, Tensor]] = []
        for name, module in adapters.network.named_modules():
            for adapter in names & set(getattr(module, "lora_A", ())):
                found = _Gated(cast("LoraLayer", module), adapter, block(name))
                self.gated.append(found)
                found.layer.lora_A[adapter].register_forward_hook(self._hook(found.block))

    def _hook(self, block: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def multiply(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            del module, inputs
            return None if self._matrices is None else gate(output, self._matrices[:, block])

        return multiply

    @property
    def blocks(self) -> int:
        """How many matrices an image has here."""
        return 1 + max(one.block for one in self.gated)

    @contextmanager
    def using(self, matrices: Tensor | None) -> Generator[None]:
        """Let matrices (B, blocks, r, r) act for the length of a ``with``; None: the adapters are plain."""
        before, self._matrices = self._matrices, matrices
        try:
            yield
        finally:
            self._matrices = before

    def recomputed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Checkpointing that recomputes with the matrices of the forward pass, around one that exists."""

        def around(module: Callable[..., Any], *inputs: Any) -> Any:
            held = self._matrices

            def again(*arguments: Any) -> Any:
                with self.using(held):
                    return module(*arguments)

            return run(again, *inputs)

        return around

    @property
    def folded(self) -> bool:
        """Whether the weights of the network hold adapters and gates."""
        return bool(self._plain)

    def fold(self, matrices: Tensor, dtype: torch.dtype | None = None) -> None:
        """Put adapters and gates of one image into the weights; the plain ones are kept to be put back.

        Args:
            matrices: (1, blocks, r, r).
            dtype: What the whole network is stored in meanwhile; None: as it is.

        Raises:
            UsageError: There are several images.
        """
        if len(matrices) != 1:
            raise UsageError(f"the gates of {len(matrices)} images cannot be folded into one set of weights")
        self.unfold()
        with torch.inference_mode(False), torch.no_grad():
            for one in self.gated:
                weight = cast("nn.Parameter", one.host.weight)
                factors = one.layer.lora_A, one.layer.lora_B
                a, b = (cast("Tensor", factor[one.adapter].weight) for factor in factors)
                whole = weight.float() + change(a, b, matrices[0, one.block])
                self._swap(weight, _as(whole.to(dtype or weight.dtype), weight))
                one.layer.merged_adapters = [one.adapter]
            for name, parameter in self._network.named_parameters():
                if dtype is not None and parameter.dtype != dtype and "lora_" not in name:
                    self._swap(parameter, parameter.data.to(dtype))
        release_memory()  # else the holes of what was folded before stay taken

    def unfold(self) -> None:
        """Put the plain weights back, exactly."""
        for parameter, plain in self._plain:
            parameter.data = plain
        for one in self.gated if self._plain else ():
            one.layer.merged_adapters = []
        self._plain = []

    def _swap(self, parameter: nn.Parameter, data: Tensor) -> None:
        self._plain.append((parameter, parameter.data))
        parameter.data = data


def gate(h: Tensor, matrix: Tensor) -> Tensor:
    """The product h M: channels of (B, r, H, W), or last axis of (B, L, r), by matrices (B or 1, r, r)."""
    with torch.autocast(h.device.type, enabled=False):
        if h.ndim == 4:
            out = (matrix.float().transpose(1, 2) @ h.float().flatten(2)).reshape(h.shape)
        else:
            out = h.float() @ matrix.float()
    return out.to(h.dtype)


def change(a: Tensor, b: Tensor, matrix: Tensor) -> Tensor:
    """What a gated adapter adds to the weight of its host: s B M^T A, s = 8 / r, in float32.

    Args:
        a: (r, inputs) of a linear layer, (r, inputs, k, k) of a convolution.
        b: (outputs, r) or (outputs, r, 1, 1).
        matrix: (r, r).
    """
    rank = len(a)
    left = b.reshape(len(b), rank).float() @ matrix.float().T
    return (ALPHA / rank) * (left @ a.reshape(rank, -1).float()).reshape(len(b), *a.shape[1:])


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    """In the memory layout of another tensor."""
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
