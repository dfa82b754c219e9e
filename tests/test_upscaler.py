"""One picture in, the same kind of picture out, at exactly the size asked for."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

import onestep
from onestep import Picture, Upscaler, catalog
from onestep.core.contract import OneStepModel, Traits
from onestep.core.errors import InputError, UsageError
from onestep.core.resize import resize
from onestep.plan import Settings


@pytest.fixture
def tiny(home):
    return Upscaler.load("tiny", device="cpu", dtype="float32")


def picture(height=20, width=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Picture(torch.rand(1, 3, height, width, generator=generator))


def same(a, b):
    return torch.equal(a.rgb, b.rgb)


@dataclass(frozen=True)
class FakeOptions:
    gain: float = 1.0


class Fake(OneStepModel):
    """Replicates pixels and adds a share of the noise; refuses more than ``room`` LR pixels at once."""

    Options = FakeOptions

    def __init__(self, room=10**9, share=0.0, error=None, **traits):
        super().__init__()
        self.traits = Traits(**{"scale": 2, "tile": 128, "overlap": 8, **traits})
        self.room, self.share, self.seen = room, share, []
        self.error = error or torch.OutOfMemoryError("out of memory")

    def noise_shape(self, lr):
        return torch.Size((lr[0], 3, lr[2] * 2, lr[3] * 2))

    def condition(self, lr, options):
        return {"gain": torch.full((1, 1, 1, 1), options.gain)}

    def forward(self, lr, noise, condition):
        self.seen.append(tuple(lr.shape[-2:]))
        if lr.shape[-2] * lr.shape[-1] > self.room:
            raise self.error
        up = lr.repeat_interleave(self.traits.scale, -1).repeat_interleave(self.traits.scale, -2)
        return up * condition["gain"] + (self.share * noise if self.share else 0)


def test_the_public_names_do_what_they_say(home):
    out = onestep.upscale(picture(), model="tiny", device="cpu", dtype="float32", scale=2, realism=0.7)
    again = Upscaler.load("tiny", device="cpu", dtype="float32")(picture(), scale=2, realism=0.7)
    assert same(out, again)
    assert (out.width, out.height) == (48, 40)
    assert set(onestep.__all__) <= set(dir(onestep))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = onestep.nothing


def test_all_kinds_of_input_give_the_same_result(tiny, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)
    first = tiny(tmp_path / "a.png")
    for other in (str(tmp_path / "a.png"), Image.fromarray(array), array, tensor, tensor[None]):
        assert same(first, tiny(other))
    assert first.rgb.shape == (1, 3, 36, 44)


@pytest.mark.parametrize("scale", [1, 1.3, 2.25, 2.5, 4, 4.1, 5, 7.5, 16])
def test_sizes_are_exact_at_every_scale(tiny, scale):
    out = tiny(picture(10, 7), scale=scale)
    assert (out.width, out.height) == (round(7 * scale), round(10 * scale))
    assert 0 <= float(out.rgb.min()) <= float(out.rgb.max()) <= 1


def test_exact_sizes_and_aspect(tiny):
    assert tiny(picture(10, 20), width=50).rgb.shape[-2:] == (25, 50)
    assert tiny(picture(10, 20), height=30).rgb.shape[-2:] == (30, 60)
    assert tiny(picture(10, 20), width=33, height=44).rgb.shape[-2:] == (44, 33)


def test_a_smaller_factor_is_one_pass_and_one_antialiased_resize(tiny):
    full = tiny(picture()).rgb
    assert torch.equal(tiny(picture(), scale=2.5).rgb, resize(full, (50, 60)).clamp(0, 1))


def test_a_larger_factor_runs_the_model_again_over_its_own_result(tiny):
    twice = tiny(tiny(picture(8, 6), realism=0.2), realism=0.2)
    assert same(tiny(picture(8, 6), scale=16, realism=0.2), twice)
    assert torch.equal(tiny(picture(8, 6), scale=5, realism=0.2).rgb, resize(twice.rgb, (40, 30)).clamp(0, 1))


def test_same_seed_same_pixels_other_seed_other_pixels(tiny):
    assert same(tiny(picture(), seed=3), tiny(picture(), seed=3))
    assert not same(tiny(picture(), seed=3), tiny(picture(), seed=4))
    with pytest.raises(UsageError, match="seed -1 is negative"):
        tiny(picture(), seed=-1)


def test_realism_changes_the_result_and_comes_from_the_card_unless_asked(tiny):
    faithful, half, real = (tiny(picture(), realism=r) for r in (0, 0.5, 1))
    assert same(tiny(picture()), half)
    assert not same(faithful, half)
    assert not same(half, real)


def test_realism_can_be_a_map_of_any_size(tiny):
    flat = tiny(picture(), realism=np.full((5, 7), 0.25, np.float32))
    assert torch.allclose(flat.rgb, tiny(picture(), realism=0.25).rgb, atol=1e-6)
    halves = torch.zeros(1, 1, 20, 24)
    halves[..., 12:] = 1
    mixed = tiny(picture(), realism=halves).rgb
    assert torch.allclose(mixed[..., :16], tiny(picture(), realism=0).rgb[..., :16], atol=1e-6)
    assert torch.allclose(mixed[..., -16:], tiny(picture(), realism=1).rgb[..., -16:], atol=1e-6)
    tiled = tiny(picture(), realism=halves, tile=20, overlap=10, scale=16)
    assert tiled.rgb.shape == (1, 3, 320, 384)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), torch.full((4, 4), 1.5)])
def test_realism_outside_its_range_is_refused(tiny, value):
    with pytest.raises(UsageError, match=r"choose from 0 \(faithful\) to 1 \(realistic\)"):
        tiny(picture(), realism=value)


def test_a_knob_that_a_model_lacks_is_refused_with_those_it_has(home, tiny):
    with pytest.raises(UsageError, match="bicubic has no option 'realism'; it has none"):
        Upscaler.load("bicubic")(picture(), realism=0.5)
    with pytest.raises(UsageError, match="tiny has no option 'prompt'; it has realism"):
        tiny(picture(), prompt="a cat")
    with pytest.raises(UsageError, match="tiny-teacher has no option 'realism'; it has evaluations, solver"):
        Upscaler.load("tiny-teacher").sweep(picture(), realism=[0])


def test_a_sweep_equals_single_calls_and_shares_the_trunk(tiny):
    calls = []
    tiny.model.field.net.stem.register_forward_hook(lambda *_: calls.append("stem"))
    tiny.model.field.net.tail.register_forward_hook(lambda *_: calls.append("tail"))
    values = [0.0, 0.25, 0.5, 0.75, 1.0]
    sweep = tiny.sweep(picture(), realism=values, seed=5, scale=3)
    assert (calls.count("stem"), calls.count("tail")) == (1, 5)
    for value, one in zip(values, sweep, strict=True):
        assert same(one, tiny(picture(), realism=value, seed=5, scale=3))


def test_a_sweep_over_several_passes_and_tiles_equals_single_calls(tiny):
    sweep = tiny.sweep(picture(), realism=[0, 1], scale=6, tile=20)
    for value, one in zip([0, 1], sweep, strict=True):
        assert same(one, tiny(picture(), realism=value, scale=6, tile=20))
    assert tiny.sweep(picture(), realism=[]) == []


def test_tiles_equal_the_whole_where_the_overlap_covers_the_receptive_field(tiny):
    """Stem 1, two blocks of 2, tail 1, bicubic 2: eight LR pixels; a fade keeps a quarter of the overlap."""
    image = picture(64, 128)
    whole = tiny(image, tile="off").rgb
    assert torch.allclose(tiny(image, tile=64, overlap=32).rgb, whole, atol=1e-6)
    assert not torch.allclose(tiny(image, tile=64, overlap=0).rgb, whole, atol=1e-3)


def test_a_picture_no_larger_than_a_tile_is_one_tile(tiny):
    image = picture(20, 24)
    _, plan = tiny.run(image, Settings(tile=500), [{}])
    assert (plan.tiles, plan.tile) == (1, 24)
    assert same(tiny(image, tile=500), tiny(image, tile="off"))


@pytest.mark.parametrize("tile", [8, 11])
def test_very_small_tiles_still_give_a_result(tiny, tile):
    assert tiny(picture(6, 7), tile=tile).rgb.shape == (1, 3, 24, 28)


def test_the_report_of_a_run_counts_its_tiles():
    model = Fake(tile=32, overlap=8)
    settings = Settings(tile=32, scale=4)
    up = Upscaler(model, device="cpu")
    _, plan = up.run(picture(50, 40), settings, [{}])
    assert plan.tiles == len(model.seen) == up.plan(40, 50, settings).tiles


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["accelerator", "python", "cpu"])
def test_where_memory_runs_out_tiles_are_halved_until_they_fit(error):
    model = Fake(room=40 * 40, share=0.1, tile=128, error=error)
    image = picture(100, 110)
    (out,), plan = Upscaler(model, device="cpu").run(image, Settings(), [{}])
    assert [max(size) for size in model.seen[:3]] == [110, 55, 32]
    assert max(map(max, model.seen[2:])) == plan.tile == 32
    assert same(out, Upscaler(Fake(share=0.1), device="cpu")(image))


def test_a_smaller_tile_is_kept_for_the_passes_that_follow():
    model = Fake(room=40 * 40)
    _, plan = Upscaler(model, device="cpu").run(picture(64, 64), Settings(scale=4, tile="off"), [{}])
    assert plan.tile == 32
    assert [size for size in model.seen if max(size) > 32] == [(64, 64)]


def test_memory_that_does_not_suffice_for_the_smallest_tile_is_one_line():
    with pytest.raises(InputError, match="memory ran out, even with small tiles"):
        Upscaler(Fake(room=0), device="cpu")(picture(100, 100))


def test_other_failures_of_a_model_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shapes differ"):
        Upscaler(Fake(room=0, error=RuntimeError("shapes differ")), device="cpu")(picture())


def test_a_result_that_cannot_fit_into_memory_is_refused_before_work(monkeypatch):
    monkeypatch.setattr("onestep.upscaler.free_memory", lambda _: 100_000)
    model = Fake()
    with pytest.raises(InputError, match=r"200x200 needs about 0\.0 GB .* ask for a smaller size"):
        Upscaler(model, device="cpu")(picture(100, 100))
    assert not model.seen


def test_automatic_tiles_shrink_with_the_free_memory(monkeypatch):
    up = Upscaler(Fake(tile=128), device="cpu")
    assert 64 < up.plan(1000, 1000).tile <= 128
    monkeypatch.setattr("onestep.upscaler.free_memory", lambda _: int(64**2 * up._layer_bytes * 2))
    assert 32 < up.plan(1000, 1000).tile <= 64


def test_sides_are_padded_as_the_model_wants_and_cut_again():
    model = Fake(multiple_of=8, minimum=16)
    image = picture(9, 21)
    out = Upscaler(model, device="cpu")(image)
    assert model.seen == [(16, 24)]
    expected = image.rgb.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(out.rgb, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("name", ["tiny", "bicubic"])
def test_tiny_pictures_work(home, name, size):
    out = Upscaler.load(name, device="cpu", dtype="float32")(picture(*size), color="wavelet")
    assert out.rgb.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert torch.isfinite(out.rgb).all()


def test_depth_grey_alpha_and_metadata_stay(tiny):
    image = dataclasses.replace(
        picture(9, 12), alpha=torch.rand(1, 1, 9, 12), bits=16, icc=b"profile", exif=b"Exif", format="PNG"
    )
    out = tiny(image, scale=3)
    assert (out.bits, out.icc, out.exif, out.format) == (16, b"profile", b"Exif", "PNG")
    assert torch.equal(out.alpha, resize(image.alpha, (27, 36)).clamp(0, 1))
    grey = tiny(dataclasses.replace(image, rgb=image.rgb[:, :1].expand(-1, 3, -1, -1), grey=True))
    assert grey.grey
    assert torch.equal(grey.rgb[:, 0], grey.rgb[:, 2])
    assert grey.array.shape == (36, 48, 2)


def test_alpha_is_not_seen_by_the_model(tiny):
    image = picture(9, 12)
    clear = dataclasses.replace(image, alpha=torch.zeros(1, 1, 9, 12))
    assert same(tiny(image), tiny(clear))


def test_the_colour_fix_takes_the_colours_of_the_input(tiny):
    image = picture(32, 32)
    plain, fixed = tiny(image, color="none"), tiny(image, color="adain")
    mean = image.rgb.mean((2, 3))
    assert (fixed.rgb.mean((2, 3)) - mean).abs().max() < 0.02
    assert (plain.rgb.mean((2, 3)) - mean).abs().max() > 0.02
    assert not same(plain, tiny(image, color="wavelet"))
    assert same(plain, tiny(image))


def test_half_precision_stays_near_full_precision(home):
    image = picture()
    full = Upscaler.load("tiny", device="cpu", dtype="float32")(image)
    half = Upscaler.load("tiny", device="cpu", dtype="bfloat16")(image)
    assert half.rgb.dtype == torch.float32
    assert not same(full, half)
    assert torch.allclose(full.rgb, half.rgb, atol=0.03)


def test_progress_rises_to_one_over_tiles_and_passes(tiny):
    seen = []
    tiny(picture(30, 30), scale=5, tile=16, progress=seen.append)
    assert seen == sorted(seen)
    assert 0 < seen[0] < 0.1
    assert seen[-1] == pytest.approx(1)


def test_the_teacher_takes_its_own_options(home):
    teacher = Upscaler.load("tiny-teacher", device="cpu", dtype="float32")
    image = picture(8, 8)
    default = teacher(image)
    assert same(default, teacher(image, evaluations=2))
    assert not same(default, teacher(image, evaluations=3, solver="euler"))
    with pytest.raises(UsageError, match="evaluations 1 is too few: midpoint needs at least 2"):
        teacher(image, evaluations=1)


def test_an_option_of_the_card_that_the_model_does_not_know_is_refused(home, tiny):
    card = dataclasses.replace(catalog.find("tiny").card, defaults={"magic": 1})
    with pytest.raises(UsageError, match="magic"):
        Upscaler(tiny.model, device="cpu", card=card)(picture())
