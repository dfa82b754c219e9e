"""What an evaluation found, and under which protocol: entrants, their rows, their means.

A report has one protocol and one or more entrants (a folder of finished pictures, a model, one model at
several values of an option). Its JSON is that of its first entrant, with ``protocol`` before and ``others``
behind it, so that a report of one entrant is flat.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import onestep
from onestep import metrics as table
from onestep.core.config import from_dict, to_dict
from onestep.core.errors import InputError, UsageError
from onestep.evaluate import bootstrap
from onestep.evaluate.protocols import EvalProtocol, same

_MARKS = ("name", "seconds", "memory", "width", "height", "hr_sha256", "input_sha256", "missing")
"""What a row of JSON holds beside scores."""


@dataclass(frozen=True)
class Row:
    """One scored picture."""

    name: str
    scores: Mapping[str, float | None]
    """Metric -> value; None where it cannot be taken."""
    seconds: float | None = None
    """That restoring it took; None of a finished picture."""
    memory: int | None = None
    """Most bytes that were in use while it was restored: on the CPU those of the whole process, else of the
    device; None of a finished picture."""
    width: int | None = None
    """Of HR, in pixels."""
    height: int | None = None
    hr_sha256: str | None = None
    """Of the HR file."""
    input_sha256: str | None = None
    """Of the finished picture, or of the LR file it was restored from; None where LR was made from HR."""
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Metric -> why it could not be taken."""

    def to_json(self) -> dict[str, Any]:
        """Flat: the scores stand beside the name."""
        rest = {mark: getattr(self, mark) for mark in _MARKS[1:]}
        return {"name": self.name, **self.scores, **rest, "missing": dict(self.missing)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The row of :meth:`to_json`."""
        marks = {mark: values[mark] for mark in _MARKS if mark in values}
        return cls(scores={name: value for name, value in values.items() if name not in _MARKS}, **marks)


@dataclass(frozen=True)
class Score:
    """One metric over all pictures of an entrant."""

    mean: float | None
    """Of a metric of sets: its value. None where it could be taken of no picture."""
    better: str
    """"higher" or "lower"."""
    images: int
    """How many pictures it was taken of."""
    low: float | None = None
    """Lower end of the 95 % bootstrap interval of the mean; None for metrics of sets and single pictures."""
    high: float | None = None
    license: str = ""
    """Of the weights of the metric."""
    what: str = ""
    """What the metric is."""
    digits: int = 4
    """Decimals worth printing."""
    needs: str = "pair"
    """What it is taken of; "set" has no value per picture."""

    @classmethod
    def of(cls, metric: str, values: Sequence[float]) -> Self:
        """The score of a metric from the values of all pictures."""
        low, high = bootstrap.interval(values) or (None, None)
        return cls(**_known(metric), mean=bootstrap.mean(values), images=len(values), low=low, high=high)

    @classmethod
    def of_set(cls, metric: str, value: float | None, images: int) -> Self:
        """The score of a metric that has one value for all pictures."""
        return cls(**_known(metric), mean=value, images=images)


def _known(metric: str) -> dict[str, Any]:
    line = table.find(metric)
    names = ("better", "license", "what", "digits", "needs")
    return {name: getattr(line, name) for name in names}


@dataclass
class Entrant:
    """Who was scored, with what, and what came of it."""

    name: str = "finished pictures"
    """For tables: one row has this name."""
    rows: list[Row] = field(default_factory=list[Row])
    scores: dict[str, Score] = field(default_factory=dict[str, Score])
    """Metric -> score, in the order they were asked for."""
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Picture -> why it could not be scored."""
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    """Metric -> why it could not be made, and how to get it."""
    remarks: list[str] = field(default_factory=list[str])
    """In what the pictures differ from those of the protocol."""
    model: str | None = None
    """The name of the model; None of finished pictures."""
    weights_sha256: str | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """The model's own options, defaults included."""
    degradation: str | None = None
    """How LR was made from HR; None where it was given."""
    seed: int | None = None
    tile: int | str | None = None
    """Side of the tiles in LR pixels, "auto" or "off", as asked for; None of finished pictures."""
    overlap: int | None = None
    """Of the tiles, in LR pixels, as asked for; None: the model's own."""
    device: str | None = None
    """Where the model ran, such as "cpu" or "cuda:0 (NVIDIA H200)"; None of finished pictures."""
    dtype: str | None = None
    seconds: float = 0.0
    """Of the whole evaluation that this entrant was part of."""
    workers: int = 1
    """Processes that scored; more than one make ``seconds_per_picture`` of a model on the CPU longer."""
    command: str = ""
    """What was typed; empty where it was not typed."""
    version: str = onestep.__version__
    """Of this package."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    """Of Python, torch, numpy and the system."""
    inputs: dict[str, str] = field(default_factory=dict[str, str])
    """"hr" and "input" -> SHA-256 over the names and hashes of all files of that kind."""

    def values(self, metric: str) -> list[float]:
        """The scores of a metric that were taken, in the order of the rows."""
        return [value for row in self.rows if (value := row.scores.get(metric)) is not None]

    def mean(self, metric: str) -> float | None:
        """The mean of a metric over the pictures that it could be taken of; None where it has none."""
        return self.scores[metric].mean if metric in self.scores else None

    @property
    def seconds_per_picture(self) -> float | None:
        """The mean over the pictures that were restored; None of finished ones."""
        return bootstrap.mean([row.seconds for row in self.rows if row.seconds is not None])

    @property
    def peak_memory(self) -> int | None:
        """The largest ``memory`` of all rows, in bytes; None of finished pictures."""
        return max((row.memory for row in self.rows if row.memory is not None), default=None)

    @property
    def notes(self) -> list[str]:
        """A line for each score that a scored picture lacks, and why."""
        return [
            f"{row.name}: {name} left out: {why}" for row in self.rows for name, why in row.missing.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        del plain["rows"], plain["scores"]
        return {
            "name": plain.pop("name"),
            "metrics": {name: asdict(score) for name, score in self.scores.items()},
            "images": [row.to_json() for row in self.rows],
            **plain,
            "notes": self.notes,
            "seconds_per_picture": self.seconds_per_picture,
            "peak_memory": self.peak_memory,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The entrant of :meth:`to_json`; what an older version did not write stays at its default."""
        known = {one.name for one in dataclasses.fields(cls)} - {"rows", "scores"}
        rest: dict[str, Any] = {"name": values.get("model") or cls.name}
        rest |= {name: value for name, value in values.items() if name in known}
        scores = {name: from_dict(Score, _part(Score, one)) for name, one in values["metrics"].items()}
        return cls(**rest, rows=[Row.from_json(row) for row in values["images"]], scores=scores)


@dataclass(frozen=True)
class Difference:
    """One entrant less another, on the pictures that both have."""

    metric: str
    mean: float
    low: float | None
    """Lower end of the paired 95 % bootstrap interval; None for fewer than two pictures."""
    high: float | None
    images: int


@dataclass
class Report:
    """Entrants that were scored under one protocol."""

    protocol: EvalProtocol
    entrants: list[Entrant]
    """At least one."""

    @property
    def metrics(self) -> list[str]:
        """Every metric that some entrant has, in the order of the first that has it."""
        return list(dict.fromkeys(name for entrant in self.entrants for name in entrant.scores))

    def score(self, metric: str) -> Score:
        """The first entrant's score of a metric: for its direction, digits and licence."""
        return next(entrant.scores[metric] for entrant in self.entrants if metric in entrant.scores)

    def differences(self, entrant: Entrant, reference: Entrant) -> list[Difference]:
        """The entrant less the reference, metric by metric, on the same pictures (name and HR file)."""
        theirs = {(row.name, row.hr_sha256): row.scores for row in reference.rows}
        found: list[Difference] = []
        for metric in self.metrics:
            pairs = [
                (row.scores.get(metric), theirs[row.name, row.hr_sha256].get(metric))
                for row in entrant.rows
                if (row.name, row.hr_sha256) in theirs
            ]
            values = [ours - other for ours, other in pairs if ours is not None and other is not None]
            mean = bootstrap.mean(values)
            if mean is not None:
                low, high = bootstrap.interval(values) or (None, None)
                found.append(Difference(metric, mean, low, high, len(values)))
        return found

    def to_json(self) -> dict[str, Any]:
        """The contract of ``onestep evaluate``: the first entrant's values, and the others behind them."""
        first, *others = (entrant.to_json() for entrant in self.entrants)
        plain = {"protocol": to_dict(self.protocol), **first}
        return {**plain, "others": others} if others else plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "report") -> Self:
        """The report of :meth:`to_json`, also as older versions wrote it.

        Args:
            values: What ``json.load`` returned.
            where: Stands in messages: the file.

        Raises:
            InputError: It is no report.
        """
        try:
            rules = from_dict(EvalProtocol, _part(EvalProtocol, values["protocol"]))
            return cls(rules, [Entrant.from_json(one) for one in (values, *values.get("others", ()))])
        except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
            raise InputError(f"{where}: no report of onestep evaluate ({error!r})") from error


def _part(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a dataclass knows; a newer version may have written more."""
    known = {one.name for one in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in known}


def joined(reports: Sequence[Report]) -> list[Report]:
    """The entrants of all reports, each with a name of its own, together where their protocols are one.

    Scores of different protocols share no column: there is a report for each protocol, in order.
    """
    groups: list[list[Report]] = []
    for report in reports:
        group = next((one for one in groups if same([one[0].protocol, report.protocol])), None)
        if group is None:
            groups.append([report])
        else:
            group.append(report)
    return [Report(group[0].protocol, _all_entrants(group)) for group in groups]


def _all_entrants(reports: Sequence[Report]) -> list[Entrant]:
    taken: dict[str, int] = {}
    found: list[Entrant] = []
    for entrant in (one for report in reports for one in report.entrants):
        count = taken[entrant.name] = taken.get(entrant.name, 0) + 1
        name = entrant.name if count == 1 else f"{entrant.name} ({count})"
        found.append(dataclasses.replace(entrant, name=name))
    return found
