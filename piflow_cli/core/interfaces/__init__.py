"""The protocols that families implement; `core` and `engine` know families only through them."""

from piflow_cli.core.interfaces.checking import BaseStep, BaseWalk
from piflow_cli.core.interfaces.planning import Advice, CacheCase, Conditioning, MemoryCase, Part, PromptFacts, Strategy
from piflow_cli.core.interfaces.policies import MakePolicy, PatchLayout, Policy, PolicyFamily, PolicyHead
from piflow_cli.core.interfaces.spaces import Condition, PromptSpace, Space
from piflow_cli.core.interfaces.teachers import Backbone, Teacher, TeacherFamily, TeacherVelocity
from piflow_cli.core.interfaces.training import DataFamily, DataSource, Draw, Objective, Reader, TrainingBatch

__all__ = [
    "Advice",
    "Backbone",
    "BaseStep",
    "BaseWalk",
    "CacheCase",
    "Condition",
    "Conditioning",
    "DataFamily",
    "DataSource",
    "Draw",
    "MakePolicy",
    "MemoryCase",
    "Objective",
    "Part",
    "PatchLayout",
    "Policy",
    "PolicyFamily",
    "PolicyHead",
    "PromptFacts",
    "PromptSpace",
    "Reader",
    "Space",
    "Strategy",
    "Teacher",
    "TeacherFamily",
    "TeacherVelocity",
    "TrainingBatch",
]
