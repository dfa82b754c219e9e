"""The command line: every verb parses what was typed, calls one journey, and says what came of it.

Torch is imported inside the commands, so that ``--help`` answers at once.
"""

from onestep.cli.entry import app, main, run

__all__ = ["app", "main", "run"]
