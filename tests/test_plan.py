"""The arithmetic of upscaling: sizes, passes, tiles, bytes."""

import pytest
import torch

from onestep.core.contract import Traits
from onestep.core.errors import UsageError
from onestep.core.noise import NoiseCanvas
from onestep.core.tiling import tiled
from onestep.plan import (
    LARGEST_SCALE,
    SMALLEST_TILE,
    Settings,
    even,
    halved,
    make_plan,
    passes_needed,
    rounded_up,
    shared,
    target_size,
    whole,
)

X4 = Traits(4, tile=64, overlap=8)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (Settings(), (40, 28)),
        (Settings(scale=1), (10, 7)),
        (Settings(scale=2.25), (22, 16)),  # 22.5 and 15.75: half to even
        (Settings(scale=2.5), (25, 18)),  # 25 and 17.5
        (Settings(scale=1.5), (15, 10)),  # 15 and 10.5
        (Settings(scale=16), (160, 112)),
        (Settings(width=25), (25, 18)),  # 17.5
        (Settings(height=35), (50, 35)),
        (Settings(width=33, height=99), (33, 99)),
    ],
)
def test_the_result_is_exactly_as_large_as_asked(settings, size):
    assert target_size(10, 7, settings, X4) == size


@pytest.mark.parametrize("settings", [Settings(width=9), Settings(height=113), Settings(width=40, height=6)])
def test_exact_sizes_that_shrink_or_exceed_sixteen_times_are_refused(settings):
    with pytest.raises(UsageError, match="1 to 16 times 10x7"):
        target_size(10, 7, settings, X4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0.5},
        {"scale": LARGEST_SCALE + 0.1},
        {"scale": float("nan")},
        {"scale": 2, "width": 100},
        {"width": 0},
        {"height": -1},
        {"tile": "big"},
        {"tile": 0},
        {"overlap": -1},
        {"color": "sepia"},
    ],
)
def test_settings_that_are_wrong_for_every_picture_are_refused_in_one_line(wrong):
    with pytest.raises(UsageError, match=r"^[^\n]+$") as caught:
        Settings(**wrong)
    assert f"--{next(iter(wrong))}" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "scale", "passes"),
    [
        ((10, 7), 4, 1),
        ((40, 28), 4, 1),
        ((41, 28), 4, 2),
        ((40, 29), 4, 2),
        ((160, 112), 4, 2),
        ((160, 112), 2, 4),
        ((160, 112), 3, 3),
        ((160, 112), 1, 1),
    ],
)
def test_the_model_runs_until_the_size_is_reached_or_passed(target, scale, passes):
    assert passes_needed(10, 7, target, scale) == passes


@pytest.mark.parametrize("multiple", [1, 3, 8])
@pytest.mark.parametrize("tile", [17, 32, 40, 64])
@pytest.mark.parametrize("overlap", [0, 5, 16])
def test_planned_tiles_are_those_that_tiling_cuts(multiple, tile, overlap):
    traits = Traits(2, multiple_of=multiple, minimum=16, overlap=overlap)
    for height, width in ((9, 50), (100, 33)):
        plan = make_plan(width, height, Settings(), traits, tile=tile)
        calls = []

        def run(lr, noise, calls=calls):
            calls.append(lr.shape)
            return [torch.zeros(1, 3, lr.shape[-2] * 2, lr.shape[-1] * 2)]

        tiled(
            run,
            torch.zeros(1, 3, height, width),
            NoiseCanvas(0, 0),
            scale=2,
            tile=tile,
            overlap=plan.overlap,
            ratio=1,
            multiple_of=multiple,
            minimum=16,
        )
        assert plan.tiles == len(calls)


@pytest.mark.parametrize(("width", "height"), [(864, 576), (1000, 750), (640, 480), (257, 40), (300, 301)])
@pytest.mark.parametrize(("tile", "multiple"), [(256, 1), (64, 8)])
def test_even_tiles_leave_less_to_compute_and_never_grow(width, height, tile, multiple):
    traits = Traits(1, tile=tile, overlap=16, multiple_of=multiple)

    def work(side):
        tiles = make_plan(width, height, Settings(), traits, tile=side).tiles
        return tiles * min(side, width) * min(side, height)

    chosen = even(width, height, tile, None, traits)
    assert tile // 2 <= chosen <= tile
    assert chosen % multiple == 0
    assert work(chosen) == min(work(side) for side in range(tile // 2, tile + 1, multiple))
    assert multiple > 1 or work(chosen) < work(tile)


def test_further_passes_go_over_every_result():
    one = make_plan(10, 10, Settings(scale=16), Traits(4, overlap=0), tile=20)
    three = make_plan(10, 10, Settings(scale=16), Traits(4, overlap=0), tile=20, results=3)
    assert (one.passes, one.tiles) == (2, 1 + 4)
    assert three.tiles == 1 + 3 * 4
    assert three.memory - one.memory == 2 * 160 * 160 * 12


def test_memory_counts_input_output_and_what_is_resized():
    same = make_plan(10, 10, Settings(), X4, tile=64).memory
    other = make_plan(10, 10, Settings(scale=3), X4, tile=64).memory
    assert same == 12 * (100 + 100 + 1600)
    assert other == same + 12 * 900


def test_tiles_halve_down_to_the_smallest_and_stay_multiples():
    traits = Traits(4, multiple_of=8, minimum=16)
    sizes = [192]
    while halved(sizes[-1], traits) < sizes[-1]:
        sizes.append(halved(sizes[-1], traits))
    assert sizes == [192, 96, 48, SMALLEST_TILE]
    assert halved(24, traits) == 24
    assert halved(200, Traits(4, minimum=150)) == 150


def test_small_arithmetic():
    assert [rounded_up(n, 8) for n in (1, 8, 9)] == [8, 8, 16]
    assert whole(5, Traits(4, multiple_of=8, minimum=20)) == 24
    assert shared(None, 64, Traits(4, overlap=16)) == 16
    assert shared(60, 64, X4) == 32
    assert shared(3, 64, X4) == 3
