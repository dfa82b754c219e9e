"""Prompts become embeddings: a CLIP text encoder of transformers, and what has been encoded before.

Prompts repeat, so each is encoded once. The encoder of a folder is loaded when a prompt is new, and let go
again; embeddings are kept below ``ONESTEP_HOME``, so that later runs need no encoder at all.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onestep import hub
from onestep.core.errors import InputError, UsageError
from onestep.networks.prior_config import TextShape

_log = logging.getLogger("onestep")

_SAMPLED = 1 << 16
"""Bytes at either end of a weight file that stand for the whole in the name of a cache."""


def byte_tokenizer() -> Any:
    """A CLIP tokenizer made on the spot: one token per byte, 514 in all, padded with "!" as SD 2 does."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in shown:
            shown[byte] = chr(256 + len(shown) - len(printable))
    letters = [shown[byte] for byte in (*printable, *(b for b in range(256) if b not in printable))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], pad_token=cast("Any", "!")
    )


def text_model(shape: TextShape) -> nn.Module:
    """A text encoder with fresh weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return cast("nn.Module", CLIPTextModel(CLIPTextConfig(**shape.arguments())))


class PromptEncoder(nn.Module):
    """Texts to embeddings (B, length, width): the last hidden state, all tokens, no mask."""

    def __init__(
        self,
        tokenizer: Any,
        model: nn.Module | Callable[[], nn.Module],
        *,
        length: int = 77,
        key: str | None = None,
    ) -> None:
        """Of a model that is there, or of one that is loaded when it is needed.

        Args:
            tokenizer: A CLIP tokenizer.
            model: The text encoder, then part of this module; or how to load it, then never part of it.
            length: Tokens per prompt.
            key: Names the encoder in the cache below ``ONESTEP_HOME``; None: nothing is written.
        """
        super().__init__()
        self.tokenizer, self.length, self.key = tokenizer, length, key
        self.model = model if isinstance(model, nn.Module) else None
        self._load = None if isinstance(model, nn.Module) else model
        self._known: dict[str, Tensor] = {}

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """(B, length) token numbers, padded.

        Raises:
            UsageError: A text has too many tokens.
        """
        ids: list[list[int]] = self.tokenizer(list(texts), verbose=False).input_ids
        for text, one in zip(texts, ids, strict=True):
            if len(one) > self.length:
                raise UsageError(
                    f"the prompt {_shortened(text)!r} has {len(one)} tokens, and {self.length} are possible, "
                    "begin and end included; shorten it"
                )
        padding = int(self.tokenizer.pad_token_id)
        return torch.tensor([one + [padding] * (self.length - len(one)) for one in ids], device="cpu")

    def fits(self, text: str) -> bool:
        """Whether a text has few enough tokens."""
        return len(self.tokenizer([text], verbose=False).input_ids[0]) <= self.length

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, length) -> (B, length, width), by the encoder that is part of this module."""
        assert self.model is not None
        return cast("Any", self.model)(input_ids=tokens).last_hidden_state

    def embed(self, texts: Sequence[str]) -> Tensor:
        """(B, length, width), float32, on the CPU; every text is encoded once.

        Raises:
            UsageError: A text has too many tokens.
            InputError: The encoder is needed and cannot be loaded.
        """
        if self.model is not None and next(self.model.parameters()).device.type == "meta":
            width = cast("Any", self.model).config.hidden_size  # an outline: shapes alone
            return torch.empty(len(texts), self.length, width, device="meta")
        missing = [text for text in dict.fromkeys(texts) if self._recall(text) is None]
        if missing:
            tokens = self.tokens(missing)
            model = self.model or (self._load() if self._load else None)
            assert model is not None
            where = next(model.parameters()).device
            training = model.training
            with torch.no_grad(), torch.autocast(where.type, enabled=False):
                found = cast("Any", model.eval())(input_ids=tokens.to(where)).last_hidden_state.float().cpu()
            model.train(training)
            for text, embedding in zip(missing, found, strict=True):
                self._remember(text, embedding)
        return torch.stack([self._known[text] for text in texts])

    def forget(self) -> None:
        """Drop what was kept in memory; for a caller that trains the encoder."""
        self._known.clear()

    def _recall(self, text: str) -> Tensor | None:
        if text not in self._known and self.key is not None:
            with suppress(OSError, SafetensorError, KeyError, ValueError):
                self._known[text] = load_file(self._file(text))["embedding"].float()
        return self._known.get(text)

    def _remember(self, text: str, embedding: Tensor) -> None:
        self._known[text] = embedding.clone()
        if self.key is not None:
            with suppress(OSError, SafetensorError):
                file = self._file(text)
                file.parent.mkdir(parents=True, exist_ok=True)
                part = file.with_suffix(".part")
                save_file({"embedding": embedding.contiguous()}, part, {"prompt": text})
                part.replace(file)

    def _file(self, text: str) -> Path:
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return hub.home() / "prompts" / str(self.key) / f"{name}.safetensors"


def folder_encoder(folder: Path) -> PromptEncoder:
    """The tokenizer and text encoder of a prior in diffusers layout; the encoder is loaded when needed.

    Raises:
        InputError: The tokenizer cannot be read.
    """
    from transformers import CLIPTokenizer

    try:
        config = json.loads((folder / "text_encoder" / "config.json").read_text("utf-8"))
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
        length = int(config.get("max_position_embeddings", 77))
    except (OSError, ValueError, TypeError, KeyError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}: its text encoder or tokenizer cannot be read ({said})") from error
    return PromptEncoder(tokenizer, lambda: _loaded(folder), length=length, key=_identity(folder))


def _loaded(folder: Path) -> nn.Module:
    from transformers import CLIPTextModel

    try:
        model = CLIPTextModel.from_pretrained(
            str(folder / "text_encoder"), local_files_only=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder / 'text_encoder'}: cannot be loaded ({said})") from error
    _log.info("text encoder loaded for a new prompt")
    return cast("nn.Module", model).eval()


def _identity(folder: Path) -> str:
    """A name for the encoder of a folder: of its settings, its tokenizer, and the ends of its weights."""
    known = hashlib.sha256()
    files = sorted(path for part in ("text_encoder", "tokenizer") for path in (folder / part).glob("*.*"))
    for path in files:
        size = path.stat().st_size
        known.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            known.update(file.read(_SAMPLED))
            file.seek(max(0, size - _SAMPLED))
            known.update(file.read())
    return known.hexdigest()[:16]


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
