"""Official files of OFTSR (github.com/yuanzhi-zhu/OFTSR, hub Yuanzhi/OFTSR).

They come in three layouts:

    {"ema": {"decay", "num_updates", "shadow_params": [tensor, ...]}, "step"}   published: an unnamed list
    the same with "model" (names with the prefix "module.") and "optimizer"     a training run's
    {name: tensor}                                                              a bare state dict

The list is in the order of the network's ``parameters()``. EMA weights are taken where there are any. What a
network was trained for (teacher or student, share of noise, degradation, scale) stands only in the official
file names; a renamed file needs it as options.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor

from onestep.checkpoint import Card
from onestep.convert.cards import converted
from onestep.convert.reading import bare, first_mismatch, open_official, owned
from onestep.core.config import override
from onestep.core.errors import InputError, UsageError
from onestep.methods.oftsr import StudentConfig, TeacherConfig
from onestep.networks.unet import UNet, UNetConfig

Sizes = Mapping[str, UNetConfig]

PUBLISHED: Sizes = MappingProxyType({"FFHQ/DIV2K": UNetConfig.ffhq(), "ImageNet": UNetConfig.imagenet()})
"""The networks of the published files, by the data they were trained on."""

_OPERATORS: Mapping[str, Literal["bicubic", "average-pool"]] = MappingProxyType(
    {"bicubic": "bicubic", "avp": "average-pool"}
)
_RUN = re.compile(r"-(FFHQ|DIV2K|ImageNet)(_DIS)?-checkpoint")
_EXAMPLES = MappingProxyType(
    {"kind": "student|teacher", "sigma": "0.1", "degradation": "bicubic|average-pool", "scale": "4"}
)


@dataclass(frozen=True)
class OftsrFacts:
    """What an OFTSR file was trained for; none of it can be seen in the weights."""

    kind: Literal["student", "teacher"] | None = None
    sigma: float | None = None
    """Share of noise in the source, sigma_p of the paper; in [0, 1]."""
    degradation: Literal["bicubic", "average-pool"] | None = None
    """How LR images are made, which also decides how they are brought back to HR size."""
    scale: int | None = None
    """HR side / LR side."""

    @classmethod
    def of_name(cls, name: str) -> "OftsrFacts":
        """What an official file name tells; None for what it does not.

        Official names look like ``sr_avp-sf4-sigmay_0.05-guided_unet-sigma0.5-…-FFHQ_DIS-checkpoint_24.pth``.
        """
        operator = re.search(r"(?:^|[^a-z])sr_(bicubic|avp)-", name)
        scale = re.search(r"-sf(\d+)-", name)
        sigma = re.search(r"-sigma(\d+(?:\.\d+)?)-", name)
        run = _RUN.search(name)
        return cls(
            kind=("student" if run[2] else "teacher") if run else None,
            sigma=float(sigma[1]) if sigma else None,
            degradation=_OPERATORS[operator[1]] if operator else None,
            scale=int(scale[1]) if scale else None,
        )


@dataclass(frozen=True)
class Guided:
    """An official guided U-Net: its size, and its weights by name in the order of ``parameters()``."""

    size: str
    """Name of the published size it has."""
    config: UNetConfig
    tensors: dict[str, Tensor]
    """As they lie in the file; they may share memory and be mapped from it."""
    step: int
    """Training steps, 0 where the file does not say."""
    source: Literal["ema", "model"]


def guided_state(path: Path, sizes: Sizes = PUBLISHED) -> Guided:
    """Read an official file of a guided U-Net; its size is recognised by the number of tensors.

    Args:
        path: A file in one of the three layouts above.
        sizes: The networks to choose from.

    Raises:
        InputError: Another layout, or tensors that do not fit: one line with the first mismatch.
    """
    content = open_official(path)
    found, source = _weights(path, content)
    size = min(sizes, key=lambda name: abs(len(sizes[name].shapes()) - len(found)))
    shapes = sizes[size].shapes()
    if isinstance(found, list):
        names = _names_in(content, len(found)) or shapes
        labels = [*names, *(f"tensor {i}" for i in range(len(names) + 1, len(found) + 1))]
        found = dict(zip(labels, found, strict=False))
    mismatch = first_mismatch(shapes, found)
    if mismatch:
        raise InputError(
            f"{path}: does not fit the {size} network of {len(shapes)} tensors (the file has {len(found)}): "
            f"{mismatch}"
        )
    return Guided(size, sizes[size], {name: found[name] for name in shapes}, _step(content), source)


def _weights(path: Path, content: Any) -> tuple[dict[str, Any] | list[Any], Literal["ema", "model"]]:
    """The weights of any layout: a list where the file has no names for them."""
    if isinstance(content, Mapping):
        layout = cast("Mapping[str, Any]", content)
        ema, model = layout.get("ema"), layout.get("model")
        if isinstance(ema, Mapping) and isinstance(ema.get("shadow_params"), list | tuple):
            return list(cast("Iterable[Any]", ema["shadow_params"])), "ema"
        if isinstance(model, Mapping):
            return bare(cast("Mapping[str, Any]", model)), "model"
        if layout and all(isinstance(value, Tensor) for value in layout.values()):
            return bare(layout), "model"
        holds = ", ".join(str(key) for key in list(layout)[:5]) or "nothing"
    else:
        holds = f"a {type(content).__name__}"
    raise InputError(
        f"{path}: not an OFTSR checkpoint: it holds {holds}; expected ema with shadow_params, model, or "
        "named tensors"
    )


def _names_in(content: Mapping[str, Any], count: int) -> list[str] | None:
    """The names of an unnamed list, where the same file also holds the model's state dict."""
    model = content.get("model")
    return list(bare(model)) if isinstance(model, Mapping) and len(model) == count else None


def _step(content: Mapping[str, Any]) -> int:
    """Training steps as the file tells them."""
    ema = content.get("ema")
    updates = ema.get("num_updates") if isinstance(ema, Mapping) else None
    for value in (content.get("step"), updates):
        if isinstance(value, int) or (isinstance(value, Tensor) and value.numel() == 1):
            return int(value)
    return 0


def from_official(
    path: Path, name: str, options: Mapping[str, str], sizes: Sizes = PUBLISHED
) -> tuple[dict[str, Tensor], Card]:
    """The tensors and the card of a release file, from an official OFTSR file.

    Args:
        path: The official file.
        name: The name the model will have.
        options: Overrides of `OftsrFacts`, as text; needed only for what the file name does not tell.
        sizes: The networks to choose from.

    Raises:
        UsageError: An option is unknown, has an impossible value, or is needed and missing.
        InputError: As `guided_state`.
    """
    facts = override(OftsrFacts.of_name(path.name), [f"{key}={value}" for key, value in options.items()])
    unknown = [field.name for field in fields(facts) if getattr(facts, field.name) is None]
    if unknown:
        ask = " ".join(f"-O {option}={_EXAMPLES[option]}" for option in unknown)
        raise UsageError(f"{path}: its name does not tell {', '.join(unknown)}; add {ask}")
    if not 0 <= cast("float", facts.sigma) <= 1:
        raise UsageError(f"sigma={facts.sigma}: the share of noise is between 0 and 1")
    if not 1 <= cast("int", facts.scale) <= 16:
        raise UsageError(f"scale={facts.scale}: a scale is between 1 and 16")
    return _release(path, name, facts, guided_state(path, sizes))


def _release(path: Path, name: str, facts: OftsrFacts, guided: Guided) -> tuple[dict[str, Tensor], Card]:
    """Name the tensors as the method's model does, and write its card."""
    student = facts.kind == "student"
    config = (StudentConfig if student else TeacherConfig)(
        network=guided.config,
        scale=cast("int", facts.scale),
        sigma=cast("float", facts.sigma),
        up="bicubic" if facts.degradation == "bicubic" else "replicate",
        most_realistic=0.99 if student else 1.0,
    )
    with torch.device("meta"):
        model = config.build()
    prefix = next(name for name, module in model.named_modules() if isinstance(module, UNet))
    card = converted(
        name,
        "oftsr" if student else "oftsr-teacher",
        config,
        model,
        step=guided.step,
        license="none stated by the authors",
        limits=_limits(path.name, facts),
        attributions=["Y. Zhu et al., OFTSR, arXiv 2412.09465; weights: huggingface.co/Yuanzhi/OFTSR"],
        defaults={"realism": 1.0} if student else {},
    )
    return {f"{prefix}.{key}": tensor for key, tensor in owned(guided.tensors).items()}, card


def _limits(name: str, facts: OftsrFacts) -> list[str]:
    """What the training tells about the use; only what is known."""
    noise = re.search(r"-sigmay_(\d+(?:\.\d+)?)-", name)
    run = _RUN.search(name)
    made = f"LR images by {facts.degradation} x{facts.scale}"
    if run:
        deviation = f"noise of standard deviation {noise[1]} (values in [-1, 1])" if noise else "no noise"
        made += f" with {deviation}"
    limits = [f"Made for {made}; others restore badly."]
    return [*limits, f"Trained on 256x256 pictures of {run[1]}."] if run else limits
