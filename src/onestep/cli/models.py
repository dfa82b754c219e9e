"""``onestep models``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from onestep.cli import options as o
from onestep.cli.screen import Screen, megabytes
from onestep.core.errors import UsageError

if TYPE_CHECKING:
    from onestep.catalog import Entry


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|FILE]", help="Show this one's card.")] = None,
    pull: Annotated[
        str | None, typer.Option("--pull", metavar="NAME", help="Fetch weights into ONESTEP_HOME.")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """List the models, or show the card of one: method, size, licence, hash, scores, known limits."""
    del debug
    screen = Screen(as_json, quiet, verbose)
    if pull is not None:
        if name is not None:
            raise UsageError("give either a NAME to show or --pull NAME, not both")
        _pull(pull, screen)
        return
    from onestep import catalog

    if name is not None:
        _show(catalog.find(name), screen)
        return
    entries = catalog.models()
    for entry in entries:
        screen.record(_card(entry, verbose))
    rows = [
        (e.name, e.card.method, f"x{e.card.traits.get('scale', '?')}", _size(e), e.card.license, e.where)
        for e in entries
    ]
    screen.table("", ("name", "method", "scale", "size", "licence", "where"), rows)
    screen.say(f"used when none is named: {catalog.default()}")


def _pull(name: str, screen: Screen) -> None:
    from onestep import catalog, hub

    if name not in hub.FILES and name in {entry.name for entry in catalog.models()}:
        screen.say(f"{name} is here already")
        screen.record({"name": name, "path": None})
        return
    with screen.progress(f"fetch {name}") as report:
        path = hub.fetch(name, lambda done, size: report(done / size, megabytes(size)))
    weights = hub.FILES[name]
    screen.say(f"{path}  (licence: {weights.license})")
    screen.record({"name": name, "path": str(path), "license": weights.license})


def _size(entry: "Entry") -> str:
    return "–" if entry.path is None else f"{entry.path.stat().st_size / 1e6:.1f} MB"


def _card(entry: "Entry", hashed: bool) -> dict[str, Any]:
    """What is known of a model, for programs."""
    from onestep import hub
    from onestep.core.config import to_dict

    size = entry.path.stat().st_size if entry.path else 0
    found = {
        "name": entry.name,
        "where": entry.where,
        "path": str(entry.path) if entry.path else None,
        "size": size,
        "sha256": hub.sha256(entry.path) if entry.path and hashed else None,
    }
    return {**to_dict(entry.card), **found}


def _show(entry: "Entry", screen: Screen) -> None:
    card = _card(entry, True)
    screen.record(card)
    traits, lines = card["traits"], [("name", card["name"]), ("method", card["method"])]
    lines += [
        ("scale", f"x{traits.get('scale', '?')}"),
        ("size", _size(entry)),
        ("licence", card["license"]),
        ("where", card["path"] or card["where"]),
        ("sha256", card["sha256"] or "–"),
        ("trained", f"{card['step']} steps" if card["step"] else "–"),
        ("made by", f"onestep {card['version']}"),
    ]
    lines += [(f"default {name}", str(value)) for name, value in card["defaults"].items()]
    lines += [("scores", line) for line in _scores(card["scores"])]
    lines += [("limit", text) for text in card["limits"]]
    lines += [("attribution", text) for text in card["attributions"]]
    for label, text in lines:
        screen.say(f"{label:<18} {text}")


def _scores(scores: Any, before: str = "") -> list[str]:
    """Nested scores, one line for the numbers of one group."""
    numbers = [f"{key} {value}" for key, value in scores.items() if not isinstance(value, dict)]
    lines = [f"{before}: {', '.join(numbers)}".removeprefix(": ")] if numbers else []
    for key, value in scores.items():
        lines += _scores(value, f"{before} {key}".strip()) if isinstance(value, dict) else []
    return lines
