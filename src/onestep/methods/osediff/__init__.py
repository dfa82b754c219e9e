"""OSEDiff: a text-to-image prior restores in one step (arXiv 2406.08177).

``model`` is the generator; ``objectives`` trains it; ``prompts`` says where its text comes from.
"""

from onestep.methods.osediff.model import Osediff, OsediffConfig
from onestep.methods.osediff.objectives import OsediffTraining, ScoreDistillation

__all__ = ["Osediff", "OsediffConfig", "OsediffTraining", "ScoreDistillation"]
