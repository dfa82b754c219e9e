"""OFTSR: one-step flow for super-resolution with a tunable fidelity-realism trade-off (arXiv 2412.09465).

``model`` holds the velocity field, the multi-step teacher and the one-step student; ``objectives`` trains
them.
"""

from onestep.methods.oftsr.model import OftsrConfig, Student, StudentConfig, Teacher, TeacherConfig
from onestep.methods.oftsr.objectives import DistilConfig, Distillation, FlowConfig, FlowMatching

__all__ = [
    "DistilConfig",
    "Distillation",
    "FlowConfig",
    "FlowMatching",
    "OftsrConfig",
    "Student",
    "StudentConfig",
    "Teacher",
    "TeacherConfig",
]
