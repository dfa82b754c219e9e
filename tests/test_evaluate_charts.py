"""The charts of a report: where marks stand, what is drawn, and that nothing hides anything."""

import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_toy import entrant, report, sweep
from onestep.evaluate import charts, curves, svg
from onestep.evaluate.svg import Label, Scale, overlap

SVG = "{http://www.w3.org/2000/svg}"
FINITE = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-3)


@given(FINITE, FINITE)
def test_ticks_are_round_evenly_spaced_and_inside(a, b):
    low, high = sorted((a, b))
    found = svg.ticks(low, high)
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-3):
        return
    slack = 1e-6 * (high - low)
    assert 2 <= len(found) <= 11
    assert low - slack <= found[0]
    assert found[-1] <= high + slack
    steps = [later - earlier for earlier, later in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-5)
    assert f"{steps[0]:.0e}"[0] in "125"


def test_a_scale_keeps_the_order_and_a_flipped_one_turns_it():
    plain, turned = Scale(0, 10, 100, 200), Scale(0, 10, 100, 200, flipped=True)
    assert [plain(v) for v in (0, 5, 10)] == [100, 150, 200]
    assert [turned(v) for v in (0, 5, 10)] == [200, 150, 100]
    one_value = Scale.over([3.0, 3.0], 0, 1)
    assert one_value(3.0) == pytest.approx(0.5)


@pytest.mark.parametrize("name", range(len(svg.SHAPES)))
def test_every_mark_stands_at_its_place(name):
    element = ElementTree.fromstring(svg.mark(name, 50.0, 40.0, 5.0))
    assert svg.SHAPES[name] == "circle" or element.tag in ("rect", "polygon")
    assert centre(element) == pytest.approx((50, 40), abs=1.0)


def centre(element: ElementTree.Element) -> tuple[float, float]:
    """The middle of a mark."""
    kind = element.tag.removeprefix(SVG)
    if kind == "circle":
        return float(element.get("cx", "")), float(element.get("cy", ""))
    if kind == "rect":
        x, y, wide, high = (float(element.get(key, "")) for key in ("x", "y", "width", "height"))
        return x + wide / 2, y + high / 2
    corners = [tuple(map(float, pair.split(","))) for pair in element.get("points", "").split()]
    xs, ys = zip(*corners, strict=True)
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def marks(chart: str) -> dict[str, tuple[float, float]]:
    """The name before the colon of a mark's title -> its place."""
    found = {}
    for element in ElementTree.fromstring(chart).iter():
        title = element.find(f"{SVG}title")
        if title is not None and "dot" in element.get("class", ""):
            found[(title.text or "").split(":")[0]] = centre(element)
    return found


def test_better_is_to_the_right_and_upwards():
    (chart,) = curves.curves(sweep())
    place = marks(chart)
    by_psnr = ["net realism=1", "net realism=0.5", "bicubic", "net realism=0"]
    across = [place[name][0] for name in by_psnr]
    assert across == sorted(across)
    by_niqe = ["bicubic", "net realism=0", "net realism=0.5", "net realism=1"]
    up = [-place[name][1] for name in by_niqe]
    assert up == sorted(up)


def test_one_model_is_one_line_in_the_order_of_its_knob():
    (chart,) = curves.curves(sweep(), intervals=False)
    lines = [e for e in ElementTree.fromstring(chart).iter(f"{SVG}line") if e.get("class") == "line s1"]
    place = marks(chart)
    legend, *joins = lines
    assert legend.get("x1") == "2"
    ends = [tuple(round(float(line.get(key, ""))) for key in ("x1", "x2")) for line in joins]
    wanted = [round(place[f"net realism={value}"][0]) for value in ("0", "0.5", "1")]
    assert ends == [(wanted[0], wanted[1]), (wanted[1], wanted[2])]
    assert "net, by realism" in chart


def test_points_are_labelled_with_the_knob_or_the_name():
    (chart,) = curves.curves(sweep())
    words = {
        e.text for e in ElementTree.fromstring(chart).iter(f"{SVG}text") if "t" in e.get("class", "")[:1]
    }
    assert {"0", "0.5", "1", "bicubic"} <= words


def test_models_that_differ_in_more_than_one_number_are_no_curve():
    def model(name, **options):
        return entrant(name, {"psnr-y": [28.0, 29.0], "niqe": [5.0, 6.0]}, model="net", options=options)

    both = report(model("a", realism=0.0, guidance=1.0), model("b", realism=1.0, guidance=2.0))
    assert curves.series(both) == {"a": 0, "b": 1}
    words = report(model("a", prompt="cat"), model("b", prompt="dog"))
    assert curves.series(words) == {"a": 0, "b": 1}
    one = report(model("a", guidance=2.0, realism=1.0), model("b", guidance=1.0, realism=1.0))
    assert [e.name for e in curves.groups(one)[0]] == ["b", "a"]


def test_without_psnr_or_with_one_entrant_there_is_no_curve():
    assert curves.curves(report(entrant("a", {"niqe": [5.0, 6.0]}), entrant("b", {"niqe": [5.0, 6.0]}))) == []
    assert curves.curves(report(entrant("a", {"psnr-y": [28.0], "niqe": [5.0]}))) == []
    pixels = {"psnr-y": [28.0, 29.0], "ssim-y": [0.7, 0.8]}
    assert curves.curves(report(entrant("a", pixels), entrant("b", pixels))) == []


def boxes(texts: list[str]) -> list[svg.Box]:
    """The boxes of labels, as wide as they were taken to be."""
    found = []
    for words in texts:
        element = ElementTree.fromstring(words)
        x, y, wide = float(element.get("x", "")), float(element.get("y", "")), svg.width(element.text or "")
        left = x - {"start": 0, "middle": wide / 2, "end": wide}[element.get("text-anchor", "")]
        found.append((left, y - 0.8 * svg.FONT, left + wide, y + 0.2 * svg.FONT))
    return found


@given(st.lists(st.tuples(st.integers(20, 380), st.integers(20, 280)), max_size=5, unique=True))
def test_labels_stay_inside_and_off_each_other(places):
    inside = (0.0, 0.0, 400.0, 300.0)
    taken = [(x - 5.0, y - 5.0, x + 5.0, y + 5.0) for x, y in places]
    found = boxes(svg.labels([Label(x, y, "0.25", "t0") for x, y in places], taken, inside))
    for one, other in combinations(found, 2):
        assert overlap(one, other) < 40
    for left, top, right, bottom in found:
        assert left >= -1
        assert top >= -1
        assert right <= 401
        assert bottom <= 301


def test_every_picture_has_a_mark_unless_there_are_too_many():
    few = charts.Spread(0, "few", [(f"p{i}", float(i)) for i in range(31)], 15.0, (14.0, 16.0))
    many = charts.Spread(1, "many", [(f"p{i}", float(i % 31)) for i in range(3000)], 15.0)
    chart = charts.distribution([few, many], charts.Axis("psnr-y", "higher"), "title")
    circles = list(ElementTree.fromstring(chart).iter(f"{SVG}circle"))
    by_colour = [[c for c in circles if c.get("class") == f"pt s{i}"] for i in range(2)]
    assert [len(marks) for marks in by_colour] == [31, charts.MOST_MARKS]
    titles = {(c.findtext(f"{SVG}title") or "").split(": ")[1] for c in by_colour[1]}
    assert {"0.000", "30.000"} <= titles


def test_the_box_lies_between_the_quartiles():
    values = [(f"p{i}", float(i)) for i in range(101)]
    chart = charts.distribution([charts.Spread(0, "a", values, 50.0)], charts.Axis("psnr", "higher"), "t")
    root = ElementTree.fromstring(chart)
    box = next(e for e in root.iter(f"{SVG}rect") if "box" in e.get("class", ""))
    place = {
        (c.findtext(f"{SVG}title") or "").split(":")[0]: float(c.get("cx", ""))
        for c in root.iter(f"{SVG}circle")
    }
    left, wide = float(box.get("x", "")), float(box.get("width", ""))
    assert left == pytest.approx(place["p25"], abs=0.2)
    assert left + wide == pytest.approx(place["p75"], abs=0.2)


def test_a_chart_of_equal_values_is_still_a_chart():
    same = {"psnr-y": [30.0, 30.0], "niqe": [5.0, 5.0]}
    (chart,) = curves.curves(report(entrant("a", same), entrant("b", same)))
    assert "nan" not in chart
    spread = charts.Spread(0, "a", [("p", 5.0)], 5.0)
    assert "nan" not in charts.distribution([spread], charts.Axis("niqe", "lower"), "t")


def test_a_picture_of_charts_stands_alone():
    drawn = curves.curves(sweep())
    picture = charts.alone(drawn * 3, columns=2)
    root = ElementTree.fromstring(picture)
    assert len(root.findall(f"{SVG}svg")) == 3
    assert "prefers-color-scheme" in (root.findtext(f"{SVG}style") or "")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", picture)


def test_words_from_outside_are_escaped():
    drawn = curves.curves(
        report(
            entrant("<b>&", {"psnr-y": [28.0, 29.0], "niqe": [5.0, 6.0]}),
            entrant('"x', {"psnr-y": [28.5, 29.0], "niqe": [5.0, 6.5]}),
        )
    )
    assert "<b>" not in drawn[0]
    ElementTree.fromstring(drawn[0])
