"""One run of a model over one whole image: the gate between pixels in [0, 1] and models in [-1, 1]."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from onestep.core.contract import Condition, OneStepModel
from onestep.core.errors import InputError, UsageError
from onestep.core.noise import NoiseCanvas
from onestep.core.resize import resize
from onestep.core.tiling import fit, tiled
from onestep.plan import Plan, Settings, halved, shared
from onestep.runtime import out_of_memory

_log: Final = logging.getLogger("onestep")

_LIVE_LAYERS = 12
"""Outputs of the largest layer that are alive at once in a forward pass: a rule of thumb (12 fits the
compact network; in the guided U-Net it is 9)."""
_BLOWN = 5.0
"""Beyond this, values that should be in [0, 1] are none that a model means."""
_PLAIN = 0.05
"""Contrast from which a picture does not become one of a single colour."""


@dataclass(frozen=True)
class Band:
    """A full-width part of a picture that is restored on its own."""

    top: int
    """The row of the picture that it begins at, in LR pixels; a multiple of the model's."""
    seen: Tensor | None
    """(1, 3, h, w) in [0, 1]: what decides the condition instead of the part itself."""


@dataclass(frozen=True)
class Engine:
    """A model on its device, and the precision it calculates in."""

    model: OneStepModel
    device: torch.device
    dtype: torch.dtype

    def restore(
        self,
        rgb: Tensor,
        options: Sequence[Any],
        *,
        seed: int,
        tile: int,
        overlap: int | None,
        progress: Callable[[float], None] | None = None,
        band: Band | None = None,
    ) -> tuple[list[Tensor], int]:
        """Restore an image once per set of options; where memory runs out, with half the tile, and again.

        Args:
            rgb: (1, 3, h, w) in [0, 1], on the CPU.
            options: ``Options`` of the model; a map among them is resized to the image.
            seed: Of the noise.
            tile: Longest side the model sees at once, in LR pixels.
            overlap: LR pixels that tiles share; None: as the model wants it.
            progress: Called with the finished share.
            band: What the image is a part of; None: of nothing. A part is not clipped to [0, 1].

        Returns:
            K images (1, 3, h * scale, w * scale) in [0, 1], float32, on the CPU; and the tile that was used.

        Raises:
            MemoryError, RuntimeError: Memory does not suffice for the smallest tile either.
            UsageError: The model decides something for every pixel of ``seen``.
        """
        traits = self.model.traits
        lr = fit(rgb, traits.multiple_of, traits.minimum)
        conditions = [self._decided(lr, one, rgb, band) for one in options]
        shape = self.model.noise_shape(lr.shape)
        ratio = Fraction(shape[-1], lr.shape[-1])
        top = int(band.top * ratio) if band else 0
        names = [(k, name) for k, c in enumerate(conditions) for name in c if _is_map(c[name], lr)]
        care = _Care(self.dtype)

        def run(piece: Tensor, noise: Tensor, *maps: Tensor) -> Iterator[Tensor]:
            cut: list[dict[str, Tensor]] = [dict(condition) for condition in conditions]
            for (k, name), part in zip(names, maps, strict=True):
                cut[k][name] = part
            return self._sound(piece, noise, cut, care)

        def whole(side: int) -> list[Tensor]:
            return tiled(
                run,
                lr,
                NoiseCanvas(seed, shape[1], top),
                scale=traits.scale,
                tile=side,
                overlap=shared(overlap, side, traits),
                ratio=ratio,
                multiple_of=traits.multiple_of,
                minimum=traits.minimum,
                progress=progress,
                maps=[conditions[k][name] for k, name in names],
            )

        out, tile = self._halving(whole, tile, max(lr.shape[-2:]))
        height, width = (side * traits.scale for side in rgb.shape[-2:])
        out = [one[..., :height, :width] for one in out]
        return out if band else [one.clamp_(0, 1) for one in out], tile

    def _halving(
        self, work: Callable[[int], list[Tensor]], tile: int, longest: int
    ) -> tuple[list[Tensor], int]:
        """Work with tiles of this side; where memory runs out, with half of it, and again."""
        while True:
            try:
                return work(tile), tile
            except (MemoryError, RuntimeError) as error:
                smaller = halved(min(tile, longest), self.model.traits)
                if not out_of_memory(error) or smaller >= min(tile, longest):
                    raise
            _log.warning("memory ran out with tiles of %d: going on with %d", min(tile, longest), smaller)
            tile = smaller
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def layer_bytes(self) -> float:
        """Bytes per LR pixel that a forward pass needs: told by the model, or by its largest layer.

        A model that is slow even on a tiny image has a method ``layer_bytes(dtype)``.
        """
        told = getattr(self.model, "layer_bytes", None)
        if callable(told):
            return float(cast("float", told(self.dtype)))
        traits = self.model.traits
        side = -(-max(traits.minimum, 16) // traits.multiple_of) * traits.multiple_of
        largest = 0

        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() * output.element_size())

        hooks = [module.register_forward_hook(note) for module in self.model.modules()]
        try:
            lr = torch.zeros(1, 3, side, side)
            condition = self._condition(lr, self.model.Options(), lr)
            noise = torch.zeros(self.model.noise_shape(lr.shape))
            out = next(self._forward(lr, noise, [condition], self.dtype))
        finally:
            for hook in hooks:
                hook.remove()
        return _LIVE_LAYERS * max(largest, out.numel() * out.element_size()) / side**2

    def _decided(self, lr: Tensor, options: Any, rgb: Tensor, band: Band | None) -> Condition:
        """The condition of an image, or of what stands for the picture that it is a band of."""
        if band is None or band.seen is None:
            return self._condition(lr, options, rgb)
        seen = fit(band.seen, self.model.traits.multiple_of, self.model.traits.minimum)
        condition = self._condition(seen, options, band.seen)
        if seen.shape[-2:] != (1, 1) and any(_is_map(value, seen) for value in condition.values()):
            raise UsageError("this model decides something for every pixel: it needs the whole picture")
        return condition

    def _condition(self, lr: Tensor, options: Any, rgb: Tensor) -> Condition:
        """What the whole image, (1, 3, h, w) in [0, 1], decides once; ``lr`` is padded, ``rgb`` is not."""
        traits, changes = self.model.traits, {}
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] != (1, 1):
                height, width = rgb.shape[-2:]
                value = resize(value.float(), (height, width), "bilinear")
                changes[field.name] = fit(value, traits.multiple_of, traits.minimum)
        whole = (lr if self.model.decides_on_padded else rgb) * 2 - 1
        for dtype in (self.dtype, torch.float32):
            with torch.inference_mode(), self._precision(dtype):
                found = self.model.condition(whole.to(self.device), dataclasses.replace(options, **changes))
            if dtype == torch.float32 or all(bool(value.isfinite().all()) for value in found.values()):
                break
        return found

    def _sound(
        self, lr: Tensor, noise: Tensor, conditions: Sequence[Condition], care: "_Care"
    ) -> Iterator[Tensor]:
        """As ``_forward``; what half precision cannot hold, and all that follows, is calculated in float32.

        Raises:
            InputError: The results are no numbers in float32 either.
        """
        for condition, out in zip(conditions, self._forward(lr, noise, conditions, care.dtype), strict=True):
            if self.dtype != torch.float32 and _broken(out, lr):
                if care.dtype != torch.float32:
                    _log.warning("%s cannot hold what the model calculates: going on in float32", self.dtype)
                care.dtype = torch.float32
                out = next(self._forward(lr, noise, [condition], torch.float32))
            if not bool(out.isfinite().all()):
                raise InputError(
                    "the model gives no numbers for this picture, in float32 either: its weights are "
                    "damaged; get them again"
                )
            if not care.said and float(out.abs().max()) > _BLOWN:
                care.said = True
                _log.warning("the model's values leave the range of pictures by far: the result is cut off")
            yield out

    def _forward(
        self, lr: Tensor, noise: Tensor, conditions: Sequence[Condition], dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """(1, 3, h, w) in [0, 1] -> K results (1, 3, H, W), nominally in [0, 1]; not clipped."""
        with torch.inference_mode(), self._precision(dtype):
            lr = (lr.to(self.device) * 2 - 1).contiguous(memory_format=torch.channels_last)
            noise = noise.to(self.device)
            if len(conditions) == 1:
                results = iter([cast("Tensor", self.model(lr, noise, conditions[0]))])
            else:
                results = self.model.sweep(lr, noise, conditions)
        for _ in conditions:
            with torch.inference_mode(), self._precision(dtype):
                out = next(results).float().mul_(0.5).add_(0.5).cpu()
            yield out

    def _precision(self, dtype: torch.dtype) -> torch.autocast:
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)


@dataclass
class _Care:
    """How the results of one picture have turned out so far."""

    dtype: torch.dtype
    """What is calculated in."""
    said: bool = False
    """Whether it was said that values leave the range of pictures."""


def _broken(out: Tensor, lr: Tensor) -> bool:
    """Whether a result looks like an overflow: no numbers, far too large ones, or one colour for all."""
    least, most = (float(value) for value in out.aminmax())
    plain = least == most and float(lr.max() - lr.min()) > _PLAIN
    return not (least > -_BLOWN and most < _BLOWN) or plain


def warn_of_overlap(settings: Settings, plan: Plan) -> None:
    """Say so where tiles are too small for the overlap that was asked for."""
    if plan.tiles > plan.passes and plan.overlap < (settings.overlap or 0):
        _log.warning(
            "an overlap of %d needs tiles of %d, for which memory does not suffice: it is %d",
            settings.overlap,
            2 * (settings.overlap or 0),
            plan.overlap,
        )


def _is_map(value: Tensor, lr: Tensor) -> bool:
    return value.ndim == 4 and value.shape[-2:] == lr.shape[-2:]
