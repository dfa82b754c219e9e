"""The command itself: the options of all commands, help, interrupts, and what is said where."""

import os
import signal
import subprocess
import sys

import pytest
import typer

import onestep
from command_line import last_line
from onestep.cli import app, run
from onestep.cli.screen import Screen

SAY = {"--json", "--quiet", "-q", "--verbose", "-v", "--debug"}
FILES = {"--output", "-o"}
MODEL = {"--model", "-n", "--realism", "-r", "--option", "-O", "--device", "-g", "--dtype", "--seed"}
OPTIONS = {
    "upscale": SAY
    | FILES
    | MODEL
    | {"--scale", "-s", "--width", "--height", "--tile", "-t", "--overlap", "--color", "--ext", "--suffix"}
    | {"--quality", "--strip-metadata", "--resume", "--overwrite", "--skip-existing", "--max-pixels"}
    | {"--dry-run", "--stream", "--engine", "--address", "--cores", "--consistent", "--downscale"}
    | {"--realism-map"},
    "models": SAY | {"--pull"},
    "train": SAY | {"--set", "--run", "--init", "--max-minutes", "--device", "-g", "--list", "--dry-run"},
    "degrade": SAY
    | FILES
    | {"--preset", "--scale", "-s", "--seed", "--ext", "--suffix", "--quality", "--max-pixels"}
    | {"--estimate", "--model", "-n"},
    "convert": SAY | FILES | {"--method", "--option", "-O"},
    "evaluate": SAY
    | FILES
    | MODEL
    | {"--sr", "--hr", "--lr", "--preset", "--metrics", "--protocol", "--scale", "-s", "--sweep", "--compare"}
    | {"--workers", "--tile", "-t", "--overlap", "--name", "--also", "--against", "--dataset", "--no-images"},
    "bench": SAY | FILES | {"--model", "-n", "--repeats", "--rivals"},
    "doctor": SAY,
}
"""Growth is a decision: a new option is written into the interface's contract first, then here."""


pytestmark = pytest.mark.usefixtures("workplace")


def test_the_options_of_every_command_are_those_agreed_on():
    commands = typer.main.get_command(app).commands
    found = {
        name: {word for one in command.params if one.name != "help" for word in one.opts if word[0] == "-"}
        for name, command in commands.items()
    }
    assert found == OPTIONS


def test_help_does_not_import_torch():
    code = (
        "import sys; from onestep.cli import run; assert run(['--help']) == 0;"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL', 'pydantic', 'safetensors'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_every_command_has_help(command, capsys):
    assert run([command, "--help"]) == 0
    assert command in capsys.readouterr().out


def test_version_and_nothing(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"onestep {onestep.__version__}\n"
    assert run([]) == 2


def test_an_interrupt_anywhere_ends_with_130(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onestep.catalog.models", stop)
    assert run(["models"]) == 130
    assert "interrupted" in last_line(capsys)


def test_termination_from_outside_is_an_interrupt(monkeypatch, capsys):
    from onestep.cli import main

    def kill(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("onestep.catalog.models", kill)
    monkeypatch.setattr(sys, "argv", ["onestep", "models", "--debug"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 130


# What is said


def test_a_screen_speaks_to_people_on_stderr_and_to_programs_on_stdout(capsys):
    for screen in (Screen(), Screen(quiet=True), Screen(json=True, verbose=True)):
        screen.say("line [not markup]")
        screen.detail("more")
        screen.record({"a": 1})
        with screen.progress("work") as report:
            report(0.5, "half")
    captured = capsys.readouterr()
    assert captured.out == '{"a": 1}\n'
    assert captured.err.count("line [not markup]") == 2
    assert captured.err.count("more") == 1
