"""A report as one HTML file that needs nothing else: tables, charts, pictures, and how it was made.

Style, script, charts and pictures are inside; nothing is fetched. Without the script everything can still be
read: the pictures of a slider then stand side by side.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from onestep.evaluate import charts, page_parts, page_pictures, paper
from onestep.evaluate.curves import curves, series
from onestep.evaluate.page_parts import paragraph, section
from onestep.evaluate.page_pictures import View
from onestep.evaluate.report import Report
from onestep.evaluate.svg import tag
from onestep.evaluate.tables import missing_lines

_HERE: Final = Path(__file__).parent
_MEANS: Final = (
    "In brackets: 95 % bootstrap interval of the mean. “≈ best”: the paired interval of the difference from "
    "the best contains 0, so these pictures cannot tell the two apart."
)
_CURVE: Final = (
    "Further right: closer to the true picture. Further up: better by a perceptual metric. Numbers beside "
    "marks are values of the knob; thin lines are the intervals of the means."
)


def to_html(
    reports: Report | Sequence[Report],
    *,
    command: str = "",
    view: View | None = None,
    against: Sequence[paper.Against] = (),
) -> str:
    """The page.

    Args:
        reports: What was found; of several protocols, each has its own part of the page.
        command: What was typed, for those who want to make it again.
        view: Shows the pictures behind the scores; None for a page without pictures.
        against: What the papers report, one for each report.
    """
    several = [reports] if isinstance(reports, Report) else list(reports)
    parts: list[str] = []
    for i, report in enumerate(several):
        beside = against[i] if i < len(against) else None
        anchor = f"-{i + 1}" if len(several) > 1 else ""
        parts += _parts(report, command, view, beside, anchor)
    names = ", ".join(dict.fromkeys(report.protocol.name for report in several))
    return _document(f"OneStep report: {names}", parts)


def _parts(
    report: Report, command: str, view: View | None, against: paper.Against | None, suffix: str
) -> list[str]:
    """Headline, links, and the sections of one report; ``suffix`` keeps the anchors of several apart."""
    rules = report.protocol
    count = max(len(entrant.rows) for entrant in report.entrants)
    missing = missing_lines(report)
    drawn = curves(report)
    sections = [
        (
            "Means",
            "means",
            (page_parts.means(report), paragraph(_MEANS, "note"), page_parts.differences(report)),
        ),
        (
            "Left out, or not as the protocol has it",
            "left-out",
            (tag("ul", *(tag("li", escape(line)) for line in missing)),) if missing else (),
        ),
        (
            "Fidelity and realism",
            "curve",
            (tag("div", *drawn, class_="charts"), paragraph(_CURVE, "note")) if drawn else (),
        ),
        ("Distributions", "distributions", (tag("div", *distributions(report), class_="charts"),)),
        ("Worst and best pictures", "pictures", (page_pictures.worst_and_best(report, view),)),
        ("Beside the papers", "papers", (page_parts.beside_papers(against, report),) if against else ()),
        ("Time and memory", "costs", (page_parts.costs(report),)),
        ("Every picture", "every", (page_parts.every_picture(report),)),
        ("How it was made", "origins", (page_parts.origins(report, command), page_parts.metric_list(report))),
    ]
    there = [(title, anchor + suffix, inside) for title, anchor, inside in sections if inside]
    return [
        tag("h1", "Scores under the protocol ", tag("code", escape(rules.name))),
        paragraph(
            f"{rules.what[:1].upper()}{rules.what[1:]}. {count} pictures, {len(report.entrants)} entrants."
        ),
        tag(
            "nav", *(tag("a", title, href=f"#{anchor}") for title, anchor, _ in there), aria_label="Sections"
        ),
        *(section(title, anchor, *inside) for title, anchor, inside in there),
    ]


def distributions(report: Report) -> list[str]:
    """A strip per entrant, one chart per metric of single pictures."""
    numbers, drawn = series(report), list[str]()
    for metric in report.metrics:
        score = report.score(metric)
        spreads = [
            charts.Spread(
                numbers[entrant.name],
                entrant.name,
                [(row.name, v) for row in entrant.rows if (v := row.scores.get(metric)) is not None],
                one.mean,
                None if one.low is None or one.high is None else (one.low, one.high),
            )
            for entrant in report.entrants
            if (one := entrant.scores.get(metric)) and one.mean is not None and one.needs != "set"
        ]
        if any(spread.values for spread in spreads):
            axis = charts.Axis(metric, "higher" if score.better == "higher" else "lower")
            drawn.append(
                charts.distribution(spreads, axis, f"{metric} of every picture, by entrant", score.digits)
            )
    return drawn


def _document(title: str, parts: Sequence[str]) -> str:
    style = charts.STYLE.read_text("utf-8") + (_HERE / "page.css").read_text("utf-8")
    script = (_HERE / "page.js").read_text("utf-8")
    header = "".join(
        (
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", escape(title)),
            tag("style", style),
        )
    )
    body = tag("main", *parts) + tag("script", script)
    return f'<!doctype html>\n<html lang="en">\n<head>{header}</head>\n<body>{body}</body>\n</html>\n'
