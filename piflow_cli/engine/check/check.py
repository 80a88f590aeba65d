"""Proving a teacher: what a family says of it is measured, against the base's own pipeline where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from piflow_cli import registry
from piflow_cli.core.interfaces import PolicyFamily, TeacherFamily
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.check.networks import check_gradient, check_lora, check_student
from piflow_cli.engine.check.pictures import check_decoding, check_pictures
from piflow_cli.engine.check.projection import check_embedding, check_projection
from piflow_cli.engine.check.storing import check_card, check_other_base
from piflow_cli.engine.check.subject import Finding, Subject, unmeasured, wrong
from piflow_cli.engine.check.walks import (
    check_arguments,
    check_edits,
    check_guidance,
    check_padding,
    check_time,
    check_velocity,
    check_walk,
)
from piflow_cli.errors import NoWalkError, PiflowError

Measure = Callable[[Subject], Finding]


@dataclass(frozen=True)
class TeacherCheck:
    """What was found of a teacher.

    Args:
        source, family: which.
        findings: a line each.
    """

    source: str
    family: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    @property
    def failures(self) -> list[Finding]:
        """What is wrong."""
        return [finding for finding in self.findings if finding.passed is False]


def check_teacher(
    settings: TeacherFamily,
    *,
    device: torch.device | str = "cpu",
    on_finding: Callable[[Finding], None] = lambda _finding: None,
) -> TeacherCheck:
    """Load a teacher in float32 and measure whether its family is right about it.

    Args:
        settings: of the teacher.
        device: where to.
        on_finding: called with each line as it is found.

    Raises:
        ModelError: it cannot be loaded.
    """
    subject = Subject(settings, settings.load(device=device, dtype=torch.float32))
    found = []
    for name, measure in _measures(takes_pictures=settings.num_pictures[1] > 0):
        found.append(_measured(name, measure, subject))
        on_finding(found[-1])
    return TeacherCheck(settings.source, settings.type, tuple(found))


def _measures(*, takes_pictures: bool) -> Iterator[tuple[str, Measure]]:
    """What is measured, in the order in which one thing explains the next."""
    policies = list(_policies())
    yield "projection", check_projection
    yield "embedding", check_embedding
    yield "time", check_time
    yield "arguments", check_arguments
    yield "velocity", check_velocity
    yield "guidance", check_guidance
    yield "walk", partial(check_walk, guided=False)
    yield "guided walk", partial(check_walk, guided=True)
    yield "padding", check_padding
    if takes_pictures:
        yield "edits", partial(check_edits, guided=False)
        yield "guided edits", partial(check_edits, guided=True)
    yield "pictures", check_pictures
    yield "decoding", check_decoding
    for policy in policies:
        yield f"student ({policy.type})", partial(check_student, policy=policy)
    yield "lora", check_lora
    yield "gradient", partial(check_gradient, policy=policies[0])
    yield "card", partial(check_card, policy=policies[0])
    yield "other base", check_other_base


def _policies() -> Iterator[PolicyFamily]:
    """Every registered policy as for one evaluation, with the defaults of its own."""
    sampling = SamplingSettings(nfe=1)
    for name in registry.names("policy"):
        family = registry.resolve("policy", name)
        yield family.model_validate({"type": name} | family.derived_keys(sampling))


def _measured(name: str, measure: Measure, subject: Subject) -> Finding:
    """A finding; what the family under test raises is one too."""
    try:
        return measure(subject)
    except NoWalkError as error:
        return unmeasured(name, str(error))
    except PiflowError as error:
        return wrong(name, f"refused: {error}")
    except Exception as error:  # whatever a family that is being written does
        reason = str(error).strip().splitlines()
        return wrong(name, f"{type(error).__name__}: {reason[0][:200] if reason else ''}")
