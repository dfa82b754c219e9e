import pytest
import torch

from onestep import metrics
from onestep.core.errors import InputError

GOOD = torch.rand(1, 3, 180, 180, generator=torch.Generator().manual_seed(0))
PAIRS = [name for name, metric in metrics.METRICS.items() if metric.needs == "pair" and not metric.weights]


def spoilt(value: float) -> torch.Tensor:
    image = GOOD.clone()
    image[0, 1, 5, 7] = value
    return image


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    ("sr", "line"),
    [
        (spoilt(float("nan")), "holds values that are not numbers"),
        (spoilt(float("inf")), "holds values that are not numbers"),
        (GOOD * 255, r"values in \[0, 1\]; these run from"),
        ((GOOD * 65535).int().to(torch.uint16), r"values in \[0, 1\], not uint16"),
        ((GOOD * 255).byte(), r"values in \[0, 1\], not uint8"),
        (GOOD[:, :1], r"\(B, 3, H, W\), not \(1, 1, 180, 180\)"),
        (GOOD[0], r"\(B, 3, H, W\), not \(3, 180, 180\)"),
        (GOOD[..., :0], "empty"),
        (GOOD[..., :-1], "of one size"),
    ],
    ids=["nan", "infinite", "0 to 255", "16 bit", "8 bit", "grey", "no batch", "empty", "another size"],
)
def test_what_is_no_image_is_refused_in_one_line(name: str, sr: torch.Tensor, line: str):
    for a, b in ((sr, GOOD), (GOOD, sr)):
        with pytest.raises(InputError, match=line) as caught:
            metrics.make(name)(a, b)
        assert "\n" not in str(caught.value)


def test_a_little_overshoot_is_let_through():
    assert metrics.make("psnr")(GOOD * 1.3 - 0.1, GOOD).isfinite().all()
    assert metrics.make("psnr")(GOOD.half(), GOOD.double()).isfinite().all()


def test_measures_of_one_image_look_at_it(development_data, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONESTEP_HOME", str(development_data / "metrics"))
    for name in ("niqe", "brisque"):
        with pytest.raises(InputError, match="not numbers"):
            metrics.make(name)(spoilt(float("nan")))
        with pytest.raises(InputError, match=r"\(B, 3, H, W\)"):
            metrics.make(name)(GOOD[:, :1])
