"""``onestep convert``."""

from pathlib import Path
from typing import Annotated

import typer

from onestep.cli import options as o
from onestep.cli.inputs import make_room
from onestep.cli.screen import Screen
from onestep.core.errors import UsageError


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The checkpoint that the authors published.")],
    method: Annotated[
        str,
        typer.Option("--method", metavar="M", help="Whose it is: oftsr, ctmsr, osediff, s3diff, de_net."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.safetensors", help="The release file.")
    ],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="What the file does not tell; repeatable."),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Turn an official checkpoint into a release file."""
    del debug
    screen = Screen(as_json, quiet, verbose)
    facts: dict[str, str] = {}
    for text in option or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text}: write it as NAME=VALUE")
        facts[name] = value
    make_room(output.parent)
    from onestep.convert import convert_file
    from onestep.core.config import to_dict

    with screen.warnings():
        card = convert_file(file, method, output, facts)
    screen.say(f"{file} -> {output}  {card.method}, licence: {card.license}")
    screen.record({"input": str(file), "output": str(output), "card": to_dict(card)})
