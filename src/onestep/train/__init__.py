"""The training journey: a recipe becomes a release file, by one loop that knows no method.

Read ``step.py`` first: it turns the losses an objective yields into optimizer moves. ``loop.py`` repeats it,
``run_folder.py`` keeps what a run writes, ``check.py`` looks at held-out pictures, ``journey.py`` joins them.
"""

from onestep.train.journey import train
from onestep.train.loop import Progress, StoppedError, fit
from onestep.train.step import DivergedError, Ranks, train_step

__all__ = ["DivergedError", "Progress", "Ranks", "StoppedError", "fit", "train", "train_step"]
