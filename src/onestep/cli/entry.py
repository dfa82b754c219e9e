"""Where the command starts: the table of verbs, and how failures become one line and an exit code."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Any, NoReturn

import typer

from onestep import __version__
from onestep.cli.bench import bench
from onestep.cli.convert import convert
from onestep.cli.degrade import degrade
from onestep.cli.doctor import doctor
from onestep.cli.evaluate import evaluate
from onestep.cli.models import models
from onestep.cli.screen import INTERRUPTED, complain
from onestep.cli.train import train
from onestep.cli.upscale import upscale
from onestep.core.errors import OneStepError, UsageError

_COMMANDS = (upscale, models, train, degrade, convert, evaluate, bench, doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onestep {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """One-step super-resolution: upscale, score and train.

    Exit codes: 0 done; 1 some inputs failed; 2 wrong usage, nothing started; 130 interrupted, results kept.
    """


def _table() -> typer.Typer:
    table = typer.Typer(
        name="onestep",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    table.callback()(_top)
    for command in _COMMANDS:
        table.command()(command)
    return table


app = _table()

ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Set for the command where the user has not: bars and remarks of libraries are not part of what it says; and
torch asks Linux for large pages of memory, so that fresh tensors cost a fraction of the time."""


def run(words: Sequence[str]) -> int:
    """Carry out a command line (without the program's name); returns its exit code.

    What a user can cause ends as one line on stderr, with ``--debug`` below its traceback; the exception is
    raised for defects of the program itself.
    """
    try:
        with typer.main.get_command(app).make_context("onestep", list(words), obj=tuple(words)) as context:
            context.command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted; what was finished is kept")
        return INTERRUPTED
    except OneStepError as error:
        if "--debug" in words:
            traceback.print_exception(error)
        complain(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except _bad_words() as error:
        complain(f"{_message(error)}; see onestep {_verb(words)}--help")
        return 2
    return 0


def main() -> NoReturn:
    """The ``onestep`` command."""
    words = sys.argv[1:]
    if "--debug" not in words:
        sys.excepthook = _in_one_line
        warnings.simplefilter("ignore")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = run(words)
    except BrokenPipeError:  # whoever read our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _in_one_line(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    text = str(error).strip()
    what = f"{kind.__name__}: {text}" if text else kind.__name__
    complain(f"unexpected {what}; this is a defect: please report it with what --debug shows")


def _bad_words() -> type[Exception]:
    """What typer raises for words that it cannot parse (its library of commands has no public name)."""
    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _message(error: Any) -> str:
    return str(error.format_message()).rstrip(".") or "nothing to do"


def _verb(words: Sequence[str]) -> str:
    names = [command.__name__ for command in _COMMANDS]
    return next((f"{word} " for word in words if word in names), "")
