from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from onestep.core.errors import InputError, UsageError
from onestep.core.synthetic import synthetic
from onestep.data import DataConfig, Pairs, Source, files, keyed


def halve(image, generator):
    """Average pooling with noise from the generator: shows that the generator decides."""
    lr = torch.nn.functional.avg_pool2d(image[None], 2)[0]
    return lr + 0.01 * torch.randn(lr.shape, generator=generator)


@pytest.fixture
def folder(tmp_path):
    """Seven pictures of different sizes; the pixels of each are known."""
    for i in range(7):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 33 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{'abcdefg'[i]}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


@pytest.fixture
def config(folder):
    return DataConfig(str(folder), crop=16, scale=2, holdout=3, workers=0)


def test_every_nth_file_is_held_out(config):
    assert [path.stem for path in files(config, held_out=True)] == ["a", "d", "g"]
    assert [path.stem for path in files(config, held_out=False)] == ["b", "c", "e", "f"]
    assert files(replace(config, holdout=0), held_out=True) == []


def test_same_position_same_pixels_for_any_worker_count(config):
    positions = [[0, 5], [1, 9], [40, 3]]
    alone = Pairs(config, halve, 1)
    for workers in (0, 1, 2):
        pairs = Pairs(replace(config, workers=workers, cache=workers), halve, 1)
        for batch, (lr, hr) in zip(positions, pairs.batches(positions), strict=True):
            assert torch.equal(lr, torch.stack([alone.at(p)[0] for p in batch]))
            assert torch.equal(hr, torch.stack([alone.at(p)[1] for p in batch]))


def test_seed_and_position_change_the_pixels(config):
    pairs = Pairs(config, halve, 1)
    assert not torch.equal(pairs.at(0)[1], pairs.at(len(pairs))[1])
    assert not torch.equal(pairs.at(0)[1], Pairs(config, halve, 2).at(0)[1])


def test_an_epoch_shows_every_picture_once(config):
    pairs = Pairs(config, halve, 0)
    orders = [[pairs._index(epoch * 4 + i) for i in range(4)] for epoch in range(6)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_a_crop_is_a_window_of_its_file(config):
    pairs = Pairs(replace(config, horizontal=0, vertical=0), halve, 0)
    for position in range(4):
        file = files(config, held_out=False)[pairs._index(position)]
        whole = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
        hr = pairs.at(position)[1]
        windows = whole.unfold(1, 16, 1).unfold(2, 16, 1)
        assert (windows == hr[:, None, None]).all(-1).all(-1).all(0).sum() == 1


def test_flips_happen_before_the_degradation(config):
    plain = Pairs(replace(config, horizontal=0, vertical=0), lambda image, _: image, 0)
    flipped = Pairs(replace(config, horizontal=1, vertical=1), lambda image, _: image, 0)
    lr, hr = flipped.at(2)
    assert torch.equal(hr, plain.at(2)[1].flip(1, 2))
    assert torch.equal(lr, hr)


def test_flips_are_as_frequent_as_asked(tmp_path):
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).save(tmp_path / "x.png")
    config = DataConfig(str(tmp_path), crop=2, scale=2, horizontal=0.5, vertical=0.06, holdout=0)
    plain = Pairs(replace(config, horizontal=0, vertical=0), halve, 0).at(0)[1]
    counts = torch.zeros(2)
    pairs = Pairs(config, halve, 0)
    for position in range(1000):
        hr = pairs.at(position)[1]
        counts += torch.tensor(
            [torch.equal(hr, plain.flip(2)) or torch.equal(hr, plain.flip(1, 2)),
             torch.equal(hr, plain.flip(1)) or torch.equal(hr, plain.flip(1, 2))]
        )  # fmt: skip
    assert counts[0] == pytest.approx(500, abs=60)
    assert counts[1] == pytest.approx(60, abs=30)


def test_small_pictures_are_reflected(tmp_path):
    pixels = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    hr = Source(DataConfig(str(tmp_path), holdout=0)).crop(0, 16, None)
    grown = np.pad(pixels, ((0, 11), (0, 10), (0, 0)), mode="reflect")
    assert torch.equal(hr, torch.from_numpy(grown).permute(2, 0, 1).float() / 255)


def test_a_deep_picture_is_not_cut_off(tmp_path):
    Image.fromarray(np.full((16, 16), 257 * 100, np.uint16)).save(tmp_path / "x.png")
    hr = Source(DataConfig(str(tmp_path), holdout=0)).crop(0, 16, None)
    assert torch.equal(hr, torch.full((3, 16, 16), 100 / 255))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_one_clear_line(tmp_path, workers):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    pairs = Pairs(DataConfig(str(tmp_path), crop=16, holdout=0, workers=workers), halve, 0)
    with pytest.raises(InputError, match=r"bad\.png") as caught:
        next(pairs.batches([[0]]))
    assert "\n" not in str(caught.value)


def test_wrong_folders_and_crops_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        Pairs(DataConfig(str(tmp_path / "none")), halve, 0)
    with pytest.raises(UsageError, match="no pictures"):
        Pairs(DataConfig(str(tmp_path)), halve, 0)
    with pytest.raises(UsageError, match="not a multiple"):
        Pairs(DataConfig(crop=18, scale=4), halve, 0)


def test_synthetic_pictures_follow_from_the_generator():
    first, again, other = (synthetic(32, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 32, 32)
    assert 0 <= first.min() <= first.max() <= 1
    assert first.std() > 0.05


def test_held_out_synthetic_pictures_are_others():
    config = DataConfig(pictures=20)
    train, held = Source(config), Source(config, held_out=True)
    assert (train.count, held.count) == (20, 1)
    assert not any(torch.equal(held.crop(0, 8, None), train.crop(i, 8, None)) for i in range(20))


def test_seeds_are_the_same_on_every_machine():
    assert keyed("pair", 0, 1) == 3795862674001954754
