"""Never a black picture without a word: results are checked, tiles halve, maps leave no seams."""

import logging
from fractions import Fraction

import pytest
import torch

from onestep import Upscaler
from onestep.core.contract import Traits
from onestep.core.errors import InputError, UsageError
from onestep.core.picture import Picture
from onestep.plan import Settings, make_plan
from pictures import Nearest


def picture(height=40, width=50, seed=0):
    return Picture(torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)))


class Fragile(Nearest):
    """Right in float32; in half precision something else on every tile that begins in the given place."""

    def __init__(self, spoil, always=False, **traits):
        super().__init__(2, **traits)
        self.spoil, self.always, self.calls = spoil, always, []

    def forward(self, lr, noise, condition):
        half = torch.is_autocast_enabled("cpu")
        self.calls.append(half)
        out = super().forward(lr, noise, condition)
        return self.spoil(out) if half or self.always else out


SPOILS = {
    "no numbers": lambda out: out * float("nan"),
    "one of them": lambda out: out.index_fill(-1, torch.tensor([3]), float("inf")),
    "far too large": lambda out: out * 1e4,
    "black": lambda out: torch.zeros_like(out) - 1,
}


@pytest.mark.parametrize("how", SPOILS)
def test_what_half_precision_spoils_is_made_again_in_float32_and_said(how, caplog):
    image = picture()
    model = Fragile(SPOILS[how], tile=32)
    out = Upscaler(model, device="cpu", dtype="bfloat16")(image, tile=32)
    expected = image.rgb.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(out.rgb, expected, atol=1e-6)
    assert [record.getMessage() for record in caplog.records] == [
        "torch.bfloat16 cannot hold what the model calculates: going on in float32"
    ]
    assert model.calls == [True, False] + [False] * (len(model.calls) - 2)


def test_what_half_precision_holds_is_not_made_twice(caplog):
    model = Fragile(lambda out: out)
    Upscaler(model, device="cpu", dtype="bfloat16")(picture())
    assert model.calls == [True]
    assert not caplog.records


def test_a_picture_of_one_color_may_stay_one(caplog):
    image = Picture(torch.full((1, 3, 20, 20), 0.25))
    model = Fragile(lambda out: out)
    assert torch.allclose(
        Upscaler(model, device="cpu", dtype="bfloat16")(image).rgb, torch.tensor(0.25), atol=2e-3
    )
    assert model.calls == [True]
    assert not caplog.records


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("how", ["no numbers", "one of them"])
def test_no_numbers_in_float32_either_is_one_line(how, dtype):
    up = Upscaler(Fragile(SPOILS[how], always=True), device="cpu", dtype=dtype)
    with pytest.raises(InputError, match=r"^the model gives no numbers .* get them again$"):
        up(picture())


def test_values_far_out_are_said_once(caplog):
    model = Fragile(SPOILS["far too large"], always=True, tile=32)
    Upscaler(model, device="cpu", dtype="float32")(picture(), tile=32)
    assert len(model.calls) > 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "leave the range" in caplog.text


def test_a_condition_is_made_again_too():
    class Conditional(Nearest):
        def condition(self, lr, options):
            return {"shift": torch.full((1,), float("nan") if torch.is_autocast_enabled("cpu") else 0.0)}

        def forward(self, lr, noise, condition):
            return super().forward(lr, noise, condition) + condition["shift"]

    image = picture()
    out = Upscaler(Conditional(), device="cpu", dtype="bfloat16")(image)
    assert torch.allclose(out.rgb, image.rgb, atol=1e-6)


def test_halving_is_said(caplog):
    class Cramped(Nearest):
        def forward(self, lr, noise, condition):
            if max(lr.shape[-2:]) > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(lr, noise, condition)

    Upscaler(Cramped(tile=128), device="cpu")(picture(100, 100))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "memory ran out with tiles of 100: going on with 50",
        "memory ran out with tiles of 50: going on with 32",
    ]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tile": 1}, "--tile 1 is too small; give at least 8 pixels"),
        ({"tile": 7}, "--tile 7"),
        ({"tile": 64, "overlap": 33}, "--overlap 33 is more than half of --tile 64; give at most 32"),
    ],
)
def test_tiles_and_overlaps_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        Settings(**wrong)


def test_a_large_overlap_makes_automatic_tiles_larger():
    up = Upscaler(Nearest(2, tile=64, overlap=8), device="cpu")
    plan = up.plan(1000, 800, Settings(overlap=60))
    assert plan.overlap == 60
    assert plan.tile >= 120


def test_an_overlap_for_which_memory_does_not_suffice_is_said(caplog, monkeypatch):
    up = Upscaler(Nearest(1, tile=64, overlap=8), device="cpu")
    up(picture(150, 150), overlap=60)
    assert caplog.records == []
    monkeypatch.setattr("onestep.upscaler.free_memory", lambda _: 10**10)
    up._layer_bytes = 10**6
    up(picture(150, 150), overlap=60)
    assert [record.getMessage() for record in caplog.records] == [
        "an overlap of 60 needs tiles of 120, for which memory does not suffice: it is 30"
    ]


@pytest.mark.parametrize("tile", [32, 64, 96])
@pytest.mark.parametrize("overlap", [0, 8, 16])
def test_plans_count_the_tiles_of_models_with_coarse_noise(tile, overlap):
    class Latent(Nearest):
        def noise_shape(self, lr):
            return torch.Size((lr[0], 4, lr[2] // 2, lr[3] // 2))

        def forward(self, lr, noise, condition):
            self.tiles = getattr(self, "tiles", 0) + 1
            return super().forward(lr, noise, condition)

    model = Latent(2, multiple_of=32, minimum=32, tile=64)
    up = Upscaler(model, device="cpu")
    _, plan = up.run(picture(100, 170), Settings(tile=tile, overlap=overlap), [{}])
    assert plan.tiles == model.tiles
    settings = Settings(tile=tile, overlap=overlap)
    assert (
        make_plan(170, 100, settings, model.traits, tile=plan.tile, ratio=Fraction(1, 2)).tiles == plan.tiles
    )


def test_the_traits_of_the_shipped_model_cover_what_it_sees():
    up = Upscaler.load("oftsr-compact-x4", device="cpu", dtype="float32")
    assert isinstance(up.model.traits, Traits)
    lr, noise = (
        torch.zeros(1, 3, 96, 96, requires_grad=True),
        torch.zeros(up.model.noise_shape((1, 3, 96, 96))),
    )
    with torch.enable_grad():
        condition = up.model.condition(lr, up.model.Options())
        up.model(lr, noise, condition)[0, :, 190:194, 190:194].sum().backward()
    seen = lr.grad[0].abs().sum(0)
    share = float(seen[48 - 16 : 48 + 16, 48 - 16 : 48 + 16].sum() / seen.sum())
    assert share > 0.99, "the middle of the overlap lies beyond nearly all that decides a pixel"
