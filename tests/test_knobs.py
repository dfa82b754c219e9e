"""Options of a model as they are given in Python: made as they are meant, refused in one line."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from onestep.core.errors import UsageError
from onestep.knobs import options_of


@dataclass(frozen=True)
class Options:
    strength: float = 1.0
    prompt: str | Callable[[int], str] | None = None
    way: Literal["this", "that"] = "this"


def test_given_options_go_before_those_of_the_card():
    found = options_of(Options, {"strength": 0.5, "way": "that"}, {"strength": 2}, "m")
    assert found == Options(2.0, None, "that")
    assert options_of(Options, {}, {"strength": np.float64(0.25)}, "m").strength == 0.25


def test_functions_and_numbers_of_numpy_are_taken_as_they_are():
    found = options_of(Options, {}, {"prompt": str, "strength": np.float32(0.5)}, "m")
    assert found.prompt is str
    assert found.strength == 0.5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"strength": "1"}, 'option strength="1": '),
        ({"prompt": 3}, "option prompt=3: "),
        ({"way": "other"}, "option way="),
        ({"wya": "this"}, "the model m has no option 'wya'; it has strength, prompt, way"),
    ],
)
def test_values_of_another_kind_are_refused_in_one_line(given, says):
    with pytest.raises(UsageError) as caught:
        options_of(Options, {}, given, "m")
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
