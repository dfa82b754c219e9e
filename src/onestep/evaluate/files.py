"""A report as a file: the ending says which kind."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onestep.checkpoint import replace_file
from onestep.core.errors import UsageError
from onestep.evaluate.page import to_html
from onestep.evaluate.page_pictures import View
from onestep.evaluate.paper import Against
from onestep.evaluate.report import Report
from onestep.evaluate.tables import ARROWS, to_csv, to_markdown

ENDINGS = (".json", ".csv", ".md", ".html")


@dataclass(frozen=True)
class Surroundings:
    """What may stand in a file beside the scores."""

    command: str = ""
    """What was typed."""
    view: View | None = None
    """Shows the pictures behind the scores, for HTML; None: without pictures."""
    against: Sequence[Against] = ()
    """What the papers report, one for each report; empty: nobody asked."""


def write(reports: Report | Sequence[Report], path: Path, around: Surroundings | None = None) -> None:
    """Write as .json, .csv, .md or .html, by extension, replacing the file in one move.

    Args:
        reports: Of several, with a protocol each, Markdown and HTML have a part per report; others hold one.
        path: The file.
        around: What else is in it, as far as the format has room.

    Raises:
        UsageError: Another extension, or several reports where there is room for one.
        InputError: The file cannot be written.
    """
    several = [reports] if isinstance(reports, Report) else list(reports)
    rest = around or Surroundings()

    def only() -> Report:
        if len(several) != 1:
            names = ", ".join(report.protocol.name for report in several)
            raise UsageError(
                f"{path}: scores of different protocols ({names}) share no column; write .md or .html instead"
            )
        return several[0]

    makers: dict[str, Callable[[], str]] = {
        ".json": lambda: _json(only(), rest.against),
        ".csv": lambda: to_csv(only()),
        ".md": lambda: _markdown(several, rest.against),
        ".html": lambda: to_html(several, command=rest.command, view=rest.view, against=rest.against),
    }
    if path.suffix.lower() not in makers:
        raise UsageError(f"{path}: a report ends in {', '.join(ENDINGS)}")
    text = makers[path.suffix.lower()]()
    replace_file(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _json(report: Report, against: Sequence[Against]) -> str:
    values = report.to_json()
    if against:
        values["against"] = against[0].to_json()
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _markdown(reports: Sequence[Report], against: Sequence[Against]) -> str:
    parts: list[str] = []
    for i, report in enumerate(reports):
        parts.append(to_markdown(report))
        if i < len(against):
            scores = {metric: report.score(metric) for metric in against[i].metrics}
            arrows = {metric: ARROWS[score.better] for metric, score in scores.items()}
            digits = {metric: score.digits for metric, score in scores.items()}
            parts.append(against[i].to_markdown(arrows, digits))
    return "\n".join(parts)
