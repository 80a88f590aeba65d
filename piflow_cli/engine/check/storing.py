"""A card that is written and read back with a student's weights, and a base that is not the student's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from piflow_cli import __version__
from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.interfaces import PolicyFamily
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.check.networks import RANK, new_student
from piflow_cli.engine.check.subject import Finding, Subject, right, unmeasured, wrong
from piflow_cli.engine.students.load import load_student
from piflow_cli.engine.students.save import anchored, save_student
from piflow_cli.errors import ModelError
from piflow_cli.formats.student import StoredStudent, StudentCard


@torch.no_grad()
def check_card(subject: Subject, policy: PolicyFamily) -> Finding:
    """A student that is written and loaded again gives the same, bit by bit."""
    settings, space = subject.settings, subject.teacher.space
    student = new_student(subject, policy)
    card = StudentCard(
        piflow_version=__version__,
        preset="check",
        teacher=anchored(settings),
        network=subject.teacher.network,
        policy=policy,
        adapter=AdapterSettings(rank=RANK, dropout=0.0) if subject.adapts else None,
        sampling=SamplingSettings(nfe=1, total_substeps=8),
    )
    weights = {name: parameter.detach().cpu() for name, parameter in student.own_parameters().items()}
    x, sigma = subject.state(), subject.sigmas(0.8)
    before = student(x, sigma, subject.condition)[0]
    with tempfile.TemporaryDirectory() as folder:
        save_student(StoredStudent(card=card, weights=weights), Path(folder) / "student", vae=space.own_vae)
        read = load_student(str(Path(folder) / "student"), device=space.device)
    if read.card.network != card.network or read.card.teacher != card.teacher:
        return wrong("card", "what is read back is not what was written")
    after = read.network(x, sigma, subject.condition)[0]
    if not torch.equal(before, after):
        return wrong("card", f"the student that is read back gives {float((before - after).abs().max()):.3g} beside it")
    return right("card", f"{len(weights)} weights and their card are read back; the student gives the same, bit by bit")


def check_other_base(subject: Subject) -> Finding:
    """A student of a network that differs in one number is refused."""
    if not subject.settings.students_need_base:
        return unmeasured("other base", "students hold all their weights, and take no base")
    network = subject.teacher.network
    key, config = _changed(network["config"])
    try:
        subject.settings.check_base(network | {"config": config}, subject.teacher)
    except ModelError as error:
        if key in str(error):
            return right("other base", f"refused, for {key}")
        return wrong("other base", f"refused, but not for what differs ({key}): {error}")
    return wrong("other base", f"a student of a network with another {key} was taken: does check_base compare configs?")


def _changed(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A network's config with one number changed, and which."""
    key = next(key for key, value in config.items() if isinstance(value, int) and not isinstance(value, bool))
    return key, config | {key: config[key] + 1}
