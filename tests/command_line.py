"""``onestep`` as a user types it, and what it says."""

import json
import re

from onestep.cli import run


def upscale(*words, model="tiny"):
    """The exit code of ``onestep upscale`` with a model."""
    return run(["upscale", *map(str, words), "-n", str(model), "-g", "cpu", "--dtype", "float32"])


def records(capsys):
    """The lines of JSON on the standard output."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def last_line(capsys):
    """The last thing said to a person."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def one_line(capsys):
    """The only thing said, which is one line for a person."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"onestep: [^\n]+\n", captured.err), captured.err
    assert "Traceback" not in captured.err
    return captured.err
