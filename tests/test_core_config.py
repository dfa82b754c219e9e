import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from onestep.core.config import from_dict, override, schema, to_dict, updated
from onestep.core.errors import UsageError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["adam", "adamw"] = "adam"
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Other:
    depth: int = 3


@dataclass(frozen=True)
class Outer:
    steps: int
    name: str = "x"
    half: bool = True
    micro: int | None = None
    inner: Inner = Inner()
    either: Inner | Other = field(default_factory=Other)
    groups: Mapping[str, Inner] = field(default_factory=lambda: {"model": Inner()})
    extra: Mapping[str, Any] = field(default_factory=dict)


def test_json_there_and_back():
    config = Outer(3, "y", inner=Inner(0.25, "adamw", (4, 5, 6)), either=Inner(rate=2.0), micro=2)
    values = to_dict(config)
    assert values["inner"]["sides"] == [4, 5, 6]
    values.pop("groups")
    assert from_dict(Outer, values) == config
    assert updated(Outer(1), to_dict(config)) == config


def test_a_union_takes_the_class_whose_names_it_has():
    assert from_dict(Outer, {"steps": 1, "either": {"depth": 7}}).either == Other(7)
    assert from_dict(Outer, {"steps": 1, "either": {"sides": [7]}}).either == Inner(sides=(7,))


def test_override_parses_by_the_type_of_the_field():
    settings = [
        "steps=7", "name=12", "half=false", "micro=4", "inner.rate=1", "inner.sides=[3]", "inner.kind=adamw",
        "groups.model.rate=2e-4",
    ]  # fmt: skip
    config = override(Outer(1), settings)
    assert config == Outer(7, "12", False, 4, Inner(1.0, "adamw", (3,)), groups={"model": Inner(rate=2e-4)})
    assert type(config.inner.rate) is float
    assert override(config, ["micro=none"]).micro is None
    assert override(config, ['extra={"a": [1]}']).extra == {"a": [1]}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stpes=2", "stpes: no such setting; did you mean steps?"),
        ("inner.rat=2", "inner.rat: no such setting; did you mean rate?"),
        ("groups.modle.rate=2", "groups.modle: no such setting; did you mean model?"),
        ("steps.more=2", "steps.more: no such setting"),
        ("steps=many", "steps=many: "),
        ("steps=1.5", "steps=1.5: "),
        ("inner.kind=sgd", "inner.kind=sgd: "),
        ("inner=2", "a group of settings"),
        ("steps", "write it as name=value"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(setting, said):
    with pytest.raises(UsageError) as caught:
        override(Outer(1), [setting])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": 1, "nmae": "a"}, "nmae: no such setting; did you mean name?"),
        ({"steps": 1, "inner": {"rat": 1}}, "inner.rat: no such setting; did you mean rate?"),
        ({"steps": "1"}, "steps="),
        ({"steps": True}, "steps="),
        ({"steps": 1, "inner": {"sides": ["a"]}}, "inner.sides[0]="),
        ({"name": "a"}, "steps"),
    ],
)
def test_json_is_checked_strictly(values, said):
    with pytest.raises(UsageError, match="^" + said.replace("[", r"\[").split(";")[0].split(":")[0]):
        from_dict(Outer, values)


def test_the_schema_names_every_field():
    properties = schema(Outer)["properties"]
    assert set(properties) == {"steps", "name", "half", "micro", "inner", "either", "groups", "extra"}
    described = schema(Outer(1, either=Inner()))
    assert described["properties"]["either"] == {"$ref": "#/$defs/Inner"}
    assert set(described["$defs"]["Inner"]["properties"]) == {"rate", "kind", "sides"}


def test_plain_configurations_need_no_pydantic(tmp_path: Path):
    code = """
import sys
sys.modules["pydantic"] = None
from onestep.recipes import RECIPES
from onestep.core.config import to_dict, updated
for make in RECIPES.values():
    assert updated(make(), to_dict(make())) == make()
import onestep.train
from onestep.methods import METHODS
from onestep.core.config import from_dict
for kind in METHODS.values():
    assert from_dict(kind, to_dict(kind())) == kind()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
