"""A report as text: CSV with a line per picture, Markdown with a line per entrant."""

import csv
import io
from collections.abc import Sequence

from onestep.evaluate.report import Difference, Entrant, Report, Score

ARROWS = {"higher": "↑", "lower": "↓"}


def to_csv(report: Report) -> str:
    """One line per picture and entrant."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["entrant", "name", *report.metrics, "seconds"])
    for entrant in report.entrants:
        for row in entrant.rows:
            scores = [row.scores.get(name) for name in report.metrics]
            writer.writerow([entrant.name, row.name, *scores, row.seconds])
    return text.getvalue()


def to_markdown(report: Report) -> str:
    """The protocol, a table of means with their intervals, the differences, and what was left out."""
    rules, names = report.protocol, report.metrics
    heads = [f"{name} {ARROWS[report.score(name).better]}" for name in names]
    lines = [f"Protocol `{rules.name}`: {rules.what}."]
    if rules.border:
        lines[0] += f" {rules.border} pixels were cut from every side."
    lines += ["", _row("", "pictures", *heads, "s per picture"), "|---" * (len(heads) + 3) + "|"]
    for entrant in report.entrants:
        cells = [_cell(entrant.scores.get(name)) for name in names]
        lines.append(_row(entrant.name, str(len(entrant.rows)), *cells, _seconds(entrant)))
    if any(score.low is not None for entrant in report.entrants for score in entrant.scores.values()):
        lines += ["", "In brackets: 95 % bootstrap interval of the mean over pictures."]
    if len(report.entrants) > 1:
        lines += ["", *_differences(report, names)]
    lines += [f"\n{line}" for line in missing_lines(report)]
    return "\n".join(lines) + "\n"


def left_out(entrant: Entrant) -> list[str]:
    """One line for everything that is missing or other than the protocol has it."""
    lines = list(entrant.remarks)
    lines += [f"{name} left out: {why}" for name, why in entrant.skipped.items()]
    lines += [f"{name} not scored: {why}" for name, why in entrant.failed.items()]
    return lines + entrant.notes


def missing_lines(report: Report) -> list[str]:
    """What is missing, each line once, with the entrants that it is about."""
    about: dict[str, list[str]] = {}
    for entrant in report.entrants:
        for line in left_out(entrant):
            about.setdefault(line, []).append(entrant.name)
    return [
        line if len(names) == len(report.entrants) > 1 else f"{', '.join(names)}: {line}"
        for line, names in about.items()
    ]


def _row(*cells: str) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _cell(score: Score | None) -> str:
    if score is None or score.mean is None:
        return "–"
    mean = f"{score.mean:.{score.digits}f}"
    if score.low is None or score.high is None:
        return mean
    return f"{mean} [{score.low:.{score.digits}f}, {score.high:.{score.digits}f}]"


def _seconds(entrant: Entrant) -> str:
    seconds = entrant.seconds_per_picture
    return "–" if seconds is None else f"{seconds:.3g}"


def _differences(report: Report, names: Sequence[str]) -> list[str]:
    """Each entrant less the first, on the pictures that both have."""
    reference, *others = report.entrants
    lines = [
        f"Less {reference.name}, on the same pictures, with paired 95 % bootstrap intervals:",
        "",
        _row("", *names),
        "|---" * (len(names) + 1) + "|",
    ]
    for entrant in others:
        found = {one.metric: one for one in report.differences(entrant, reference)}
        cells = [_change(found.get(name), report.score(name).digits) for name in names]
        lines.append(_row(entrant.name, *cells))
    return lines


def _change(one: Difference | None, digits: int) -> str:
    if one is None:
        return "–"
    mean = f"{one.mean:+.{digits}f}"
    return mean if one.low is None else f"{mean} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"
