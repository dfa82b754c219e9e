"""Named low-rank adapters (LoRA, by peft) on one frozen network, in roles of which one acts at a time.

A role is what a paper would hold a copy of the network for: generator, fake score. Where an adapter sits is
the rule of OSEDiff's official code (docs/methods/osediff.md, section 1.2); the names of its adapters and of
its tensors are kept, so that official files load: ``<module>.lora_A.<adapter>.weight``.
"""

import math
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from onestep.core.errors import UsageError
from onestep.core.memory import release_memory

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ALPHA = 8
"""peft's default; the scale of an adapter is ALPHA / rank, 2 at rank 4."""

_UNET = (
    *("to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out"),
    *("proj_out", "proj_in", "ff.net.2", "ff.net.0.proj"),
)
_VAE = ("conv", "to_k", "to_q", "to_v", "to_out.0")


def _weights(network: nn.Module) -> list[str]:
    """Names of the modules with a weight that could be adapted: no biases, no normalisations."""
    names = [name for name, _ in network.named_parameters()]
    return [name.removesuffix(".weight") for name in names if "bias" not in name and "norm" not in name]


def unet_targets(unet: nn.Module) -> dict[str, list[str]]:
    """Where the adapters of a U-Net sit, by part: encoder, decoder, others (the middle)."""
    parts: dict[str, list[str]] = {"encoder": [], "decoder": [], "others": []}
    for name in _weights(unet):
        if any(pattern in name for pattern in _UNET):
            down, up = "down_blocks" in name or "conv_in" in name, "up_blocks" in name or "conv_out" in name
            parts["encoder" if down else "decoder" if up else "others"].append(name)
    return parts


def vae_targets(vae: nn.Module) -> dict[str, list[str]]:
    """Where the adapters of a VAE sit: its encoder alone, with the convolution of the moments."""
    inside = [n for n in _weights(vae) if n.startswith("encoder.") and any(p in n for p in _VAE)]
    return {"encoder": [*inside, "quant_conv"]}


class RoleConv(nn.Conv2d):
    """A convolution of which roles may have full copies, weight and bias, that they train.

    The first role with a copy owns ``weight`` and ``bias``, so that they have their official names; what the
    base had is then kept in ``copies.base``.
    """

    role: str | None = None
    owner: str | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As ``nn.Conv2d``: peft makes the factors of an adapter of the class of their host."""
        super().__init__(*arguments, **named)
        self.copies = nn.ModuleDict()

    @classmethod
    def of(cls, host: nn.Conv2d) -> "RoleConv":
        """With the parameters of a plain convolution."""
        with torch.device("meta"):
            conv = cls(*_shape(host))
        conv.weight, conv.bias = host.weight, host.bias
        return conv

    def add(self, role: str) -> None:
        """Give a role its copy, for now equal to what the base has."""
        if self.owner is None:
            self.owner = role
            self.copies["base"] = self._copy()
        else:
            self.copies[role] = self._copy()

    def held_by(self, role: str) -> list[nn.Parameter]:
        """The copy of a role; nothing where it has none."""
        if role == self.owner:
            return [cast("nn.Parameter", one) for one in (self.weight, self.bias)]
        return list(self.copies[role].parameters()) if role in self.copies else []

    def forward(self, input: Tensor) -> Tensor:
        """As the role has it, or as the base."""
        if self.role is None and self.owner is not None:
            return self.copies["base"](input)
        if self.role is not None and self.role != self.owner:
            return self.copies[self.role if self.role in self.copies else "base"](input)
        return super().forward(input)

    def _copy(self) -> nn.Conv2d:
        source = self.copies["base"] if "base" in self.copies else self  # noqa: SIM401
        with torch.device(self.weight.device):
            copy = nn.Conv2d(*_shape(self))
        with torch.no_grad():
            for name, value in copy.named_parameters():
                value.copy_(cast("Tensor", getattr(source, name)))
        return copy.requires_grad_(False)


def _shape(conv: nn.Conv2d) -> tuple[Any, ...]:
    return conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding


class Adapters:
    """The adapters of one network."""

    def __init__(
        self, network: nn.Module, targets: Mapping[str, Sequence[str]], first: str | None = None
    ) -> None:
        """Nothing is added yet.

        Args:
            network: Plain; changed in place when a role is added.
            targets: Part -> names of modules.
            first: Name of a convolution of which roles may have full copies.
        """
        self.network = network
        self.targets = {part: list(names) for part, names in targets.items()}
        self.roles: dict[str, dict[str, str]] = {}
        """Role -> part -> name of the adapter."""
        self.layers: list[LoraLayer] = []
        self.settled: str | None = None
        """The role that was folded into the weights, if any."""
        self._active: tuple[list[str], str | None] = ([], None)
        self.conv: RoleConv | None = None
        if first is not None:
            self.conv = RoleConv.of(cast("nn.Conv2d", network.get_submodule(first)))
            setattr(network, first, self.conv)

    def add(self, role: str, rank: int, *, prefix: str | None = None, full: bool = False) -> None:
        """Give a role its adapters, A normal with deviation 1 / rank and B zero, so that nothing changes yet.

        Args:
            role: Its name.
            rank: Of every adapter.
            prefix: Adapters are called ``<prefix>_<part>``, or ``<prefix>`` where the part has no name; the
                role's name by default.
            full: Whether the role has a full copy of the first convolution.
        """
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        names = {part: f"{prefix or role}_{part}".removesuffix("_") for part in self.targets}
        if full and self.conv is not None:
            self.conv.add(role)
        for part, adapter in names.items():
            config = LoraConfig(
                r=rank,
                lora_alpha=ALPHA,
                init_lora_weights="gaussian",
                target_modules=self.targets[part],
            )
            with warnings.catch_warnings(action="ignore"):  # peft wonders at several adapters; they are meant
                inject_adapter_in_model(config, self.network, adapter)
        self.roles[role] = names
        self.layers = [layer for layer in self.network.modules() if isinstance(layer, LoraLayer)]
        self.network.requires_grad_(False)
        self._activate([], None)

    def parameters(self, role: str, parts: Sequence[str] | None = None) -> list[nn.Parameter]:
        """What a role trains; of some parts alone where they are named."""
        chosen = {f".{name}." for part, name in self.roles[role].items() if parts is None or part in parts}
        found = [p for name, p in self.network.named_parameters() if any(one in name for one in chosen)]
        return found + (self.conv.held_by(role) if self.conv is not None else [])

    def names(self, role: str) -> set[str]:
        """The names, in the network's state dict, of what a role trains."""
        held = {id(parameter) for parameter in self.parameters(role)}
        return {name for name, parameter in self.network.named_parameters() if id(parameter) in held}

    @contextmanager
    def using(self, role: str | None, parts: Sequence[str] | None = None) -> Generator[None]:
        """Let a role act for the length of a ``with``; None: the base alone. ``parts``: some parts alone."""
        named = {} if role is None else self.roles[role]
        with self.resuming(([n for part, n in named.items() if parts is None or part in parts], role)):
            yield

    @property
    def state(self) -> tuple[list[str], str | None]:
        """Which adapters act, and whose they are; for :meth:`resuming`."""
        return self._active

    @contextmanager
    def resuming(self, state: tuple[list[str], str | None]) -> Generator[None]:
        """Let act what acted before, for the length of a ``with``: what is recomputed needs it.

        Raises:
            UsageError: Another role has been folded into the weights since.
        """
        if self.settled is not None:
            if state[1] != self.settled:
                raise UsageError(f"the weights hold the role {self.settled!r} for good; load the model anew")
            yield
            return
        before = self._active
        self._activate(*state)
        try:
            yield
        finally:
            self._activate(*before)

    def settle(self, role: str, dtype: torch.dtype | None = None) -> None:
        """Fold a role into the weights, calculated in float32, for good; then cast them.

        Args:
            role: It acts from now on without its adapters.
            dtype: What the weights are stored in afterwards; None: as they are.

        Raises:
            UsageError: A role has been folded already.
        """
        if self.settled is not None:
            raise UsageError(f"the weights hold the role {self.settled!r} for good; load the model anew")
        with torch.inference_mode(False), torch.no_grad():
            if self.conv is not None:
                self._settle_conv(self.conv, role)
            for layer in self.layers:
                names = [name for name in self.roles[role].values() if name in layer.lora_A]
                host = cast("nn.Conv2d | nn.Linear", layer.get_base_layer())
                for name in names:
                    a, b = (cast("Tensor", one[name].weight) for one in (layer.lora_A, layer.lora_B))
                    whole = host.weight.float() + change(a, b)
                    host.weight.data = whole.to(dtype or host.weight.dtype)
                layer.merged_adapters = names
            if dtype is not None:
                for name, parameter in self.network.named_parameters():
                    if "lora_" not in name:
                        parameter.data = parameter.data.to(dtype)
        self.settled = role
        release_memory()  # else as much as was freed stays taken

    def _settle_conv(self, conv: RoleConv, role: str) -> None:
        """The convolution as the role has it, whatever role is asked for."""
        if conv.owner is not None and role != conv.owner:
            source = conv.copies[role if role in conv.copies else "base"]
            for name in ("weight", "bias"):
                getattr(conv, name).data = getattr(source, name).data.clone()
        conv.copies, conv.owner, conv.role = nn.ModuleDict(), None, None

    def _activate(self, names: list[str], role: str | None) -> None:
        """Which adapters act; whether a parameter is trained is not changed by that."""
        self._active = (names, role)
        for layer in self.layers:
            parameters = [*layer.lora_A.parameters(), *layer.lora_B.parameters()]
            trained = [parameter.requires_grad for parameter in parameters]
            layer.set_adapter(names)
            for parameter, flag in zip(parameters, trained, strict=True):
                parameter.requires_grad_(flag)
        if self.conv is not None:
            self.conv.role = role


def change(a: Tensor, b: Tensor) -> Tensor:
    """What an adapter adds to the weight of its host: (ALPHA / rank) B A, in float32.

    Args:
        a: (rank, inputs) of a linear layer, (rank, inputs, k, k) of a convolution.
        b: (outputs, rank) or (outputs, rank, 1, 1).
    """
    rank = len(a)
    product = b.reshape(len(b), rank).float() @ a.reshape(rank, math.prod(a.shape[1:])).float()
    return (ALPHA / rank) * product.reshape(len(b), *a.shape[1:])
