"""The papers' tables: what they hold, and that nothing of theirs stands beside what is not the same."""

import json

import pytest

from evaluation_toy import entrant, report
from onestep.core.errors import UsageError
from onestep.evaluate import paper
from onestep.evaluate.protocols import PROTOCOLS
from onestep.metrics import METRICS

ELSEWHERE = {
    "liqe",
    "lpips-unstated",
    "maniqa-unstated",
    "psnr-unstated",
    "q-align",
    "ssim-unstated",
    "topiq",
}
"""Metrics of the papers that are not offered here, or whose variant the source does not state."""
RANGES = {"psnr": (17, 33), "ssim": (0.5, 0.9), "lpips": (0.04, 0.7), "dists": (0.15, 0.3), "niqe": (3.5, 11)}
RANGES |= {"musiq": (17, 75), "maniqa": (0.2, 0.7), "clip": (0.25, 0.8), "fid": (14, 240)}
RANGES |= {"topiq": (0.5, 0.7), "q": (3, 5), "liqe": (3, 5)}


def everything() -> list[paper.PaperRow]:
    sets = json.loads(paper.FILE.read_text("utf-8"))["datasets"]
    return [row for one in sets for row in paper.rows(one["protocol"], one["name"])]


def test_every_row_is_of_a_listed_set_and_has_a_source():
    data = json.loads(paper.FILE.read_text("utf-8"))
    printed = sum(
        value is not None for table in data["tables"] for line in table["values"].values() for value in line
    )
    assert len(everything()) == printed
    assert all(row.source and row.evaluated_by for row in everything())
    keys = [(r.source, r.dataset, r.protocol, r.method, r.metric) for r in everything()]
    assert len(keys) == len(set(keys))


def test_values_are_such_as_the_metric_has():
    for row in everything():
        low, high = RANGES[row.metric.split("-")[0]]
        assert low <= row.value <= high, row


def test_metrics_and_protocols_have_the_names_of_ours():
    rows = everything()
    published = {metric for how in PROTOCOLS.values() for metric in how.metrics}
    assert {row.metric for row in rows} <= set(METRICS) | published | ELSEWHERE
    assert not ELSEWHERE & (set(METRICS) | published)
    unknown = {row.protocol for row in rows} - set(PROTOCOLS)
    assert unknown == {"oftsr-real"}


def test_rounded_log_of_the_authors_is_their_table():
    """All but MANIQA, which the authors' log and table give differently."""
    for dataset in ("drealsr", "realsr"):
        rows = [row for row in paper.rows("stablesr-512", dataset) if row.method == "OSEDiff"]
        table = {row.metric: row.value for row in rows if row.source.endswith("table 1")}
        log = {row.metric: row.value for row in rows if "log" in row.source}
        assert table.keys() == log.keys()
        for metric in table.keys() - {"maniqa-pipal"}:
            assert log[metric] == pytest.approx(table[metric], abs=0.00501), metric


def test_two_papers_that_ran_the_same_weights_nearly_agree():
    ours = {
        row.metric: row.value
        for row in paper.rows("stablesr-512", "div2k-val")
        if (row.method, row.source[:3]) == ("CTMSR", "RSD")
    }
    theirs = {
        row.metric: row.value for row in paper.rows("oftsr-real", "div2k-val-oftsr") if row.method == "CTMSR"
    }
    assert ours["psnr-y"] == pytest.approx(theirs["psnr-unstated"], rel=0.005)
    assert ours["lpips-alex"] == pytest.approx(theirs["lpips-unstated"], rel=0.005)
    assert ours["musiq"] == pytest.approx(theirs["musiq"], rel=0.015)


def scored(count: int, size: tuple[int, int] = (512, 512), **values: float):
    taken = {name.replace("_", "-"): [value] * count for name, value in (values or {"psnr_y": 28.0}).items()}
    return entrant("mine", taken, size)


def test_a_set_is_recognised_by_number_and_size_and_said():
    found = paper.against(report(scored(93), name="stablesr-512"))
    assert found.dataset is not None
    assert found.dataset.name == "drealsr"
    assert "taken for drealsr" in found.lines[0]
    line = found.table("mine")["OSEDiff", "OSEDiff, arXiv 2406.08177, table 1", "the authors of OSEDiff"]
    assert line["psnr-y"].difference == pytest.approx(28.0 - 27.92)
    assert found.metrics == ["psnr-y"]


@pytest.mark.parametrize(
    ("protocol", "count", "size", "dataset", "message"),
    [
        ("stablesr-512", 31, (512, 512), None, "no set is known by 31 pictures of 512x512"),
        ("stablesr-512", 31, (512, 512), "drealsr", "has 93 pictures, 31 were scored"),
        ("stablesr-512", 93, (500, 512), "drealsr", "has pictures of 512x512, one is 500x512"),
        ("stablesr-512", 93, (500, 512), None, "no set is known"),
        ("full", 93, (512, 512), None, "no paper's table is under the protocol full"),
        ("oftsr-100", 100, (256, 256), None, "several sets are like these"),
        ("resshift-full", 100, (1000, 800), None, "no set is known"),
    ],
)
def test_other_pictures_or_protocols_get_a_line_and_no_row(protocol, count, size, dataset, message):
    found = paper.against(report(scored(count, size), name=protocol), dataset)
    assert found.pairs == []
    assert any(message in line for line in found.lines), found.lines
    assert all("\n" not in line for line in found.lines)


@pytest.mark.parametrize(
    ("name", "message"),
    [("ffhq-256", "is a set of the protocol oftsr-100"), ("drealsrr", "there are div2k-val, drealsr")],
)
def test_a_set_that_the_protocol_has_not_is_refused(name, message):
    with pytest.raises(UsageError, match=message):
        paper.against(report(scored(93), name="stablesr-512"), name)


def test_a_set_can_be_named():
    found = paper.against(report(scored(100, (256, 256), psnr=28.0), name="oftsr-100"), "FFHQ-256-noisy")
    assert {pair.paper.dataset for pair in found.pairs} == {"ffhq-256-noisy"}
    full_size = paper.against(report(scored(100, (1000, 800)), name="resshift-full"), "realsr-v3")
    assert full_size.table("mine")


def test_a_variant_of_a_metric_shares_no_column():
    found = paper.against(report(scored(93, psnr=28.0, lpips_squeeze=0.3), name="stablesr-512"))
    assert found.pairs == []
    assert any("psnr-y" in line and "lpips-alex" in line for line in found.lines)


def test_entrants_with_other_pictures_are_left_out_alone():
    short = entrant("short", {"psnr-y": [28.0] * 92})
    found = paper.against(report(scored(93), short, name="stablesr-512"))
    assert found.entrants == ["mine"]
    assert "short: drealsr has 93 pictures, 92 were scored; not compared" in found.lines


def test_json_and_markdown_hold_both_values_and_the_difference():
    found = paper.against(report(scored(93), name="stablesr-512"))
    row = next(row for row in found.to_json()["rows"] if row["method"] == "CTMSR")
    assert (row["value"], row["ours"]) == (28.65, 28.0)
    assert row["difference"] == pytest.approx(-0.65)
    json.dumps(found.to_json(), allow_nan=False)
    text = found.to_markdown({"psnr-y": "↑"}, {"psnr-y": 2})
    assert "| CTMSR | RSD, arXiv 2503.13358" in text
    assert "28.65 (-0.65)" in text
    assert "| **mine** | this report | | 28.00 |" in text
