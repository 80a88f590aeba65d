"""The protocols that families implement; `core` and `engine` know families only through them."""

from piflow_cli.core.interfaces.policies import MakePolicy, PatchLayout, Policy, PolicyFamily, PolicyHead
from piflow_cli.core.interfaces.teachers import Backbone, Condition, Space, Teacher, TeacherFamily, TeacherVelocity
from piflow_cli.core.interfaces.training import DataFamily, DataSource, Draw, Objective, Reader, TrainingBatch

__all__ = [
    "Backbone",
    "Condition",
    "DataFamily",
    "DataSource",
    "Draw",
    "MakePolicy",
    "Objective",
    "PatchLayout",
    "Policy",
    "PolicyFamily",
    "PolicyHead",
    "Reader",
    "Space",
    "Teacher",
    "TeacherFamily",
    "TeacherVelocity",
    "TrainingBatch",
]
