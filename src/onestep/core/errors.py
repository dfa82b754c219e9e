"""The errors a user can cause.

::

    OneStepError          one line for a person: what, which file, what to do
    ├── UsageError        the request itself is wrong, nothing was started (exit code 2)
    └── InputError        one input failed, the others go on (exit code 1)
"""


class OneStepError(Exception):
    """A failure that is explained by its one-line message."""


class UsageError(OneStepError):
    """The request cannot be carried out as written: nothing was started."""


class InputError(OneStepError):
    """One input cannot be processed; the others are not affected."""
