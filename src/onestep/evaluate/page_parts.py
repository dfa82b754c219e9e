"""The tables of the report page, as HTML; every word that comes from outside is escaped."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from onestep.evaluate.paper import Against
from onestep.evaluate.report import Difference, Entrant, Report, Score
from onestep.evaluate.svg import tag

ARROWS = {"higher": "↑", "lower": "↓"}
WORDS = {"higher": "higher is better", "lower": "lower is better"}
MOST_ROWS = 500
"""Pictures in the table of every picture; of more, the file of values has the rest."""


def section(title: str, anchor: str, *inside: str) -> str:
    """A part of the page with its heading."""
    heading = tag("h2", escape(title), id=f"h-{anchor}")
    return tag("section", heading, *inside, id=anchor, aria_labelledby=f"h-{anchor}")


def paragraph(words: str, class_: str | None = None) -> str:
    """Plain text."""
    return tag("p", escape(words), class_=class_)


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, shown: bool = False) -> str:
    """A table that scrolls where it is too wide; heads and cells are markup, the first cell is a heading."""
    top = tag("tr", *(tag("th", head, scope="col") for head in heads))
    body = "".join(
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows
    )
    words = tag("caption", escape(caption), class_=None if shown else "vh")
    inside = tag("table", words, tag("thead", top), tag("tbody", body))
    return tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label=caption)


def head(metric: str, score: Score) -> str:
    """A metric's name, which way is better, and what it is."""
    arrow = tag("span", ARROWS[score.better], aria_hidden="true")
    spoken = tag("span", f", {WORDS[score.better]}", class_="vh")
    return tag("span", f"{escape(metric)}&nbsp;{arrow}{spoken}", title=f"{score.what}; {WORDS[score.better]}")


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A value, or a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−") if sign else f"{value:.{digits}f}".replace("-", "−")


def _interval(low: float | None, high: float | None, digits: int, *, sign: bool = False) -> str:
    if low is None or high is None:
        return ""
    words = f"[{number(low, digits, sign=sign)}, {number(high, digits, sign=sign)}]"
    return tag("span", words, class_="ci")


def best(report: Report, metric: str) -> Entrant | None:
    """The entrant with the best mean of a metric; None where there is nothing to choose from."""
    scored = [(mean, entrant) for entrant in report.entrants if (mean := entrant.mean(metric)) is not None]
    if len(scored) < 2:
        return None
    pick = max if report.score(metric).better == "higher" else min
    return pick(scored, key=lambda pair: pair[0])[1]


def means(report: Report) -> str:
    """The table of means: the best of each column marked, and those that cannot be told from it."""
    winners = {metric: best(report, metric) for metric in report.metrics}
    distinct = {id(winner): winner for winner in winners.values() if winner is not None}
    apart = {
        key: {entrant.name: _by_metric(report.differences(entrant, winner)) for entrant in report.entrants}
        for key, winner in distinct.items()
    }

    def cell(entrant: Entrant, metric: str) -> str:
        score, winner = entrant.scores.get(metric), winners[metric]
        if score is None or score.mean is None:
            return tag("span", "–", title="not scored")
        shown = number(score.mean, score.digits)
        if winner is entrant:
            shown = tag("strong", shown) + tag("span", " best", class_="best")
        elif winner is not None and _level(apart[id(winner)][entrant.name].get(metric)):
            shown += tag("span", " ≈ best", class_="level")
        return shown + _interval(score.low, score.high, score.digits)

    heads = ["entrant", *(head(metric, report.score(metric)) for metric in report.metrics), "pictures"]
    rows = [
        [
            escape(entrant.name),
            *(cell(entrant, metric) for metric in report.metrics),
            str(len(entrant.rows)),
        ]
        for entrant in report.entrants
    ]
    return table("Means over the pictures, with 95 % bootstrap intervals", heads, rows)


def _by_metric(found: Iterable[Difference]) -> dict[str, Difference]:
    return {one.metric: one for one in found}


def _level(difference: Difference | None) -> bool:
    """Whether the paired interval of a difference contains 0."""
    if difference is None or difference.low is None or difference.high is None:
        return False
    return difference.low <= 0 <= difference.high


def differences(report: Report) -> str:
    """Each entrant less the first, on the same pictures; empty for one entrant."""
    reference, *others = report.entrants
    if not others:
        return ""
    rows: list[list[str]] = []
    for entrant in others:
        found = _by_metric(report.differences(entrant, reference))
        cells = [_change(found.get(metric), report.score(metric).digits) for metric in report.metrics]
        rows.append([escape(entrant.name), *cells])
    heads = ["entrant", *(head(metric, report.score(metric)) for metric in report.metrics)]
    caption = f"Less {reference.name}, picture by picture, with paired 95 % bootstrap intervals"
    return tag("details", tag("summary", escape(caption)), table(caption, heads, rows))


def _change(one: Difference | None, digits: int) -> str:
    if one is None:
        return "–"
    return number(one.mean, digits, sign=True) + _interval(one.low, one.high, digits, sign=True)


def beside_papers(found: Against, report: Report) -> str:
    """The papers' rows and the differences, one table per entrant of ours."""
    parts = [paragraph(line) for line in found.lines]
    metrics = found.metrics
    scores = {metric: report.score(metric) for metric in metrics}
    for i, entrant in enumerate(found.entrants):
        lines = found.table(entrant)
        ours = {pair.paper.metric: pair.ours for line in lines.values() for pair in line.values()}
        rows = [
            [
                tag("strong", escape(entrant)),
                "this report",
                *(tag("strong", number(ours.get(name), scores[name].digits)) for name in metrics),
            ]
        ]
        for (method, source, who), line in lines.items():
            cells = [
                number(pair.paper.value, digits)
                + tag("span", number(pair.difference, digits, sign=True), class_="ci")
                if (pair := line.get(name))
                else "–"
                for name in metrics
                for digits in (scores[name].digits,)
            ]
            told = escape(source) + tag("span", escape(f"evaluated by {who}"), class_="ci")
            rows.append([escape(method), told, *cells])
        caption = f"{entrant} beside the papers; under each value, ours less theirs"
        heads = ["method", "source", *(head(name, scores[name]) for name in metrics)]
        inside = table(caption, heads, rows)
        parts.append(tag("details", tag("summary", escape(caption)), inside, open="" if i == 0 else None))
    parts += [paragraph(note, "note") for note in found.notes]
    return "".join(parts)


def costs(report: Report) -> str:
    """Seconds and memory."""
    heads = ["entrant", "seconds per picture", "peak memory", "device", "precision", "processes"]
    rows = [
        [
            escape(entrant.name),
            "–" if (seconds := entrant.seconds_per_picture) is None else f"{seconds:.3g}",
            "–" if entrant.peak_memory is None else f"{entrant.peak_memory / 2**20:.0f} MiB",
            escape(entrant.device or "–"),
            escape(entrant.dtype or "–"),
            str(entrant.workers),
        ]
        for entrant in report.entrants
    ]
    return table("Time and memory", heads, rows)


def metric_list(report: Report) -> str:
    """What each metric is, and under which licence."""
    rows = [
        [escape(metric), escape(score.what), WORDS[score.better], escape(score.license)]
        for metric in report.metrics
        for score in (report.score(metric),)
    ]
    return table("The metrics", ["metric", "what it is", "direction", "licence"], rows)


def origins(report: Report, command: str) -> str:
    """Everything that is needed to make the report again."""
    first, rules = report.entrants[0], report.protocol
    border = f"{rules.border} pixels cut from every side" if rules.border else "nothing cut"
    rounding = "results rounded to 8 bit" if rules.round8 else "results not rounded"
    facts: list[tuple[str, str]] = [
        ("protocol", f"{rules.name}: {rules.what}"),
        ("border and rounding", f"{border}; {rounding}"),
        ("luma", rules.luma),
    ]
    if rules.source:
        facts.append(("where it comes from", rules.source))
    if command:
        facts.append(("command", command))
    typed: dict[str, list[str]] = {}
    for entrant in report.entrants:
        if entrant.command not in ("", command):
            typed.setdefault(entrant.command, []).append(entrant.name)
    facts += [(f"command for {some(names)}", words) for words, names in typed.items()]
    facts.append(("version of onestep", ", ".join(dict.fromkeys(e.version for e in report.entrants))))
    facts += [
        (f"version of {name}", version) for name, version in first.versions.items() if name != "onestep"
    ]
    facts += _inputs(report)
    listed = "".join(
        tag("dt", escape(name))
        + tag("dd", tag("code", escape(words)) if name.startswith("command") else escape(words))
        for name, words in facts
    )
    heads = ["entrant", "model", "weights, SHA-256", "options", "seed", "degradation"]
    rows = [
        [
            escape(entrant.name),
            escape(entrant.model or "finished pictures"),
            _code(entrant.weights_sha256),
            escape(_pairs(entrant.options)),
            "–" if entrant.seed is None else str(entrant.seed),
            escape(entrant.degradation or "–"),
        ]
        for entrant in report.entrants
    ]
    return tag("dl", listed) + table("Models and inputs", heads, rows)


def some(names: Sequence[str]) -> str:
    """A list of names, cut short."""
    return ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"


def _inputs(report: Report) -> list[tuple[str, str]]:
    """The hashes of what was read, each once, with those who read it where not all did."""
    readers: dict[tuple[str, str], list[str]] = {}
    for entrant in report.entrants:
        for kind, sha in entrant.inputs.items():
            readers.setdefault((kind, sha), []).append(entrant.name)
    everyone = len(report.entrants)
    return [
        (f"SHA-256, {kind}", sha if len(names) == everyone else f"{sha} ({some(names)})")
        for (kind, sha), names in readers.items()
    ]


def _code(words: str | None) -> str:
    return tag("code", escape(words), class_="hash") if words else "–"


def _pairs(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "–"


def every_picture(report: Report) -> str:
    """Each metric of each picture, one table per metric, folded away."""
    return "".join(
        _per_picture(report, metric) for metric in report.metrics if report.score(metric).needs != "set"
    )


def _per_picture(report: Report, metric: str) -> str:
    score = report.score(metric)
    value: Callable[[float | None], str] = lambda found: number(found, score.digits)  # noqa: E731
    scores = [{row.name: row.scores.get(metric) for row in entrant.rows} for entrant in report.entrants]
    names = list(dict.fromkeys(name for one in scores for name in one))
    rows = [[escape(name), *(value(one.get(name)) for one in scores)] for name in names[:MOST_ROWS]]
    caption = f"{metric} of every picture, {WORDS[score.better]}"
    if len(names) > MOST_ROWS:
        caption += f" (the first {MOST_ROWS} of {len(names)})"
    inside = table(caption, ["picture", *(escape(entrant.name) for entrant in report.entrants)], rows)
    return tag("details", tag("summary", escape(caption)), inside)
