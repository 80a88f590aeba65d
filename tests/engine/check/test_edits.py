"""Families that are wrong about reference pictures: a check finds it, and says what it probably is."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny_bases import tiny_flux2, tiny_flux2_dev
from torch import Tensor, nn

from piflow_cli.engine.check.subject import Subject
from piflow_cli.engine.check.walks import check_edits
from piflow_cli.teachers.flux2 import backbone as flux2
from piflow_cli.teachers.flux2.backbone import Flux2Backbone
from piflow_cli.teachers.flux2.family import Flux2
from piflow_cli.teachers.flux2.space import Flux2Space
from piflow_cli.teachers.text.tokens import BackboneClass


class Forgets(Flux2Backbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return super().predict(module, x, sigma, replace(condition, references=None))


class Rounds(Flux2Space):
    def reference_latents(self, picture: Any) -> Tensor:
        return super().reference_latents(picture).round()


class ForgetfulFlux2(Flux2):
    backbone_class: ClassVar[BackboneClass] = Forgets


class RoundingFlux2(Flux2):
    space_class: ClassVar[Any] = Rounds


def subject_of(kind: type[Flux2], settings: Flux2) -> Subject:
    made = kind(**settings.model_dump())
    return Subject(made, made.load())


def test_pictures_that_do_not_reach_the_network_are_found(tmp_path: Path) -> None:
    found = check_edits(subject_of(ForgetfulFlux2, tiny_flux2(tmp_path / "base")), guided=False)
    assert found.passed is False
    assert (
        "with 1 reference picture at 128x96 the network is called otherwise: hidden_states has the shape" in found.said
    )


def test_pictures_that_are_encoded_otherwise_are_found(tmp_path: Path) -> None:
    found = check_edits(subject_of(RoundingFlux2, tiny_flux2_dev(tmp_path / "base")), guided=False)
    assert found.passed is False
    assert "hidden_states differs by up to" in found.said


def test_pictures_in_one_frame_are_found_as_soon_as_there_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = flux2._reference_ids

    def in_one_frame(sizes: Any, device: torch.device) -> Tensor:
        ids = right(sizes, device).clone()
        ids[:, 0] = 10
        return ids

    monkeypatch.setattr(flux2, "_reference_ids", in_one_frame)
    settings = tiny_flux2(tmp_path / "base")
    found = check_edits(Subject(settings, settings.load()), guided=True)
    assert found.passed is False
    assert (
        "with 2 reference pictures at 128x96 the network is called otherwise: img_ids differs by up to 10" in found.said
    )
