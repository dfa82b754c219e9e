"""Training recipes by name: each is a function that returns a complete :class:`onestep.recipe.Recipe`.

One file per method holds its functions; this one finds them.
"""

import difflib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from onestep.core.config import updated
from onestep.core.errors import OneStepError, UsageError
from onestep.recipe import Recipe
from onestep.recipes import ctmsr, degradation, oftsr, osediff, prior, s3diff

RECIPES: Mapping[str, Callable[[], Recipe]] = {
    **oftsr.RECIPES,
    **ctmsr.RECIPES,
    **degradation.RECIPES,
    **osediff.RECIPES,
    **prior.RECIPES,
    **s3diff.RECIPES,
}


def recipe(name: str) -> Recipe:
    """Find a recipe.

    Args:
        name: A name of :data:`RECIPES`, ``FILE.py:function``, or the recipe.json of a run (whose values are
            laid over the recipe of that name).

    Raises:
        UsageError: No such recipe, file or function.
    """
    if name in RECIPES:
        return RECIPES[name]()
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_file(Path(file), function)
    if name.endswith(".json"):
        return _from_json(Path(name))
    close = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(RECIPES)}, or FILE.py:function"
    raise UsageError(f"{name}: no such recipe; {hint}")


def _from_file(file: Path, function: str) -> Recipe:
    """Call a function of a Python file that the user named."""
    spec = (
        importlib.util.spec_from_file_location(f"onestep_recipe_{file.stem}", file)
        if file.is_file()
        else None
    )
    if spec is None or spec.loader is None:
        raise UsageError(f"{file}: no such file; a recipe of your own is FILE.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the types of their fields
    try:
        spec.loader.exec_module(module)
        make = getattr(module, function, None)
        if not callable(make):
            raise UsageError(f"{file}: has no function {function}; a recipe of your own is FILE.py:function")
        made = make()
    except OneStepError:
        raise
    except Exception as error:
        raise UsageError(f"{file}:{function}: {type(error).__name__}: {error}") from error
    if not isinstance(made, Recipe):
        raise UsageError(f"{file}:{function}: returned {type(made).__name__}, not a onestep.recipe.Recipe")
    return made


def _from_json(file: Path) -> Recipe:
    """Read the recipe.json of a run."""
    try:
        values = json.loads(file.read_text("utf-8"))
        name = str(values["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not the recipe.json of a run ({error})") from error
    if name not in RECIPES:
        raise UsageError(
            f"{file}: made from recipe {name}, which is not built in; name its FILE.py:function instead"
        )
    return updated(RECIPES[name](), values)
