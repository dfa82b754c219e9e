"""Configuration: frozen dataclasses in code, JSON on disk, ``a.b=value`` on the command line.

Text is checked strictly: unknown names are errors with a suggestion, values must have the declared type.
Plain fields (numbers, words, choices, tuples of them) are checked here; any other type is handed to pydantic,
which is imported only then, so that a built-in recipe trains without it.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from onestep.core.errors import UsageError

T = TypeVar("T")


def at_least(config: object, names: Iterable[str], least: int = 1, prefix: str = "") -> None:
    """Refuse fields that are below a bound.

    Raises:
        UsageError: One line that names the first such field, behind ``prefix``.
    """
    for name in names:
        if getattr(config, name) < least:
            raise UsageError(f"{prefix}{name}={getattr(config, name)}: must be at least {least}")


def to_dict(config: Any) -> Any:
    """A JSON-able copy: dataclasses and mappings become dictionaries, tuples lists, paths text."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def _unknown(name: str, known: Iterable[str], where: str) -> UsageError:
    names = list(known)
    close = difflib.get_close_matches(name.rpartition(".")[2], names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names) or 'none'}"
    return UsageError(f"{where}{name}: no such setting; {hint}")


def _field_types(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _fits(kind: Any, value: Any) -> bool:
    """Whether a JSON value already is exactly what a plain type asks for."""
    if kind in (int, float, str, bool, type(None)):
        return type(value) is kind or (kind is float and type(value) is int)
    if get_origin(kind) is Literal:
        return any(type(choice) is type(value) and choice == value for choice in get_args(kind))
    return False


def _member(kind: Any, value: Any) -> Any:
    """The member of a union that a JSON value is meant for: the dataclass that shares most of its names."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    members = get_args(kind)
    if isinstance(value, Mapping):
        classes = [one for one in members if isinstance(one, type) and dataclasses.is_dataclass(one)]
        names = set(cast("Mapping[str, Any]", value))
        return max(classes, key=lambda one: len(names & _field_types(one).keys()), default=kind)
    return next((member for member in members if _fits(member, value)), kind)


def _checked(kind: Any, value: Any, where: str) -> Any:
    """The value as the type wants it, from JSON."""
    kind = _member(kind, value)
    if kind is Any:
        return value
    if _fits(kind, value):
        return float(value) if kind is float else value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_dict(kind, cast("Mapping[str, Any]", value), f"{where}.")
    if get_origin(kind) is tuple and isinstance(value, list):
        items, values = get_args(kind), cast("list[Any]", value)
        kinds = [items[0]] * len(values) if items[-1] is Ellipsis else list(items)
        if len(kinds) == len(values):
            pairs = enumerate(zip(kinds, values, strict=True))
            return tuple(_checked(one, item, f"{where}[{i}]") for i, (one, item) in pairs)
    return _by_pydantic(kind, json.dumps(value), where, text=False)


def _by_pydantic(kind: Any, value: str, where: str, *, text: bool) -> Any:
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError as error:
        raise UsageError(f"{where}: checking this setting needs pydantic; pip install pydantic") from error
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_strings(value) if text else adapter.validate_json(value, strict=True)
    except ValidationError as error:
        raise UsageError(f"{where}={value}: {error.errors()[0]['msg']}") from error


def from_dict(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from JSON values, strictly.

    Args:
        kind: The dataclass.
        values: What ``json.load`` returned; missing fields keep their defaults.
        where: Prefix for messages, such as ``"card.config."``.

    Raises:
        UsageError: An unknown name, a value of another type, or a missing field.
    """
    types = _field_types(kind)
    for name in values:
        if name not in types:
            raise _unknown(name, types, where)
    fields = {field.name: field for field in dataclasses.fields(cast("Any", kind))}
    absent = dataclasses.MISSING
    for name in types:
        if name not in values and fields[name].default is absent and fields[name].default_factory is absent:
            raise UsageError(f"{where}{name}: missing from the settings of {kind.__name__}")
    return kind(**{name: _checked(types[name], value, where + name) for name, value in values.items()})


def updated(config: T, values: Mapping[str, Any], where: str = "") -> T:
    """Replace fields of a configuration by JSON values; nested ones keep the classes they have.

    Raises:
        UsageError: As :func:`from_dict`.
    """
    types = _field_types(type(config))
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            raise _unknown(name, types, where)
        changes[name] = _merged(getattr(config, name), types[name], value, where + name)
    return _replaced(config, changes)


def _merged(current: Any, kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(current) and isinstance(value, Mapping):
        values, member = cast("Mapping[str, Any]", value), _member(kind, value)
        other = (
            isinstance(member, type) and dataclasses.is_dataclass(member) and not isinstance(current, member)
        )
        return from_dict(member, values, f"{where}.") if other else updated(current, values, f"{where}.")
    if isinstance(current, Mapping) and isinstance(value, Mapping):
        item = get_args(kind)[1] if get_args(kind) else Any
        known = cast("Mapping[str, Any]", current)
        return {
            k: _merged(known.get(k), item, v, f"{where}.{k}")
            for k, v in cast("Mapping[str, Any]", value).items()
        }
    return _checked(kind, value, where)


def override(config: T, settings: Sequence[str]) -> T:
    """Apply ``a.b=value`` settings, each parsed by the type of its field.

    Lists are written as JSON (``[1,2]``); ``none`` is None where the field allows it.

    Raises:
        UsageError: No ``=``, an unknown name (with a suggestion), or a value of another type.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write it as name=value")
        config = _override(config, path.strip().split("."), text.strip(), "")
    return config


def _override(config: Any, path: list[str], text: str, where: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(config, Mapping):
        held: Mapping[str, Any] = config
        types: Mapping[str, Any] = dict.fromkeys(held, Any)
    else:
        types = _field_types(type(config)) if dataclasses.is_dataclass(config) else {}
        held = {known: getattr(config, known) for known in types}
    if name not in held:
        raise _unknown(name, held, where)
    if rest:
        value = _override(held[name], rest, text, f"{where}{name}.")
    elif dataclasses.is_dataclass(held[name]) or (isinstance(held[name], Mapping) and text[:1] != "{"):
        raise UsageError(f"{where}{name}: a group of settings; set one of them, as {where}{name}.NAME=value")
    else:
        value = _parsed(types[name], text, where + name)
    return {**held, name: value} if isinstance(config, Mapping) else _replaced(config, {name: value})


def _replaced(config: T, changes: Mapping[str, Any]) -> T:
    return dataclasses.replace(cast("Any", config), **changes)


def _parsed(kind: Any, text: str, where: str) -> Any:
    """The value a piece of text stands for, by the declared type."""
    if kind is str:
        return text
    if text.lower() in ("none", "null") and type(None) in get_args(kind):
        return None
    if kind is Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    if text[:1] in ("[", "{"):
        return _by_pydantic(kind, text, where, text=False)
    return _by_pydantic(kind, text, where, text=True)


def schema(config: Any) -> dict[str, Any]:
    """JSON schema of a dataclass, for editors and documentation (needs pydantic).

    Args:
        config: A class, or an instance: then fields that hold a dataclass are described as what they hold.
    """
    from pydantic import TypeAdapter

    kind: type = config if isinstance(config, type) else type(config)
    kinds = _field_types(kind)
    if config is not kind:
        held = {name: getattr(config, name) for name in kinds}
        kinds |= {name: type(value) for name, value in held.items() if dataclasses.is_dataclass(value)}
    described, shared = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(one)) for name, one in kinds.items()]
    )
    properties = {name: described[name, "validation"] for name in kinds}
    return {
        "type": "object",
        "title": kind.__name__,
        "additionalProperties": False,
        "properties": properties,
    } | shared
