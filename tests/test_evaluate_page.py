"""The report page: one file that needs nothing else, says what the report says, shows the right pictures."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation_toy import Views, entrant, report, sweep
from onestep.core.errors import InputError
from onestep.evaluate import page_pictures, paper
from onestep.evaluate.page import to_html
from onestep.evaluate.page_parts import best
from onestep.evaluate.tables import missing_lines

VOID = {"meta", "img", "input", "rect", "line", "circle", "polygon"}


class Outline(HTMLParser):
    """Elements, what they refer to, and whether every one is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.links, self.ids, self.tags = list[str](), list[str](), list[str](), list[str]()
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID, tag
        self._note(tag, dict(attrs))

    def handle_starttag(self, tag, attrs):
        self._note(tag, dict(attrs))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def _note(self, tag, attrs):
        self.tags.append(tag)
        self.links += [attrs[key] for key in ("src", "href", "action", "srcset", "poster") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            assert attrs["alt"]
        if tag == "input":
            assert attrs["aria-label"]


@pytest.fixture(scope="module")
def page() -> str:
    found = paper.against(sweep(), None)
    return to_html(sweep(), command="onestep evaluate --hr HR", view=Views(), against=[found])


def test_the_page_is_one_file_and_well_formed(page):
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    outside = [link for link in outline.links if not link.startswith(("#", "data:image/webp;base64,"))]
    assert outside == []
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)
    style, script = (
        "".join(re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)) for tag in ("style", "script")
    )
    assert not re.search(r"url\(|@import", style)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|\bsrc\s*=", script)
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_the_page_says_what_the_report_says(page):
    words = " ".join(Outline(page).texts)
    for entrant_ in sweep().entrants:
        assert entrant_.name in words
        for score in entrant_.scores.values():
            assert f"{score.mean:.{score.digits}f}" in words
            assert f"[{score.low:.{score.digits}f}, {score.high:.{score.digits}f}]" in words
    for needed in ("onestep evaluate --hr HR", "full", "whole image", "BT.601", "rounded to 8 bit", "seed"):
        assert needed in words
    assert "no paper's table is under the protocol full" in words


def test_the_best_is_marked_and_so_is_what_cannot_be_told_from_it():
    values = [20.0, 25.0, 30.0, 22.0]
    two = report(
        entrant("low", {"psnr": [v - 1 for v in values]}),
        entrant("high", {"psnr": values}),
        entrant("like", {"psnr": [20.5, 24.5, 29.5, 22.4]}),
    )
    words = re.sub(r"<[^>]+>", " ", to_html(two).split('id="means"')[1].split("</table>")[0])
    rows = dict(re.findall(r"(low|high|like)\s+([\d.]+\s+(?:best|≈ best)?)", words))
    assert {name: row.split()[1:] for name, row in rows.items()} == {
        "low": [],
        "high": ["best"],
        "like": ["≈", "best"],
    }
    lower = report(entrant("a", {"niqe": [5.0, 6.0]}), entrant("b", {"niqe": [4.0, 6.0]}))
    winner = best(lower, "niqe")
    assert winner is not None
    assert winner.name == "b"


def test_extremes_are_the_ends_of_each_metric():
    toy = report(entrant("a", {"psnr": [30.0, 20.0, 25.0], "niqe": [5.0, 4.0, 9.0]}))
    found = {(one.metric, one.kind): one.picture for one in page_pictures.extremes(toy)}
    assert found == {
        ("psnr", "worst"): "p1",
        ("psnr", "best"): "p0",
        ("niqe", "worst"): "p2",
        ("niqe", "best"): "p1",
    }


def test_pictures_without_a_score_are_no_extremes():
    toy = report(entrant("a", {"psnr": [30.0, 20.0]}))
    toy.entrants[0].rows[1].scores["psnr"] = None
    assert {one.picture for one in page_pictures.extremes(toy)} == {"p0"}


def test_only_shown_pictures_are_made_again():
    views = Views()
    many = report(*(entrant(f"e{i}", {"psnr": list(np.roll(np.arange(60.0), 7 * i))}) for i in range(9)))
    text = to_html(many, view=views)
    shown = {name for _, name in views.asked}
    assert len(shown) == page_pictures.MOST_PICTURES
    assert text.count("<figure") == page_pictures.MOST_PICTURES
    assert len(views.asked) == 9 * page_pictures.MOST_PICTURES


def test_without_pictures_the_page_has_none(page):
    plain = to_html(sweep())
    assert "data:" not in plain
    assert "img" not in Outline(plain).tags
    assert "worst" in plain
    assert Outline(page).tags.count("img") == len(re.findall("data:image", page)) > 0


def test_large_pictures_are_cut_where_results_differ_from_the_truth(monkeypatch):
    monkeypatch.setattr(page_pictures, "SIDE", 128)
    side = page_pictures.SIDE + 64
    views = Views(side)
    toy = report(entrant("a", {"psnr": [30.0, 20.0]}))
    uris = re.findall(r'src="data:image/webp;base64,([^"]+)" alt="([^"]+)"', to_html(toy, view=views))
    pictures = {alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri, alt in uris}
    assert {one.shape for one in pictures.values()} == {(page_pictures.SIDE, page_pictures.SIDE, 3)}
    shown = views("a", "p0")
    corner = slice(side - page_pictures.SIDE, None)
    truth = (shown.hr.rgb[0, :, corner, corner].permute(1, 2, 0) * 255).numpy()
    assert np.abs(pictures["p0, truth"] - truth).mean() < 4
    enlarged = pictures["p0, input, enlarged"].astype(float)
    assert np.abs(enlarged - truth).mean() < 10


def test_webp_keeps_the_picture():
    picture = torch.rand(1, 3, 8, 8).repeat_interleave(16, 2).repeat_interleave(16, 3)[0]
    encoded = page_pictures.data_uri(picture).removeprefix("data:image/webp;base64,")
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert again.shape == (128, 128, 3)
    assert np.abs(again - (picture.permute(1, 2, 0).numpy() * 255)).mean() < 6


def test_the_bytes_of_all_pictures_are_bounded(monkeypatch):
    monkeypatch.setattr(page_pictures, "MOST_BYTES", 10_000)
    text = to_html(report(entrant("a", {"psnr": [30.0, 20.0, 25.0]})), view=Views(256))
    assert sum(len(uri) for uri in re.findall(r'src="(data:[^"]+)"', text)) <= 10_000
    assert "larger than" in text


def test_a_picture_that_cannot_be_had_costs_one_line():
    def view(who, name):
        if who == "gone":
            raise InputError(f"{name}.png: no such file")
        return Views()(who, name)

    values = {"psnr": [30.0, 20.0]}
    text = to_html(report(entrant("a", values), entrant("gone", values)), view=view)
    assert "p1 of gone is not shown: p1.png: no such file" in text
    assert 'alt="p1, a"' in text


def test_words_from_outside_are_escaped():
    bad = "<script>alert(1)</script>"
    toy = report(entrant(bad, {"psnr": [30.0, 20.0]}), entrant("b", {"psnr": [30.0, 20.0]}))
    toy.entrants[0].failed[bad] = bad
    text = to_html(toy, command=bad, view=Views())
    assert Outline(text).tags.count("script") == 1


def test_what_is_missing_is_said():
    toy = sweep()
    toy.entrants[0].failed["odd"] = "odd.png: sizes must agree"
    toy.entrants[1].skipped["fid"] = "no weights; put them there"
    words = " ".join(Outline(to_html(toy)).texts)
    assert "bicubic: odd not scored: odd.png: sizes must agree" in words
    assert "net realism=1: fid left out: no weights; put them there" in words
    for one in toy.entrants:
        one.remarks.append("these are few")
    assert missing_lines(toy).count("these are few") == 1


def test_reports_of_several_protocols_have_parts_of_their_own():
    other = report(entrant("a", {"psnr": [30.0, 20.0]}), name="full-float")
    text = to_html([sweep(), other])
    outline = Outline(text)
    assert outline.tags.count("h1") == 2
    assert len(outline.ids) == len(set(outline.ids))


def test_a_long_set_keeps_the_page_short():
    toy = report(entrant("a", {"psnr": [20.0 + i % 7 for i in range(3000)]}))
    text = to_html(toy)
    assert len(text) < 300_000
    assert "the first 500 of 3000" in text


def test_the_published_report_holds_no_pictures_and_no_places_of_a_machine():
    text = (Path(__file__).parents[1] / "docs" / "results" / "drealsr.html").read_text("utf-8")
    assert "data:" not in text
    assert not re.search(r"(?<![\w<:])/(?:home|root|work|tmp|Users)\b", text)
    assert Outline(text).tags.count("svg") > 5


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_of_words_can_be_read(page, dark):
    blocks = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", page, re.S)
    ]
    colours = {**blocks[dark], **blocks[2 + dark]}
    words = {name: colour for name, colour in colours.items() if name not in ("paper", "raised", "grid")}
    assert len(words) == 11
    for ground in ("paper", "raised"):
        for name, colour in words.items():
            light, shade = sorted((luminance(colour), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (shade + 0.05) >= 4.5, (name, ground)


def test_papers_stand_beside():
    toy = report(entrant("mine", {"psnr-y": [28.0] * 93}), name="stablesr-512")
    words = " ".join(Outline(to_html(toy, against=[paper.against(toy)])).texts)
    assert "28.650 −0.650" in words
    assert "evaluated by the authors of RSD" in words


@pytest.fixture(scope="module")
def chromium():
    driver = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium")
    with driver.sync_playwright() as run:
        window = run.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield window
        window.close()


class TestBrowser:
    """In a real browser, where one is installed."""

    @pytest.fixture
    def opened(self, page, chromium, tmp_path):
        (tmp_path / "report.html").write_text(page, "utf-8")
        tab = chromium.new_page(viewport={"width": 375, "height": 700})
        self.requests, self.errors = list[str](), list[str]()
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.goto((tmp_path / "report.html").as_uri())
        yield tab
        tab.close()

    def test_nothing_is_fetched_and_a_phone_shows_it_all(self, opened):
        assert [url for url in self.requests if not url.startswith(("data:", "file:"))] == []
        assert sum(url.startswith("file:") for url in self.requests) == 1
        assert self.errors == []
        assert opened.evaluate("document.documentElement.scrollWidth") <= 375

    def test_the_slider_moves_by_keyboard_and_the_sides_can_be_chosen(self, opened):
        stage = opened.locator(".stage").first
        slider = stage.locator("input")
        slider.focus()
        for _ in range(10):
            opened.keyboard.press("ArrowRight")
        assert stage.evaluate("stage => stage.style.getPropertyValue('--cut')") == "60%"
        figure = opened.locator(".compare").first
        figure.locator("select[data-side=right]").select_option("0")
        assert stage.locator("img.right").get_attribute("data-who") == "0"
        assert stage.locator("img:visible").count() == 2
        assert stage.locator(".who.right").inner_text() == "truth"
