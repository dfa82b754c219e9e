"""Official files of S3Diff (github.com/ArcticHare105/S3Diff, hub zhangap/S3Diff: ``s3diff.pkl``).

    {"state_dict_unet", "state_dict_vae"}       what was trained of the networks: 516 + 62 tensors
    {"state_dict_vae_de_mlp", ...}              six linear layers that make the gates
    {"w", "state_embeddings"}                   the fixed vector, and the embeddings of blocks
    {"rank_unet", "rank_vae", two lists}        shapes

The degradation estimator is a file of its own (``de_net.pth``) and becomes part of the release file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from onestep.checkpoint import Card
from onestep.convert import de_net
from onestep.convert.cards import converted
from onestep.convert.reading import first_mismatch, open_official, owned
from onestep.core.config import override
from onestep.core.errors import InputError, UsageError
from onestep.estimates import load_estimator
from onestep.methods.s3diff import S3diff, S3diffConfig
from onestep.networks import prior_folders
from onestep.networks.degradation_estimator import EstimatorConfig

_NETS = ("unet", "vae")
_MLPS = ("de_mlp", "block_mlp", "fuse_mlp")
_NEEDED = ("state_dict_unet", "state_dict_vae", "w", "state_embeddings")


@dataclass(frozen=True)
class S3diffFacts:
    """What an S3Diff file does not tell."""

    estimator: str = ""
    """The degradation estimator that the weights were trained with: de_net.pth, or a release file of it."""
    base: str = "sd-turbo"
    """Name or folder of the base that it was trained on."""
    scale: int = 4


def from_official(
    path: Path, name: str, options: Mapping[str, str], network: EstimatorConfig | None = None
) -> tuple[dict[str, Tensor], Card]:
    """The tensors and the card of a release file, from an official S3Diff file.

    Args:
        path: The official file.
        name: The name the model will have.
        options: Overrides of `S3diffFacts`, as text; ``estimator`` is needed.
        network: Shape of an official estimator; None: the published one.

    Raises:
        UsageError: An option is unknown, has an impossible value, or is missing; the base is of another kind.
        InputError: A file is of another layout or does not fit: one line with the first mismatch.
    """
    facts = override(S3diffFacts(), [f"{key}={value}" for key, value in options.items()])
    if not facts.estimator:
        raise UsageError(
            f"{path}: its gates need the estimator they were trained with; add -O estimator=de_net.pth (the "
            "official file, or a release file of it)"
        )
    content = open_official(path)
    layout = cast("Mapping[str, Any]", content) if isinstance(content, Mapping) else {}
    absent = [key for key in _NEEDED if key not in layout]
    if absent:
        holds = ", ".join(str(key) for key in list(layout)[:5]) or f"a {type(content).__name__}"
        raise InputError(f"{path}: not an S3Diff checkpoint: it holds {holds}, and not {absent[0]}")
    estimator, shape = _estimator(Path(facts.estimator), network)
    unet, vae = (_rank(path, layout, net) for net in _NETS)
    config = S3diffConfig(facts.base, estimator=shape, scale=facts.scale, rank_unet=unet, rank_vae=vae)
    model = config.outline()
    found = {**_named(path, layout), **estimator}
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    mismatch = first_mismatch(wanted, found)
    if mismatch:
        raise InputError(f"{path}: does not fit S3Diff's {len(wanted)} tensors: {mismatch}")
    prior_folders.link(facts.base)
    return owned({key: cast("Tensor", found[key]) for key in wanted}), _card(name, model)


def _named(path: Path, layout: Mapping[str, Any]) -> dict[str, Any]:
    """The file's tensors under the names of the release file."""
    embeddings = layout["state_embeddings"]
    found: dict[str, Any] = {"gates.w": layout["w"]}
    for net in _NETS:
        parts = {f"prior.{net}": layout[f"state_dict_{net}"]}
        parts |= {f"gates.{net}.{mlp}": layout.get(f"state_dict_{net}_{mlp}") for mlp in _MLPS}
        held = embeddings.get(f"state_dict_{net}_block") if isinstance(embeddings, Mapping) else None
        parts[f"gates.{net}.block_embeddings"] = held
        for prefix, state in parts.items():
            if not isinstance(state, Mapping):
                raise InputError(f"{path}: holds nothing for {prefix}; take the authors' file")
            found |= {f"{prefix}.{key}": value for key, value in state.items()}
    return found


def _rank(path: Path, layout: Mapping[str, Any], net: str) -> int:
    found = layout.get(f"rank_{net}")
    if not isinstance(found, int | Tensor) or int(found) < 1:
        raise InputError(f"{path}: rank_{net} should be a number, found {found!r}; take the authors' file")
    return int(found)


def _estimator(path: Path, network: EstimatorConfig | None) -> tuple[dict[str, Tensor], EstimatorConfig]:
    """Tensors and shape of an estimator, from an official file or a release file."""
    if path.suffix == ".safetensors":
        net = load_estimator(path)
        return {f"estimator.{key}": value for key, value in net.state_dict().items()}, net.config
    if not path.is_file():
        raise InputError(f"{path}: no such file (option estimator)")
    shape = network or EstimatorConfig()
    tensors, _ = de_net.from_official(path, path.stem, {}, shape)
    return {f"estimator.{key.removeprefix('net.')}": value for key, value in tensors.items()}, shape


def _card(name: str, model: S3diff) -> Card:
    return converted(
        name,
        "s3diff",
        model.config,
        model,
        license="Apache-2.0, as the authors' model card says; the base has a licence of its own",
        limits=["Trained for x4 at 512 pixels; detail may be invented, and is not always faithful."],
        attributions=["A. Zhang et al., S3Diff, arXiv 2409.17058; weights: huggingface.co/zhangap/S3Diff"],
    )
