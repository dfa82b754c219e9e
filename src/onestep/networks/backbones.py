"""Backbones of others through transformers, which is imported when they are loaded: CLIP and DINO.

Only folders that are on this machine are loaded, and only safetensors: ``ONESTEP_HOME/<name>``, else the
cache of Hugging Face.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onestep import hub
from onestep.core.errors import InputError

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Clip(nn.Module):
    """CLIP (Radford et al., 2021; arXiv:2103.00020): images and texts as unit vectors, weights frozen."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        """Wrap what transformers loaded.

        Args:
            model: A ``CLIPModel``.
            tokenizer: Its ``CLIPTokenizer``.
        """
        super().__init__()
        self._model: Any = model
        self._tokenizer = tokenizer
        self.side: int = self._model.config.vision_config.image_size
        """Side of the square images that it takes, in pixels."""
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, name: str, repository: str) -> "Clip":
        """From a folder of this machine.

        Args:
            name: The folder below ``ONESTEP_HOME``.
            repository: ``OWNER/NAME`` on Hugging Face, whose cache is looked into as well.

        Raises:
            InputError: transformers is not installed, or the files are not there or do not fit.
        """
        try:
            from transformers import CLIPModel, CLIPTokenizer
        except ImportError as error:
            raise InputError("CLIP needs transformers: pip install 'onestep-sr[diffusion]'") from error
        folder = hub.home() / name
        place: Path | str = folder if folder.is_dir() else repository
        try:
            model = CLIPModel.from_pretrained(place, local_files_only=True, use_safetensors=True)
            tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"CLIP {repository} is not on this machine: run `hf download {repository}`, or put "
                f"config.json, model.safetensors, vocab.json and merges.txt into {folder}"
            ) from error
        return cls(model, tokenizer)

    @property
    def sharpness(self) -> float:
        """The learned factor of cosines before a softmax, about 100."""
        return float(self._model.logit_scale.exp())

    def images(self, images: Tensor) -> Tensor:
        """(B, 3, side, side) in [-1, 1] to unit vectors (B, D)."""
        pixels = ((images + 1) / 2 - self.mean) / self.deviation
        seen = self._model.vision_model(pixel_values=pixels).pooler_output
        return _unit(self._model.visual_projection(seen))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit vectors, one row each: (n, D)."""
        tokens = self._tokenizer(list(texts), padding=True, return_tensors="pt").to(self.mean.device)
        read = self._model.text_model(**tokens).pooler_output
        return _unit(self._model.text_projection(read))


class Dino(nn.Module):
    """DINO ViT-B/16 (Caron et al., 2021; arXiv:2104.14294): patches at two depths, class token at a third.

    Images are resized to ``side`` by area; from them CLIP's mean is subtracted and ImageNet's deviation is
    divided by, as the discriminators that were trained on these features did.
    """

    mean: Tensor
    deviation: Tensor
    depths = (4, 8, 11)
    """Blocks, from 0, whose outputs are taken, each after the final normalisation."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a ``ViTModel`` that transformers loaded."""
        super().__init__()
        self._model: Any = model
        self.widths: tuple[int, ...] = (self._model.config.hidden_size,) * len(self.depths)
        self.side: int = self._model.config.image_size
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "deviation", torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1), persistent=False
        )
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, name: str, repository: str) -> "Dino":
        """From a folder of this machine; arguments and errors are those of :meth:`Clip.load`."""
        try:
            from transformers import ViTModel
        except ImportError as error:
            raise InputError("DINO needs transformers: pip install 'onestep-sr[diffusion]'") from error
        folder = hub.home() / name
        place: Path | str = folder if folder.is_dir() else repository
        try:
            model = ViTModel.from_pretrained(
                place, local_files_only=True, use_safetensors=True, add_pooling_layer=False
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"DINO {repository} is not on this machine: run `hf download {repository}`, or put "
                f"config.json and model.safetensors into {folder}"
            ) from error
        return cls(model)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] to two maps (B, C, side / 16, side / 16) and a vector (B, C)."""
        pixels = nn.functional.interpolate((image + 1) / 2, (self.side, self.side), mode="area")
        pixels = (pixels - self.mean) / self.deviation
        states = self._model(pixel_values=pixels, output_hidden_states=True).hidden_states
        *maps, last = (self._model.layernorm(states[depth + 1]) for depth in self.depths)
        across = self.side // self._model.config.patch_size
        found = [one[:, 1:].transpose(1, 2).reshape(len(image), -1, across, across) for one in maps]
        return [*found, last[:, 0]]


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
