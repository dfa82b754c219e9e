import json
import sys
from dataclasses import fields, replace

import pytest
import torch

from onestep.core.config import override, schema, to_dict
from onestep.core.errors import UsageError
from onestep.degrade.presets import preset
from onestep.methods import METHODS
from onestep.recipe import ObjectiveConfig, Recipe, without_folders
from onestep.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_what_exists(name):
    made = recipe(name)
    assert made.name == name
    assert made.method in METHODS
    assert isinstance(made.objective, ObjectiveConfig)
    assert made.data.crop % made.data.scale == 0
    assert made.train.batch % (made.train.micro or 1) == 0
    lr = preset(made.degradation, made.data.scale)(torch.rand(3, 64, 64), torch.Generator().manual_seed(0))
    assert lr.shape == (3, 64 // made.data.scale, 64 // made.data.scale)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_json_of_a_run_is_the_recipe(name, tmp_path):
    changed = override(recipe(name), ["train.steps=123", "data.vertical=0.25"])
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(to_dict(changed)))
    assert recipe(str(file)) == changed


def test_a_recipe_of_ones_own_needs_no_change_here(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, replace\n"
        "from onestep.recipes import recipe\n"
        "@dataclass(frozen=True)\nclass Mine:\n    width: int = 4\n"
        f"def mine():\n    return replace(recipe({next(iter(RECIPES))!r}), name='mine')\n"
        "def wrong():\n    return 1\n"
    )
    made = recipe(f"{file}:mine")
    assert isinstance(made, Recipe)
    assert made == replace(recipe(next(iter(RECIPES))), name="mine")
    assert override(sys.modules["onestep_recipe_mine"].Mine(), ["width=5"]).width == 5
    for name, said in {
        f"{file}:wrong": "returned int, not a onestep.recipe.Recipe",
        f"{file}:absent": "has no function absent",
        f"{tmp_path / 'none.py'}:mine": "no such file",
    }.items():
        with pytest.raises(UsageError, match=said):
            recipe(name)


def test_every_recipe_has_a_schema():
    for name in RECIPES:
        described = schema(recipe(name))
        assert set(described["properties"]) == {field.name for field in fields(Recipe)}
        assert "steps" in described["$defs"]["TrainConfig"]["properties"]


def test_what_is_no_recipe_is_explained(tmp_path):
    first = next(iter(RECIPES))
    with pytest.raises(UsageError, match=f"did you mean {first}"):
        recipe(first[:-1])
    with pytest.raises(UsageError, match=r"no such recipe; there are .*FILE\.py:function"):
        recipe("qqqq")
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "other.json").write_text('{"name": "mine"}')
    with pytest.raises(UsageError, match=r"torn\.json: not the recipe\.json of a run"):
        recipe(str(tmp_path / "torn.json"))
    with pytest.raises(UsageError, match="mine, which is not built in"):
        recipe(str(tmp_path / "other.json"))


def test_a_card_shows_no_folders_of_its_maker():
    private = {
        "data": {"folder": "private/of/mine/pictures"},
        "objective": {"teacher": "C:\\runs\\t.safetensors"},
    }
    public = {"data": {"folder": "pictures"}, "objective": {"teacher": "t.safetensors"}}
    assert without_folders({**private, "card": "a/b"}) == {**public, "card": "a/b"}
