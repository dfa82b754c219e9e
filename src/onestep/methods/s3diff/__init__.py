"""S3Diff: degradation-guided adapters on a text-to-image prior, one step (arXiv 2409.17058).

``model`` holds the generator; ``objectives`` trains it.
"""

from onestep.methods.s3diff.model import NEGATIVE, POSITIVE, S3diff, S3diffConfig
from onestep.methods.s3diff.objectives import DegradationGuided, S3diffTraining
from onestep.methods.s3diff.options import S3diffOptions

__all__ = [
    "NEGATIVE",
    "POSITIVE",
    "DegradationGuided",
    "S3diff",
    "S3diffConfig",
    "S3diffOptions",
    "S3diffTraining",
]
