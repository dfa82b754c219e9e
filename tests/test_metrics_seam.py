import pytest
import torch

from onestep import metrics
from onestep.core.errors import UsageError
from onestep.metrics.seam import seam


def ramp(height: int = 12, width: int = 16) -> torch.Tensor:
    """Every line differs from its neighbour by 1 / 64 along each axis."""
    return ((torch.arange(height)[:, None] + torch.arange(width)) / 64).expand(1, 3, -1, -1)


def test_a_ramp_has_no_seam_at_any_border():
    assert seam(ramp(), rows=[4, 8], columns=[8]).tolist() == pytest.approx([1.0])


def test_a_step_at_a_border_is_the_closed_form():
    image = ramp().clone()
    image[..., 8:] += 3 / 64
    assert seam(image, rows=[], columns=[8]).item() == pytest.approx(4.0)
    assert seam(image, rows=[4, 8], columns=[8]).item() == pytest.approx((1 + 1 + 4) / 3)
    assert seam(image, rows=[], columns=[7]).item() == pytest.approx(1 / ((13 + 4) / 14))


def test_an_image_whose_detail_runs_one_way_is_measured_against_itself():
    image = ramp() * torch.tensor([1.0, 1.0, 1.0]).view(1, 3, 1, 1)
    image = image + torch.arange(12).view(1, 1, 12, 1) * 2
    assert seam(image, rows=[6], columns=[8]).item() == pytest.approx(1.0, abs=1e-5)


def test_flat_images():
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert seam(flat, [4], [4]).tolist() == [1.0]
    flat[..., 4:] = 0.75
    assert seam(flat, [], [4]).tolist() == [float("inf")]


def test_each_image_of_a_batch_has_its_own_score():
    broken = ramp().clone()
    broken[..., 8:] += 3 / 64
    assert seam(torch.cat([ramp(), broken]), [], [8]).tolist() == pytest.approx([1.0, 4.0])
    assert metrics.make("seam")(broken, [], [8]).item() == pytest.approx(4.0)


@pytest.mark.parametrize(("rows", "columns"), [([], []), ([0], []), ([], [16]), (list(range(1, 12)), [])])
def test_borders_that_make_no_sense_are_refused(rows: list[int], columns: list[int]):
    with pytest.raises(UsageError, match="border"):
        seam(ramp(), rows, columns)
