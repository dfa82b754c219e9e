"""CTMSR: consistency trajectory matching for one-step generative super-resolution (arXiv 2503.20349).

``model`` holds the consistency function; ``objectives`` trains it, without any teacher.
"""

from onestep.methods.ctmsr.model import Ctmsr, CtmsrConfig
from onestep.methods.ctmsr.objectives import ConsistencyConfig, ConsistencyTrajectory

__all__ = ["ConsistencyConfig", "ConsistencyTrajectory", "Ctmsr", "CtmsrConfig"]
