import re
from pathlib import Path

import pytest

from onestep import hub, metrics
from onestep.core.errors import UsageError

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "metrics.md"


def test_every_metric_says_what_it_is():
    for name, metric in metrics.METRICS.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert metric.what
        assert metric.license
        assert metric.range[0] < metric.range[1]
        assert all(file in hub.FILES for file in metric.weights)


def test_metrics_without_weights_are_made_at_once(home: Path):
    free = [n for n, m in metrics.METRICS.items() if not m.weights and not m.extra and m.needs != "set"]
    assert {"psnr", "ssim", "psnr-y", "ssim-y", "ms-ssim", "lr-consistency", "seam"} <= set(free)
    assert all(callable(metrics.make(name)) for name in free)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("psnr_y", "psnr-y"), ("maniqa", "maniqa-pipal"), ("lpips", "lpips-vgg"), ("FID", "fid")],
)
def test_a_name_that_does_not_exist_is_answered_with_a_near_one(typed: str, meant: str):
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        metrics.find(typed)


def rows() -> dict[str, list[str]]:
    """Metric -> cells of its row on the page."""
    table = PAGE.read_text("utf-8").split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {one[0].strip("`"): one[1:] for one in cells}


def test_the_page_has_a_row_for_every_metric_that_says_the_same():
    found = rows()
    assert list(found) == list(metrics.METRICS)
    for name, metric in metrics.METRICS.items():
        what, better, needs, values, terms, source = found[name]
        assert what == metric.what
        assert better == {"higher": "↑", "lower": "↓"}[metric.better]
        assert needs == metric.needs
        assert values == f"{metric.range[0]:g} … {metric.range[1]:g}"
        assert terms == metric.license
        named = [*(f"`{file}`" for file in metric.weights), *([f"`{metric.extra}`"] if metric.extra else [])]
        assert source == (", ".join(named) or "–")
