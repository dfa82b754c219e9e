from collections import Counter
from dataclasses import dataclass
from itertools import permutations

import pytest
import torch

from onestep.core.errors import UsageError
from onestep.degrade.chain import Chain, Choice, Maybe, Shuffle, pick, uniform


@dataclass(frozen=True)
class Append:
    """Write a digit behind the number that the picture is."""

    digit: int

    def __call__(self, image, generator):
        return image * 10 + self.digit


@dataclass(frozen=True)
class Entrance:
    """Return the size it is told."""

    def __call__(self, image, generator):
        raise AssertionError("a chain must hand down the entrance size")

    def within(self, image, generator, size):
        return torch.tensor(size)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


def run(step, generator, times=1):
    return [int(step(torch.zeros(1, 1, 1), generator)) for _ in range(times)]


def test_chain_runs_in_order(generator):
    assert run(Chain(Append(1), Append(2), Chain(Append(3))), generator) == [123]


def test_choice_follows_its_weights(generator):
    counts = Counter(run(Choice({Append(1): 3, Append(2): 1}), generator, 2000))
    assert set(counts) == {1, 2}
    assert counts[1] / 2000 == pytest.approx(0.75, abs=0.04)


def test_choice_refuses_nothing_and_weights_that_are_not_positive():
    with pytest.raises(UsageError):
        Choice({})
    with pytest.raises(UsageError):
        Choice({Append(1): 0.0})


def test_maybe_follows_its_probability(generator):
    counts = Counter(run(Maybe(0.2, Append(7)), generator, 2000))
    assert set(counts) == {0, 7}
    assert counts[7] / 2000 == pytest.approx(0.2, abs=0.04)
    assert run(Maybe(0.0, Append(7)), generator, 50) == [0] * 50
    assert run(Maybe(1.0, Append(7)), generator, 50) == [7] * 50


def test_shuffle_takes_every_order_equally_often(generator):
    counts = Counter(run(Shuffle(Append(1), Append(2), Append(3)), generator, 3000))
    assert set(counts) == {a * 100 + b * 10 + c for a, b, c in permutations((1, 2, 3))}
    assert min(counts.values()) > 3000 / 6 * 0.8


def test_the_entrance_size_reaches_the_depths(generator):
    def shrink(image, generator):
        return image[..., :2, :2]

    step = Chain(shrink, Maybe(1.0, Choice({Shuffle(Chain(Entrance())): 1})))
    assert step(torch.zeros(3, 20, 30), generator).tolist() == [20, 30]


def test_compositions_compare_by_value_and_print_their_recipe():
    step = Chain(Choice({Append(1): 0.25, Append(2): 0.75}), Maybe(0.5, Shuffle(Append(3), Append(4))))
    again = Chain(Choice({Append(1): 0.25, Append(2): 0.75}), Maybe(0.5, Shuffle(Append(3), Append(4))))
    assert step == again
    assert hash(step) == hash(again)
    assert step != Chain(Choice({Append(1): 0.5, Append(2): 0.5}), Maybe(0.5, Shuffle(Append(3), Append(4))))
    long = Chain(*[step] * 4)
    assert eval(repr(long)) == long
    assert repr(Chain(Append(1))) == "Chain(Append(digit=1))"


def test_compositions_are_frozen():
    with pytest.raises(AttributeError):
        Chain(Append(1)).steps = ()


def test_draws_stay_in_range_and_never_pick_weight_zero(generator):
    values = [uniform(generator, -2.0, 5.0) for _ in range(500)]
    assert min(values) < -1.8
    assert max(values) > 4.8
    assert all(-2 <= value < 5 for value in values)
    assert {pick(generator, (0.0, 1.0, 0.0)) for _ in range(200)} == {1}
