"""What an evaluation found, and under which protocol: JSON, CSV and Markdown."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onestep
from onestep import metrics as table
from onestep.checkpoint import replace_file
from onestep.core.errors import UsageError


@dataclass(frozen=True)
class EvalProtocol:
    """How a score is taken, beside the metric itself; scores of different protocols share no column."""

    name: str
    what: str
    border: int = 0
    """HR pixels cut from every side before scoring."""
    luma: str = "BT.601, 16 to 235; not rounded for PSNR, rounded to 8 bit for SSIM"
    """What the metrics that end in ``-y`` measure."""
    round8: bool = True
    """Whether results are rounded to 8 bit first, as files are."""


PROTOCOLS: Mapping[str, EvalProtocol] = MappingProxyType(
    {
        one.name: one
        for one in (
            EvalProtocol("full", "whole image, results rounded to 8 bit"),
            EvalProtocol("classic-y-crop", "4 pixels cut from every side (x4), 8 bit", border=4),
            EvalProtocol("full-float", "whole image, results not rounded", round8=False),
        )
    }
)
"""``full`` is how the one-step papers score (OSEDiff 6.3), ``classic-y-crop`` how Set5 and Set14 are."""


def protocol(name: str) -> EvalProtocol:
    """A protocol by name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol is called {name!r}; choose {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass
class Report:
    """What an evaluation found."""

    protocol: EvalProtocol
    metrics: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """One per scored picture: name, metric -> value (None where it cannot be taken), seconds or None."""
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    """Metric -> why it could not be made."""
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Picture -> why it could not be scored."""
    notes: list[str] = field(default_factory=list[str])
    """A line for each score that a scored picture lacks, and why."""
    seconds: float = 0.0
    """Of the whole evaluation."""
    about: dict[str, Any] = field(default_factory=dict[str, Any])
    """Model, weights_sha256, options, seed, device: whatever the caller knows."""

    def values(self, metric: str) -> list[float]:
        """The scores of a metric that were taken."""
        return [row[metric] for row in self.rows if row.get(metric) is not None]

    def mean(self, metric: str) -> float | None:
        """The mean of a metric over the pictures that it could be taken of."""
        values = self.values(metric)
        return math.fsum(values) / len(values) if values else None

    def to_json(self) -> dict[str, Any]:
        """The report as plain values (the contract of ``onestep evaluate``)."""
        return {
            "protocol": asdict(self.protocol),
            "metrics": {
                name: {
                    "mean": self.mean(name),
                    "better": table.find(name).better,
                    "images": len(self.values(name)),
                    "license": table.find(name).license,
                }
                for name in self.metrics
            },
            "images": self.rows,
            "skipped": self.skipped,
            "failed": self.failed,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
            "version": onestep.__version__,
            "weights_sha256": None,
            **self.about,
        }

    def to_csv(self) -> str:
        """One line per picture."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["name", *self.metrics, "seconds"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """A table of means, then what was left out."""
        arrows = {"higher": "↑", "lower": "↓"}
        heads = [f"{name} {arrows[table.find(name).better]}" for name in self.metrics]
        means = [self._cell(name) for name in self.metrics]
        who = str(self.about.get("model") or "finished pictures")
        lines = [
            f"Protocol `{self.protocol.name}`: {self.protocol.what}. {len(self.rows)} pictures.",
            "",
            "| | " + " | ".join(heads) + " |",
            "|---" * (len(heads) + 1) + "|",
            f"| {who} | " + " | ".join(means) + " |",
        ]
        lines += [f"\n{name} left out: {why}" for name, why in self.skipped.items()]
        lines += [f"\n{name} not scored: {why}" for name, why in self.failed.items()]
        lines += [f"\n{note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Write as .json, .csv or .md, by extension, replacing the file in one move.

        Raises:
            UsageError: Another extension.
            InputError: The file cannot be written.
        """
        makers: dict[str, Callable[[], str]] = {
            ".json": lambda: json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            ".csv": self.to_csv,
            ".md": self.to_markdown,
        }
        if path.suffix.lower() not in makers:
            raise UsageError(f"{path}: a report ends in {', '.join(makers)}")
        text = makers[path.suffix.lower()]()
        replace_file(path, lambda temporary: temporary.write_text(text, "utf-8"))

    def _cell(self, name: str) -> str:
        mean = self.mean(name)
        return "–" if mean is None else f"{mean:.{table.find(name).digits}f}"
