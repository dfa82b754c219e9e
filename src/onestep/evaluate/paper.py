"""Rows of the papers' tables beside ours: as data, with their source, and only where both mean the same.

``papers.json`` holds the tables: protocol, data set, metric, value, where it is printed and who evaluated. A
row stands beside a score of ours only if protocol and data set agree; where they do not, a line says so.
Metrics have the names of ``onestep.metrics``; others (``topiq``, ``maniqa-unstated``) are not offered here,
or their variant is not stated, and so they never share a column.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from onestep.core.errors import UsageError
from onestep.evaluate.report import Entrant, Report

FILE: Final = Path(__file__).with_name("papers.json")


@dataclass(frozen=True)
class PaperRow:
    """One number of a paper."""

    method: str
    protocol: str
    dataset: str
    metric: str
    value: float
    source: str
    """The paper and its table."""
    evaluated_by: str
    note: str = ""
    """What the source leaves open."""


@dataclass(frozen=True)
class Dataset:
    """A test set that papers report on."""

    protocol: str
    name: str
    what: str
    pictures: int | None = None
    """How many; None: not known."""
    size: tuple[int, int] | None = None
    """Width and height of every HR picture; None: they differ, or are not known."""


@cache
def _tables() -> tuple[tuple[Dataset, ...], tuple[PaperRow, ...]]:
    data = json.loads(FILE.read_text("utf-8"))
    sets = tuple(
        Dataset(
            one["protocol"],
            one["name"],
            one["what"],
            one["pictures"],
            (one["size"][0], one["size"][1]) if one["size"] else None,
        )
        for one in data["datasets"]
    )
    found = tuple(
        PaperRow(
            method,
            table["protocol"],
            table["dataset"],
            metric,
            float(value),
            table["source"],
            table["evaluated_by"],
            table.get("note", ""),
        )
        for table in data["tables"]
        for method, values in table["values"].items()
        for metric, value in zip(table["metrics"], values, strict=True)
        if value is not None
    )
    return sets, found


def datasets(protocol: str) -> list[Dataset]:
    """The test sets that papers report on under a protocol."""
    return [one for one in _tables()[0] if one.protocol == protocol]


def rows(protocol: str, dataset: str) -> list[PaperRow]:
    """Every number printed for a data set under a protocol, in the order of the sources."""
    return [row for row in _tables()[1] if (row.protocol, row.dataset) == (protocol, dataset)]


def named(protocol: str, name: str) -> Dataset:
    """A test set by name.

    Raises:
        UsageError: No paper reports on a set of that name under the protocol.
    """
    known = {one.name: one for one in datasets(protocol)}
    if name.lower() in known:
        return known[name.lower()]
    elsewhere = [one.protocol for one in _tables()[0] if one.name == name.lower()]
    if elsewhere:
        raise UsageError(
            f"{name} is a set of the protocol {elsewhere[0]}, and this report is under {protocol}"
        )
    raise UsageError(
        f"no paper's table under the protocol {protocol} is on {name!r}"
        + (f"; there are {', '.join(known)}" if known else "")
    )


@dataclass(frozen=True)
class Beside:
    """A score of ours and a number of a paper."""

    entrant: str
    ours: float
    paper: PaperRow

    @property
    def difference(self) -> float:
        """Ours less theirs."""
        return self.ours - self.paper.value


@dataclass
class Against:
    """What papers report on the same pictures under the same protocol."""

    dataset: Dataset | None = None
    """None where no set agrees."""
    lines: list[str] = field(default_factory=list[str])
    """How the set was found, and what is not compared and why."""
    pairs: list[Beside] = field(default_factory=list[Beside])

    @property
    def entrants(self) -> list[str]:
        """Who of ours stands beside a paper."""
        return list(dict.fromkeys(pair.entrant for pair in self.pairs))

    @property
    def metrics(self) -> list[str]:
        """What is compared."""
        return list(dict.fromkeys(pair.paper.metric for pair in self.pairs))

    def table(self, entrant: str) -> dict[tuple[str, str, str], dict[str, Beside]]:
        """Beside one entrant: (method, source, who evaluated) -> metric -> both values."""
        found: dict[tuple[str, str, str], dict[str, Beside]] = {}
        for pair in self.pairs:
            if pair.entrant == entrant:
                key = (pair.paper.method, pair.paper.source, pair.paper.evaluated_by)
                found.setdefault(key, {})[pair.paper.metric] = pair
        return found

    @property
    def notes(self) -> list[str]:
        """What the sources leave open, source by source."""
        return list(dict.fromkeys(f"{p.paper.source}: {p.paper.note}" for p in self.pairs if p.paper.note))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "dataset": asdict(self.dataset) if self.dataset else None,
            "lines": self.lines,
            "rows": [
                {
                    "entrant": pair.entrant,
                    "ours": pair.ours,
                    "difference": pair.difference,
                    **asdict(pair.paper),
                }
                for pair in self.pairs
            ],
        }

    def to_markdown(self, arrows: Mapping[str, str], digits: Mapping[str, int]) -> str:
        """One table per entrant: theirs, and in brackets ours less theirs.

        Args:
            arrows: Metric -> the arrow that says which way is better.
            digits: Metric -> decimals worth printing.
        """
        parts = ["## Beside the papers", *self.lines, *self.notes]
        for entrant in self.entrants:
            table = self.table(entrant)
            ours = {pair.paper.metric: pair.ours for line in table.values() for pair in line.values()}
            heads = [f"{name} {arrows[name]}" for name in self.metrics]
            lines = [
                "| | source | evaluated by | " + " | ".join(heads) + " |",
                "|---" * (len(heads) + 3) + "|",
                f"| **{entrant}** | this report | | "
                + " | ".join(
                    f"{ours[name]:.{digits[name]}f}" if name in ours else "–" for name in self.metrics
                )
                + " |",
            ]
            for (method, source, who), line in table.items():
                cells = [_cell(line.get(name), digits[name]) for name in self.metrics]
                lines.append(f"| {method} | {source} | {who} | " + " | ".join(cells) + " |")
            parts.append("\n".join(lines))
        if self.pairs:
            parts.append("In brackets: ours less theirs.")
        return "\n\n".join(parts) + "\n"


def _cell(pair: Beside | None, digits: int) -> str:
    return f"{pair.paper.value:.{digits}f} ({pair.difference:+.{digits}f})" if pair else "–"


def against(report: Report, dataset: str | None = None) -> Against:
    """The papers' rows beside a report's means.

    Args:
        report: The scores; every picture of a set must be among them.
        dataset: The name of the test set; without it a set is recognised by the number and the size of its
            pictures, if that leaves one, and the result says so.

    Raises:
        UsageError: No paper reports on that set under the report's protocol.
    """
    protocol = report.protocol.name
    if not datasets(protocol):
        known = ", ".join(dict.fromkeys(one.protocol for one in _tables()[0]))
        return Against(
            lines=[f"no paper's table is under the protocol {protocol}; there are tables under {known}"]
        )
    if dataset is not None:
        chosen, lines = named(protocol, dataset), list[str]()
    else:
        chosen, lines = _recognised(report)
    if chosen is None:
        return Against(lines=lines)
    printed = rows(protocol, chosen.name)
    found = Against(chosen, [*lines, f"{chosen.name}: {chosen.what}"])
    others: dict[str, list[str]] = {}
    for entrant in report.entrants:
        why = _other_pictures(entrant, chosen)
        if why:
            others.setdefault(why, []).append(entrant.name)
            continue
        found.pairs += [
            Beside(entrant.name, mean, row)
            for row in printed
            if (mean := entrant.mean(row.metric)) is not None
        ]
    for why, names in others.items():
        whose = "" if len(names) == len(report.entrants) else f"{', '.join(names)}: "
        found.lines.append(f"{whose}{why}; not compared")
    absent = [name for name in dict.fromkeys(row.metric for row in printed) if name not in report.metrics]
    if absent and sum(map(len, others.values())) < len(report.entrants):
        found.lines.append(f"papers also report {', '.join(absent)}, which are not scored here")
    return found


def _recognised(report: Report) -> tuple[Dataset | None, list[str]]:
    """The one test set whose number and size of pictures are those of the report."""
    entrant = report.entrants[0]
    fitting = [
        one for one in datasets(report.protocol.name) if one.size and not _other_pictures(entrant, one)
    ]
    if len(fitting) == 1:
        one = fitting[0]
        size = f"{one.size[0]}x{one.size[1]}" if one.size else ""
        return one, [
            f"taken for {one.name}: these are {one.pictures} pictures of {size}; --dataset names a set"
        ]
    names = ", ".join(one.name for one in (fitting or datasets(report.protocol.name)))
    why = "several sets are like these" if fitting else f"no set is known by {_described(entrant)}"
    return None, [f"not beside the papers: {why}; name it with --dataset: {names}"]


def _described(entrant: Entrant) -> str:
    sizes = _sizes(entrant)
    what = f"{sizes[0][0]}x{sizes[0][1]}" if len(sizes) == 1 else "several sizes"
    return f"{len(entrant.rows)} pictures of {what}"


def _sizes(entrant: Entrant) -> Sequence[tuple[int | None, int | None]]:
    return list(dict.fromkeys((row.width, row.height) for row in entrant.rows))


def _other_pictures(entrant: Entrant, dataset: Dataset) -> str:
    """Why an entrant was not scored on the pictures of a set; empty where nothing speaks against it."""
    if dataset.pictures is not None and len(entrant.rows) != dataset.pictures:
        return f"{dataset.name} has {dataset.pictures} pictures, {len(entrant.rows)} were scored"
    other = [size for size in _sizes(entrant) if dataset.size and size != dataset.size]
    if other and dataset.size:
        wanted = f"{dataset.size[0]}x{dataset.size[1]}"
        return f"{dataset.name} has pictures of {wanted}, one is {other[0][0]}x{other[0][1]}"
    return ""
