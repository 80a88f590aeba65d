"""Plans: arithmetic that can be checked against a built student."""

import pytest
import torch

from piflow_cli.engine.distill import build_student
from piflow_cli.engine.plan import plan, size
from piflow_cli.errors import DataError
from piflow_cli.preset import load_preset


def test_counts_are_those_of_the_real_student() -> None:
    preset = load_preset("digits-1nfe")
    estimate = plan(preset)
    teacher = preset.teacher.load()
    student = build_student(preset, teacher, generator=torch.Generator().manual_seed(0))
    trainable = sum(p.numel() for p in student.parameters())
    assert estimate.teacher_parameters == sum(p.numel() for p in teacher.module.parameters())
    assert estimate.trainable_parameters == trainable
    assert estimate.head_parameters == sum(p.numel() for p in student.head.parameters())
    assert estimate.weights_bytes == estimate.gradient_bytes == estimate.ema_bytes == 4 * trainable
    assert estimate.optimizer_bytes == 8 * trainable
    assert estimate.memory_bytes == 4 * estimate.teacher_parameters + 20 * trainable


def test_guidance_and_segments_are_counted_as_work() -> None:
    base = plan(load_preset("digits-1nfe", ["training.steps=10", "training.batch_size=8"]))
    assert base.teacher_evaluations == 10 * 8 * 2
    guided = [
        "training.steps=10",
        "training.batch_size=8",
        "teacher.guidance_scale=2",
        "data.type=noise",
        "sampling.nfe=4",
    ]
    assert plan(load_preset("digits-1nfe", guided)).teacher_evaluations == 10 * 8 * 2 * 2 * 4


def test_devices_share_the_batch() -> None:
    preset = load_preset("digits-1nfe", ["training.micro_batch_size=16"])
    assert (plan(preset, num_devices=4).accumulation, plan(preset, num_devices=8).accumulation) == (2, 1)
    with pytest.raises(DataError, match="not divisible by 3"):
        plan(preset, num_devices=3)


def test_plan_can_be_shown() -> None:
    estimate = plan(load_preset("digits-1nfe"))
    assert next(title for title, _ in estimate.sections()) == "Parameters"
    assert estimate.to_dict()["memory_bytes"] == estimate.memory_bytes
    assert (size(999), size(1_500), size(2.5e9), size(1.1e12)) == ("999 B", "1.5 kB", "2.5 GB", "1.1 TB")
