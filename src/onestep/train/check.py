"""A look at held-out pictures while training: scores to choose checkpoints by, and pictures to look at."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onestep import metrics
from onestep.core.contract import OneStepModel
from onestep.core.errors import InputError, UsageError
from onestep.core.resize import resize
from onestep.data import Degrade, Source, keyed
from onestep.recipe import Recipe

Scores = dict[str, dict[str, float]]
"""Setting of the model (or "bicubic") -> metric -> mean over the pictures."""


@dataclass(frozen=True)
class Report:
    """What a check found."""

    scores: Scores
    pictures: Mapping[str, Tensor]
    """Name -> (3, H, W * n) in [0, 1]: LR enlarged by bicubic, the model's results, HR, side by side."""


class Check:
    """Centre crops of held-out pictures, degraded once and for all, restored by whatever model comes."""

    def __init__(
        self, recipe: Recipe, degrade: Degrade, device: torch.device, notice: Callable[[str], None]
    ) -> None:
        """Prepare the metrics; one whose weights cannot be had is left out, with a notice.

        Args:
            recipe: Its ``check``, ``data``, ``card.defaults``, seed and precision count.
            degrade: Makes LR from HR.
            device: Where the model lives.
            notice: Called with one-line remarks.

        Raises:
            UsageError: A metric is unknown or needs tiles.
        """
        self.recipe, self.config, self.degrade, self.device = recipe, recipe.check, degrade, device
        self.source = Source(recipe.data, held_out=True)
        self.metrics: dict[str, tuple[bool, metrics.Measure]] = {}
        for name in self.config.metrics:
            needs = metrics.find(name).needs
            if needs == "borders":
                raise UsageError(f"check.metrics: {name} needs tiles; a check has none")
            try:
                self.metrics[name] = (needs == "pair", metrics.make(name, device))
            except InputError as error:
                notice(f"checks go without {name}: {error}")

    def __call__(self, model: OneStepModel) -> Report:
        """Restore and score.

        Args:
            model: In evaluation mode, on the device.
        """
        settings, side = self._settings(), self._side(model)
        sums: dict[str, dict[str, float]] = {}
        pictures: dict[str, Tensor] = {}
        indices = self._indices()
        for shown, index in enumerate(indices):
            hr = self.source.crop(index, side, None)
            lr = self.degrade(hr, torch.Generator().manual_seed(keyed("check", index)))
            rows = dict(self._restored(model, lr[None], settings))
            for label, image in rows.items():
                for name, value in self._scored(image, hr[None].to(self.device)):
                    row = sums.setdefault(label, {})
                    row[name] = row.get(name, 0.0) + value / len(indices)
            if shown < self.config.pictures:
                pictures[self.source.label(index)] = torch.cat([*(i[0].cpu() for i in rows.values()), hr], -1)
        return Report(sums, pictures)

    def _indices(self) -> list[int]:
        count = min(self.config.images, self.source.count)
        return [i * self.source.count // count for i in range(count)]

    def _side(self, model: OneStepModel) -> int:
        """HR side of the crops: as asked, rounded down to what the model takes unpadded."""
        traits = model.traits
        step = traits.scale * traits.multiple_of
        least = -(-traits.minimum * traits.scale // step) * step
        return max(self.config.crop // step * step, least)

    def _settings(self) -> dict[str, Mapping[str, Any]]:
        """Name -> options: the defaults of the card, changed one at a time by the sweep."""
        defaults = self.recipe.card.defaults
        swept: dict[str, Mapping[str, Any]] = {
            f"{o}={v:g}": {**defaults, o: v} for o, values in self.config.sweep.items() for v in values
        }
        return swept or {"model": defaults}

    def _restored(
        self, model: OneStepModel, lr: Tensor, settings: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[tuple[str, Tensor]]:
        """Bicubic and the model's result at every setting, (1, 3, H, W) in [0, 1]."""
        lr = lr.to(self.device)
        noise = torch.randn(model.noise_shape(lr.shape), generator=torch.Generator().manual_seed(0)).to(
            self.device
        )
        x = lr * 2 - 1
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.recipe.train.precision == "bfloat16"
        ):
            conditions = [model.condition(x, model.Options(**options)) for options in settings.values()]
            results = [one.float() / 2 + 0.5 for one in model.sweep(x, noise, conditions)]
        size = (results[0].shape[-2], results[0].shape[-1])
        yield "bicubic", resize(lr, size).clamp(0, 1)
        for label, result in zip(settings, results, strict=True):
            yield label, result.clamp(0, 1)

    def _scored(self, image: Tensor, hr: Tensor) -> Iterator[tuple[str, float]]:
        for name, (paired, measure) in self.metrics.items():
            yield name, float(measure(image, hr) if paired else measure(image))
