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
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from onestep.core.errors import UsageError

T = TypeVar("T")


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


def _plain(kind: Any, value: Any) -> bool:
    """Whether a value already is exactly what a plain type asks for."""
    if kind in (int, float, str, bool):
        return type(value) is kind
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    return False


def _checked(kind: Any, value: Any, where: str) -> Any:
    """The value as the type wants it, from JSON."""
    if _plain(kind, value):
        return value
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_dict(kind, cast("Mapping[str, Any]", value), f"{where}.")
    if get_origin(kind) is tuple and isinstance(value, list):
        items = get_args(kind)
        kinds = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
        if len(kinds) == len(value):
            return tuple(
                _checked(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
            )
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
    try:
        return kind(**{name: _checked(types[name], value, where + name) for name, value in values.items()})
    except TypeError as error:
        raise UsageError(f"{where.rstrip('.') or kind.__name__}: {error}") from error


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
    return dataclasses.replace(cast("Any", config), **changes)


def _merged(current: Any, kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(current) and isinstance(value, Mapping):
        return updated(current, cast("Mapping[str, Any]", value), f"{where}.")
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
        known = cast("Mapping[str, Any]", config)
        if name not in known:
            raise _unknown(name, known, where)
        value = (
            _override(known[name], rest, text, f"{where}{name}.")
            if rest
            else _parsed(Any, text, where + name)
        )
        return {**known, name: value}
    types: dict[str, Any] = _field_types(type(config)) if dataclasses.is_dataclass(config) else {}
    if name not in types:
        raise _unknown(name, types, where)
    current = getattr(config, name)
    if rest:
        return dataclasses.replace(config, **{name: _override(current, rest, text, f"{where}{name}.")})
    if dataclasses.is_dataclass(current):
        raise UsageError(f"{where}{name}: a group of settings; write one of them as {where}{name}.NAME=value")
    return dataclasses.replace(config, **{name: _parsed(types[name], text, where + name)})


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


def schema(kind: type) -> dict[str, Any]:
    """JSON schema of a dataclass, for editors and documentation (needs pydantic)."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind).json_schema()
