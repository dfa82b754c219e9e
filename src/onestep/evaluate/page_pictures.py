"""The pictures of the report page: which are worst and best by each metric, and what of them is shown.

A part of at most ``SIDE`` pixels a side is shown, the one in which results and truth differ most, as WebP
inside the page. The number of pictures and the bytes of all are bounded, whatever the size of the set.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from onestep.core.errors import OneStepError
from onestep.core.resize import resize
from onestep.evaluate.candidates import Shown
from onestep.evaluate.page_parts import head, number, paragraph, table
from onestep.evaluate.report import Report
from onestep.evaluate.svg import tag

SIDE: Final = 512
"""Pixels of a shown part, at most, along each side."""
MOST_PICTURES: Final = 12
MOST_BYTES: Final = 12_000_000
QUALITY: Final = 90
"""Of WebP; at this value artefacts are below those that the scores are about."""

View = Callable[[str, str], Shown]
"""(entrant, picture) -> its pixels, read or made again; raises where they cannot be had."""

TRUTH, INPUT = "truth", "input, enlarged"


@dataclass(frozen=True)
class Extreme:
    """The worst or the best picture of an entrant by a metric."""

    metric: str
    entrant: str
    kind: str
    """``worst`` or ``best``."""
    picture: str
    value: float


def extremes(report: Report) -> list[Extreme]:
    """For each metric of single pictures and each entrant, the worst and the best picture."""
    found: list[Extreme] = []
    for metric in report.metrics:
        higher = report.score(metric).better == "higher"
        for entrant in report.entrants:
            scored = [(v, row.name) for row in entrant.rows if (v := row.scores.get(metric)) is not None]
            if not scored:
                continue
            low, high = min(scored), max(scored)
            worst, best = (low, high) if higher else (high, low)
            found.append(Extreme(metric, entrant.name, "worst", worst[1], worst[0]))
            found.append(Extreme(metric, entrant.name, "best", best[1], best[0]))
    return found


def chosen(found: Sequence[Extreme]) -> list[str]:
    """What to show: for each metric the picture that is worst, and best, for most entrants; then others."""
    order: list[str] = []
    for kind in ("worst", "best"):
        for metric in dict.fromkeys(one.metric for one in found):
            names = Counter(one.picture for one in found if (one.metric, one.kind) == (metric, kind))
            order += [name for name, _ in names.most_common(1)]
    order += [name for name, _ in Counter(one.picture for one in found).most_common()]
    return list(dict.fromkeys(order))[:MOST_PICTURES]


def worst_and_best(report: Report, view: View | None) -> str:
    """The table of extremes, then the shown pictures, each under a slider."""
    found = extremes(report)
    figures: list[str] = []
    shown: dict[str, str] = {}
    lines: list[str] = []
    size = 0
    for name in chosen(found):
        pictures, troubles = _parts(name, report, view) if view else ([], [])
        lines += troubles
        if not pictures:
            continue
        size += sum(len(uri) for _, uri in pictures)
        if size > MOST_BYTES:
            lines.append(f"more pictures would make the page larger than {MOST_BYTES // 1_000_000} MB")
            break
        shown[name] = f"picture-{len(shown) + 1}"
        figures.append(_figure(name, shown[name], pictures, report, found))
    stages = tag("div", *figures, class_="pictures") if figures else ""
    notes = "".join(paragraph(line, "note") for line in lines)
    return _overview(report, found, shown) + notes + stages


def _overview(report: Report, found: Sequence[Extreme], shown: Mapping[str, str]) -> str:
    metrics = list(dict.fromkeys(one.metric for one in found))
    rows: list[list[str]] = []
    for entrant in report.entrants:
        cells: list[str] = []
        for metric in metrics:
            digits = report.score(metric).digits
            ends = [one for one in found if (one.metric, one.entrant) == (metric, entrant.name)]
            cells.append(
                "".join(
                    tag("span", f"{one.kind} {number(one.value, digits)}", class_="ci")
                    + _link(one.picture, shown)
                    for one in ends
                )
                or "–"
            )
        rows.append([escape(entrant.name), *cells])
    heads = ["entrant", *(head(metric, report.score(metric)) for metric in metrics)]
    return table("The worst and the best picture of each entrant by each metric", heads, rows)


def _link(picture: str, shown: Mapping[str, str]) -> str:
    if picture not in shown:
        return tag("span", escape(picture), class_="file")
    return tag("a", escape(picture), href=f"#{shown[picture]}", class_="file")


def _parts(name: str, report: Report, view: View) -> tuple[list[tuple[str, str]], list[str]]:
    """(who, data URI) of the truth, of the input, and of every entrant; and why some cannot be shown."""
    made: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    troubles: list[str] = []
    for entrant in report.entrants:
        if not any(row.name == name for row in entrant.rows):
            continue
        try:
            shown = view(entrant.name, name)
        except (OneStepError, OSError) as error:
            troubles.append(f"{name} of {entrant.name} is not shown: {error}")
            continue
        made[entrant.name] = shown.sr.rgb[0]
        others.setdefault(TRUTH, shown.hr.rgb[0])
        if shown.lr is not None and INPUT not in others:
            size = (shown.sr.height, shown.sr.width)
            others[INPUT] = resize(shown.lr.rgb, size, "bicubic", convention="pillow")[0]
    if not made:
        return [], troubles
    everything = {**others, **made}
    high = min(one.shape[-2] for one in everything.values())
    wide = min(one.shape[-1] for one in everything.values())
    truth = others[TRUTH][:, :high, :wide]
    top, left = _window(truth, [one[:, :high, :wide] for one in made.values()])
    rows, columns = slice(top, min(top + SIDE, high)), slice(left, min(left + SIDE, wide))
    return [(who, data_uri(one[:, rows, columns])) for who, one in everything.items()], troubles


def _window(truth: Tensor, results: Sequence[Tensor], step: int = 16) -> tuple[int, int]:
    """Top and left of the part of ``SIDE`` pixels a side in which the results differ most from the truth."""
    high, wide = min(SIDE, truth.shape[-2]), min(SIDE, truth.shape[-1])
    error = torch.stack([(one - truth).square().mean(dim=0) for one in results]).mean(dim=0)
    blocks = F.avg_pool2d(error[None, None], step, ceil_mode=True)
    sums = F.avg_pool2d(blocks, (-(-high // step), -(-wide // step)), stride=1)[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return min(row * step, truth.shape[-2] - high), min(column * step, truth.shape[-1] - wide)


def data_uri(picture: Tensor) -> str:
    """(3, H, W) in [0, 1] as a WebP that is written out in the page."""
    levels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(levels.cpu().numpy()).save(file, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _figure(
    name: str, anchor: str, pictures: Sequence[tuple[str, str]], report: Report, found: Sequence[Extreme]
) -> str:
    """A picture of all entrants on a stage: two are seen, a slider moves the border between them."""
    roles = [one for one in found if one.picture == name]
    whose = {one.entrant for one in roles}
    right = next((who for who, _ in reversed(pictures) if who in whose), pictures[-1][0])
    left = INPUT if any(who == INPUT for who, _ in pictures) else TRUTH
    images = [
        tag("img", src=uri, alt=f"{name}, {who}", data_who=i) + tag("span", escape(who), class_="who")
        for i, (who, uri) in enumerate(pictures)
    ]
    slider = tag(
        "input",
        type="range",
        min=0,
        max=100,
        step=1,
        value=50,
        aria_label=f"Border between the two pictures of {name}, percent from the left",
    )
    stage = tag("div", *images, tag("span", "", class_="bar", aria_hidden="true"), slider, class_="stage")
    choices = tag("div", _choice("left", pictures, left), _choice("right", pictures, right), class_="choices")
    told = "; ".join(
        _told(kind, metric, roles) for kind, metric in dict.fromkeys((r.kind, r.metric) for r in roles)
    )
    words = tag("figcaption", tag("h3", escape(name)), paragraph(told, "note"))
    return tag("figure", words, stage, choices, _scores(name, report), class_="compare", id=anchor)


def _told(kind: str, metric: str, roles: Sequence[Extreme]) -> str:
    """What a picture is an example of."""
    whose = [one.entrant for one in roles if (one.kind, one.metric) == (kind, metric)]
    return f"{kind} {metric} of {' and '.join(whose) if len(whose) < 3 else f'{len(whose)} entrants'}"


def _choice(side: str, pictures: Sequence[tuple[str, str]], picked: str) -> str:
    options = "".join(
        tag("option", escape(who), value=str(i), selected="" if who == picked else None)
        for i, (who, _) in enumerate(pictures)
    )
    return tag("label", f"{side} ", tag("select", options, data_side=side))


def _scores(name: str, report: Report) -> str:
    metrics = [metric for metric in report.metrics if report.score(metric).needs != "set"]
    rows: list[list[str]] = []
    for entrant in report.entrants:
        row = next((row for row in entrant.rows if row.name == name), None)
        if row is not None:
            cells = [number(row.scores.get(metric), report.score(metric).digits) for metric in metrics]
            rows.append([escape(entrant.name), *cells])
    inside = table(f"Scores of {name}", ["entrant", *(head(m, report.score(m)) for m in metrics)], rows)
    return tag("details", tag("summary", "Scores of this picture"), inside)
