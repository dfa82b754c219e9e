"""What ``onestep evaluate`` was asked for: checked before anything starts, scored or joined, then shown."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from onestep import catalog, hub
from onestep import evaluate as journey
from onestep.cli.reports import Output
from onestep.cli.screen import Screen, complain
from onestep.cli.upscale import model_options, tile_of, value_of
from onestep.core.errors import InputError, UsageError
from onestep.core.picture import Picture
from onestep.data import degraded
from onestep.degrade.presets import preset as named_preset
from onestep.evaluate.candidates import Degrade
from onestep.evaluate.journal import Journal, beside
from onestep.plan import Settings
from onestep.runtime import pick_device
from onestep.upscaler import Upscaler

_PER_WORKER = 8
"""Pictures below which another process takes longer to start than it saves."""
_MOST = 4
"""Processes that start unasked: each holds the networks of the metrics, on a GPU too."""


@dataclass(frozen=True)
class Given:
    """The pictures, and who is scored."""

    hr: Path | None
    sr: Path | None
    lr: Path | None
    model: str | None
    preset: str | None
    realism: float | None
    options: tuple[str, ...]
    sweep: str | None
    also: tuple[str, ...]
    """Further models, with their defaults."""
    seed: int
    tile: str
    overlap: int | None
    device: str
    dtype: str

    def check(self) -> Path:
        """The folder of true pictures.

        Raises:
            UsageError: What is given does not say what to score.
        """
        if self.hr is None:
            raise UsageError("name the folder of true pictures with --hr DIR")
        if (self.sr is not None) + (self.preset is not None) > 1:
            raise UsageError("give one of --sr DIR and --preset P beside --hr DIR")
        if self.sr is None and (self.lr is not None) + (self.preset is not None) != 1:
            raise UsageError("give one of --sr DIR, --lr DIR and --preset P beside --hr DIR")
        asked = self.model is not None or self.realism is not None or self.options or self.sweep
        if self.sr is not None and asked:
            raise UsageError("--sr scores finished pictures: a model and its options have no meaning there")
        if self.also and self.lr is None and self.preset is None:
            raise UsageError("--also scores further models, which need small pictures: give --lr DIR")
        return self.hr


@dataclass(frozen=True)
class Wanted:
    """What is to come of it."""

    metrics: str | None
    protocol: str
    scale: int | None
    output: Output
    workers: str
    name: str | None = None
    """What the entrant is called; None: by its model."""

    def names(self) -> list[str] | None:
        """The metrics; None: those of the protocol.

        Raises:
            UsageError: The option names none.
        """
        if self.metrics is None:
            return None
        names = [name.strip() for name in self.metrics.split(",") if name.strip()]
        if not names:
            raise UsageError("--metrics names none; onestep evaluate --help shows the usual ones")
        return names

    def rules(self) -> journey.EvalProtocol:
        """The protocol, for the factor if that is known.

        Raises:
            UsageError: There is no such protocol.
        """
        rules = journey.protocol(self.protocol)
        return rules if self.scale is None else rules.at(self.scale)

    def processes(self, pictures: int, *, restoring_here: bool) -> int:
        """How many processes score.

        By default one per core, up to four; one where a model on the CPU wants them, or pictures are few.

        Raises:
            UsageError: It is no number.
        """
        if self.workers == "auto":
            return 1 if restoring_here else max(1, min(_cores(), _MOST, pictures // _PER_WORKER))
        if not self.workers.isdecimal() or int(self.workers) < 1:
            raise UsageError(f"--workers {self.workers}: give a number from 1 on, or auto")
        return int(self.workers)


def score(words: Sequence[Path], given: Given, wanted: Wanted, screen: Screen) -> int:
    """Score what is given; returns the exit code.

    Raises:
        UsageError: The request makes no sense; nothing was started.
        InputError: No metric can be had, or a report cannot be written.
    """
    if words:
        raise UsageError(f"{words[0]}: name folders with --sr, --lr, --hr; reports go with --compare")
    hr = given.check()
    names, rules = wanted.names(), wanted.rules()
    wanted.processes(0, restoring_here=False)
    place = pick_device(given.device)
    wanted.output.check()
    wanted.output.check_dataset(rules.name)
    journal = Journal(beside(wanted.output.files[0])) if wanted.output.files else None
    with screen.warnings():
        candidates, degrade = [_finished(wanted.name)], None
        if given.sr is not None:
            pairs, alone = journey.finished(given.sr, hr, given.lr)
            candidates += _others(given, None)
        else:
            pairs, alone = journey.degraded(hr) if given.lr is None else journey.restored(given.lr, hr)
            candidates, degrade = _models(given, wanted.name)
        here = (given.sr is None or bool(given.also)) and place.type == "cpu"
        with screen.progress("evaluate") as progress:
            report = journey.evaluate(
                pairs,
                names,
                rules,
                candidates=candidates,
                degrade=degrade,
                device=place,
                workers=wanted.processes(len(pairs), restoring_here=here),
                journal=journal,
                failed=alone,
                progress=progress,
            )
        for entrant in report.entrants:
            entrant.command = wanted.output.command
        wanted.output.publish([report], journey.Viewer(pairs, candidates, degrade), screen)
    broken = any(entrant.failed or not entrant.rows for entrant in report.entrants)
    if journal is not None and not broken:
        journal.remove()
    return int(broken)


def compare(files: Sequence[Path], given: Given, wanted: Wanted, screen: Screen) -> int:
    """Join finished reports; returns the exit code.

    Raises:
        UsageError: No reports are named, or folders are.
        InputError: A file is no report.
    """
    if not files:
        raise UsageError("--compare joins finished reports; name them: a.json b.json")
    if any((given.hr, given.sr, given.lr, given.model, given.preset)):
        raise UsageError("--compare joins finished reports; folders and models have no meaning there")
    wanted.output.check()
    reports = journey.joined([_read(file) for file in files])
    if len(reports) > 1:
        known = ", ".join(dict.fromkeys(report.protocol.name for report in reports))
        complain(f"scores of different protocols ({known}) share no column; each has a table of its own")
    wanted.output.publish(reports, None, screen)
    return 0


def _finished(name: str | None) -> journey.Candidate:
    """Finished pictures, under a name."""
    return journey.Candidate(journey.Entrant(name)) if name else journey.FINISHED


def _models(given: Given, called: str | None) -> tuple[list[journey.Candidate], Degrade | None]:
    """The models as candidates, one per value of the sweep, and what makes LR."""
    up, about = _loaded(given.model, given)
    chosen = model_options(up, given.realism, given.options)
    candidates = [
        journey.of_model(
            up,
            {**chosen, **one},
            _settings(given),
            " ".join((called, *(f"{key}={value}" for key, value in one.items()))) if called else None,
            **about,
        )
        for one in _swept(given.sweep, up, chosen)
    ]
    candidates += _others(given, up.model.traits.scale)
    if given.preset is None:
        return candidates, None
    operator = named_preset(given.preset, up.model.traits.scale)

    def degrade(picture: Picture, name: str) -> Picture:
        return degraded(picture, operator, given.seed, name)

    return candidates, degrade


def _others(given: Given, scale: int | None) -> list[journey.Candidate]:
    """The further models as candidates.

    Raises:
        UsageError: One has another factor than the small pictures are made for.
    """
    candidates: list[journey.Candidate] = []
    for name in given.also:
        up, about = _loaded(name, given)
        if given.preset is not None and up.model.traits.scale != scale:
            raise UsageError(
                f"--also {name}: enlarges x{up.model.traits.scale}, the pictures are made for x{scale}"
            )
        candidates.append(journey.of_model(up, {}, _settings(given), **about))
    return candidates


def _loaded(name: str | None, given: Given) -> tuple[Upscaler, dict[str, Any]]:
    """A model on its device, and what a report says about where it comes from."""
    entry = catalog.find(name)
    model = catalog.load(entry)
    up = Upscaler(model, device=given.device, dtype=given.dtype, name=entry.name, card=entry.card)
    weights = hub.sha256(entry.path) if entry.path else None
    return up, {"weights_sha256": weights, "degradation": given.preset}


def _settings(given: Given) -> Settings:
    return Settings(seed=given.seed, tile=tile_of(given.tile), overlap=given.overlap)


def _swept(text: str | None, up: Upscaler, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The options of each candidate, beside those that all have.

    Raises:
        UsageError: The model lacks the option, it is given twice, or a value makes no sense.
    """
    if text is None:
        yield {}
        return
    name, equals, values = text.partition("=")
    parts = [part.strip() for part in values.split(",") if part.strip()]
    if not equals or not parts:
        raise UsageError(f"--sweep {text}: write it as NAME=A,B,C")
    if name in chosen:
        raise UsageError(f"--sweep {text}: {name} is given twice")
    kinds = get_type_hints(up.model.Options)
    for part in dict.fromkeys(parts):
        one = {name: value_of(name, part, kinds[name]) if name in kinds else part}
        up.options({**chosen, **one})
        yield one


def _read(file: Path) -> journey.Report:
    try:
        return journey.Report.from_json(json.loads(file.read_text("utf-8")), str(file))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the name") from error
    except ValueError as error:
        raise InputError(f"{file}: no report of onestep evaluate ({error})") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
