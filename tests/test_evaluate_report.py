"""Reports: what JSON keeps, intervals, differences, tables."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation_folders import bicubic, write_folders
from onestep.core.errors import InputError, UsageError
from onestep.evaluate import (
    Entrant,
    Report,
    Row,
    Score,
    bootstrap,
    evaluate,
    finished,
    joined,
    protocol,
    restored,
    write,
)
from onestep.evaluate.tables import to_csv, to_markdown

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def entrant(name, values, metric="psnr", **about):
    rows = [Row(f"p{i}", {metric: value}, hr_sha256=str(i)) for i, value in enumerate(values)]
    return Entrant(name, rows, {metric: Score.of(metric, values)}, **about)


def report(*entrants, rules="full"):
    return Report(protocol(rules), list(entrants))


class TestInterval:
    """The percentile bootstrap of a mean."""

    @given(st.lists(numbers, min_size=2, max_size=30))
    @settings(max_examples=30, deadline=None)
    def test_it_lies_within_the_values_and_is_the_same_again(self, values):
        low, high = bootstrap.interval(values)
        assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6
        assert bootstrap.interval(values) == (low, high)

    def test_equal_values_leave_no_doubt(self):
        assert bootstrap.interval([3.0] * 9) == (3.0, 3.0)
        assert bootstrap.interval([3.0]) is None
        assert bootstrap.interval([]) is None
        assert bootstrap.mean([]) is None

    def test_it_is_that_of_the_normal_distribution_for_many_values(self):
        values = np.random.default_rng(1).normal(5, 2, 4000).tolist()
        low, high = bootstrap.interval(values)
        half = 1.96 * np.std(values) / np.sqrt(4000)
        assert low == pytest.approx(np.mean(values) - half, abs=0.15 * half)
        assert high == pytest.approx(np.mean(values) + half, abs=0.15 * half)

    def test_it_is_that_of_another_program(self):
        from scipy.stats import bootstrap as reference

        values = np.random.default_rng(2).gamma(2, size=40)
        theirs = reference(
            (values,), np.mean, method="percentile", n_resamples=20_000, rng=3
        ).confidence_interval
        low, high = bootstrap.interval(values.tolist())
        assert low == pytest.approx(theirs.low, abs=0.03)
        assert high == pytest.approx(theirs.high, abs=0.03)

    def test_a_seed_fixes_the_draws_and_the_size_of_a_block_does_not_matter(self, monkeypatch):
        values = np.random.default_rng(4).normal(size=300).tolist()
        usual, other = bootstrap.interval(values), bootstrap.interval(values, seed=1)
        assert usual != other
        monkeypatch.setattr(bootstrap, "_BLOCK", 300 * 7)
        assert bootstrap.interval(values) == usual

    def test_it_covers_the_truth_about_as_often_as_it_says(self):
        random = np.random.default_rng(5)
        hits = 0
        for _ in range(200):
            low, high = bootstrap.interval(random.normal(0, 1, 40).tolist())
            hits += low <= 0 <= high
        assert 180 <= hits <= 199


class TestDifferences:
    """One entrant less another, paired."""

    def test_pairing_sees_what_means_apart_cannot(self):
        """Pictures differ by far more than the two entrants do."""
        base = np.linspace(20, 40, 30)
        a, b = entrant("a", base.tolist()), entrant("b", (base + 0.1).tolist())
        (found,) = report(a, b).differences(b, a)
        assert (found.metric, found.images) == ("psnr", 30)
        assert found.mean == pytest.approx(0.1)
        assert found.low == pytest.approx(0.1)
        assert found.high == pytest.approx(0.1)
        assert a.scores["psnr"].high > b.scores["psnr"].low  # the intervals of the means overlap widely

    def test_only_pictures_that_both_have_count(self):
        a, b = entrant("a", [1.0, 2.0, 3.0, 4.0]), entrant("b", [2.0, 4.0, 6.0, 8.0])
        a.rows[0] = replace(a.rows[0], hr_sha256="another picture of the same name")
        a.rows[1] = replace(a.rows[1], scores={"psnr": None})
        (found,) = report(a, b).differences(b, a)
        assert (found.mean, found.images) == (3.5, 2)

    def test_without_a_picture_in_common_there_is_none(self):
        a, b = entrant("a", [1.0]), entrant("b", [2.0])
        b.rows[0] = replace(b.rows[0], name="other")
        assert report(a, b).differences(b, a) == []

    def test_a_single_picture_has_no_interval(self):
        (found,) = report(entrant("a", [1.0]), entrant("b", [2.0])).differences(
            entrant("b", [2.0]), entrant("a", [1.0])
        )
        assert (found.mean, found.low, found.high) == (1.0, None, None)

    @given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20))
    @settings(max_examples=20, deadline=None)
    def test_it_is_antisymmetric(self, pairs):
        a, b = (entrant(name, [pair[i] for pair in pairs]) for i, name in enumerate("ab"))
        (there,), (back,) = report(a, b).differences(b, a), report(a, b).differences(a, b)
        assert there.mean == pytest.approx(-back.mean)
        scale = max(abs(x) for pair in pairs for x in pair) + 1
        assert there.low == pytest.approx(-back.high, abs=1e-9 * scale)


class TestJson:
    """What a file keeps."""

    @pytest.fixture
    def real(self, tmp_path):
        folder = write_folders(tmp_path)
        pairs, _ = restored(folder / "lr", folder / "hr")
        return evaluate(pairs, ("psnr-y", "ssim"), candidates=[bicubic(), bicubic("b")], failed={"x": "why"})

    def test_the_contract(self, real):
        values = real.to_json()
        assert {"protocol", "metrics", "images", "version", "weights_sha256"} <= values.keys()
        assert values["metrics"]["psnr-y"]["better"] == "higher"
        assert values["metrics"]["psnr-y"]["mean"] == pytest.approx(real.entrants[0].mean("psnr-y"))
        assert [image["name"] for image in values["images"]] == ["p0", "p1", "p2"]
        assert values["images"][0]["psnr-y"] == real.entrants[0].rows[0].scores["psnr-y"]
        assert values["failed"] == {"x": "why"}
        assert [other["name"] for other in values["others"]] == ["b"]

    def test_it_comes_back_as_it_was(self, real):
        text = json.dumps(real.to_json(), allow_nan=False)
        assert Report.from_json(json.loads(text)) == real

    def test_what_made_it_is_in_it(self, real):
        values = real.to_json()
        assert values["inputs"].keys() == {"hr", "input"}
        assert all(len(row["hr_sha256"]) == len(row["input_sha256"]) == 64 for row in values["images"])
        assert {"torch", "numpy", "python", "onestep", "system"} <= values["versions"].keys()
        assert values["seconds_per_picture"] > 0

    def test_hashes_are_those_of_other_programs(self, tmp_path):
        import hashlib

        folder = write_folders(tmp_path)
        pairs, _ = finished(folder / "sr", folder / "hr")
        one = evaluate(pairs, ("psnr",)).entrants[0]
        digests = [hashlib.sha256((folder / "sr" / f"p{i}.png").read_bytes()).hexdigest() for i in range(3)]
        assert [row.input_sha256 for row in one.rows] == digests
        listing = "".join(f"{digest}  p{i}\n" for i, digest in enumerate(digests))
        assert one.inputs["input"] == hashlib.sha256(listing.encode()).hexdigest()

    def test_what_older_and_newer_versions_wrote_is_read(self):
        old = {
            "protocol": {"name": "full", "what": "whole image", "border": 0, "luma": "Y", "round8": True},
            "metrics": {"psnr": {"mean": 30, "better": "higher", "images": 1, "license": "x", "new": 1}},
            "images": [{"name": "a", "psnr": 30.0, "seconds": None}],
            "model": "net",
            "version": "0.1.0",
            "novelty": 1,
        }
        read = Report.from_json(old)
        assert read.entrants[0].name == "net"
        assert read.entrants[0].values("psnr") == [30.0]
        assert read.score("psnr").mean == 30

    @pytest.mark.parametrize(
        "values",
        [
            {},
            [],
            {"protocol": 1},
            {"protocol": {"name": "full", "what": "x"}},
            {"protocol": {"name": 3}, "metrics": {}, "images": []},
            "text",
        ],
    )
    def test_something_else_is_one_line(self, values):
        with pytest.raises(InputError, match=r"^a\.json: no report"):
            Report.from_json(values, "a.json")


class TestJoined:
    """Reports become one."""

    def test_entrants_follow_each_other_and_are_named_apart(self):
        (one,) = joined([report(entrant("a", [1.0])), report(entrant("a", [2.0]), entrant("b", [3.0]))])
        assert [each.name for each in one.entrants] == ["a", "a (2)", "b"]
        assert [each.mean("psnr") for each in one.entrants] == [1, 2, 3]

    def test_metrics_of_all_are_columns(self):
        (one,) = joined([report(entrant("a", [1.0])), report(entrant("b", [0.5], "ssim"))])
        assert one.metrics == ["psnr", "ssim"]
        lines = to_markdown(one).splitlines()
        assert next(line for line in lines if line.startswith("| a ")).split("|")[3:5] == [" 1.000 ", " – "]


class TestTables:
    """Markdown and CSV."""

    def test_markdown_names_protocol_direction_interval_and_difference(self):
        both = report(entrant("a", [30.0, 31.0]), entrant("b", [32.0, 33.0]), rules="classic-y-crop")
        both.protocol = both.protocol.at(4)
        lines = to_markdown(both).splitlines()
        assert lines[0].startswith("Protocol `classic-y-crop`: ")
        assert "4 pixels were cut" in lines[0]
        assert "| | pictures | psnr ↑ | s per picture |" in lines
        assert "| a | 2 | 30.500 [30.000, 31.000] | – |" in lines
        assert "| b | +2.000 [+2.000, +2.000] |" in lines

    def test_what_is_missing_is_said(self):
        one = entrant("a", [30.0], skipped={"niqe": "no weights"}, failed={"p9": "gone"}, remarks=["odd"])
        one.rows[0] = replace(one.rows[0], missing={"ssim": "too small"})
        text = to_markdown(report(one))
        for line in (
            "a: odd",
            "a: niqe left out: no weights",
            "a: p9 not scored: gone",
            "a: p0: ssim left out",
        ):
            assert line in text

    def test_csv_has_a_line_per_picture_and_entrant(self):
        text = to_csv(report(entrant("a, b", [1.0, 2.0]), entrant("c", [3.0])))
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [(row["entrant"], row["name"], row["psnr"]) for row in rows] == [
            ("a, b", "p0", "1.0"),
            ("a, b", "p1", "2.0"),
            ("c", "p0", "3.0"),
        ]

    def test_files_by_their_ending(self, tmp_path):
        one = report(entrant("a", [1.0, 2.0]))
        for name in ("r.json", "r.csv", "r.md"):
            write(one, tmp_path / name)
        assert Report.from_json(json.loads((tmp_path / "r.json").read_text())) == one
        assert (tmp_path / "r.csv").read_text() == to_csv(one)
        assert (tmp_path / "r.md").read_text().startswith("Protocol `full`")
        with pytest.raises(UsageError, match=r"\.json"):
            write(one, tmp_path / "r.txt")
