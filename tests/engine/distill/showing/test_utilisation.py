"""The share of the GPUs' peak that a run reaches: reckoned from its steps, told and kept; nothing on a CPU."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from piflow_cli.cli.distilling.telling import words
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent, Journal
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.distill.showing.trackers import Trackers
from piflow_cli.engine.distill.showing.utilisation import Work, work_of
from piflow_cli.engine.distill.state import Progress
from piflow_cli.engine.plan.work import Gpu, step_flops
from piflow_cli.preset import Preset, load_preset

CUDA = torch.device("cuda")


def recipe() -> Preset:
    return load_preset("digits-1nfe", ["training.batch_size=4", "training.steps=12", "training.preview_every=0"])


def test_the_share_is_operations_over_what_the_gpus_could_have_done() -> None:
    work = Work(flops=10**12, gpu=Gpu("X", tflops=2.0, watts=0), count=4)
    assert work.share(0.5) == pytest.approx(1 / (0.5 * 2 * 4))
    assert work.words(0.5).startswith("25% of the bfloat16 peak of 4 X")


def test_known_gpus_are_found_by_the_name_that_cuda_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    preset, name = recipe(), "NVIDIA H100 80GB HBM3"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    work = work_of(preset, CUDA, num_processes=8)
    assert work is not None
    assert (work.gpu.name, work.count, work.flops) == ("H100", 8, step_flops(preset))
    name = "NVIDIA GeForce GTX 1080"
    assert work_of(preset, CUDA, num_processes=1) is None
    assert work_of(preset, torch.device("cpu"), num_processes=1) is None


def test_a_run_keeps_and_tells_it_where_the_peak_is_known(tmp_path: Path) -> None:
    preset, events = recipe(), []
    run, progress = RunFolder(tmp_path), Progress(seed=0)
    work = Work(flops=step_flops(preset), gpu=Gpu("X", tflops=1e-3, watts=0), count=1)
    told = {"trackers": Trackers(Accelerator(cpu=True), ()), "on_event": events.append, "speaks": True, "work": work}
    journal = Journal(run, preset.training, progress, **told)
    for _ in range(preset.training.steps):
        progress.step += 1
        journal.log(loss=1.0, by_segment=[1.0], gradient_norm=1.0, learning_rate=1.0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event.kind == "step"]
    assert [event.utilisation for event in steps] == [row["utilisation"] for row in rows]
    last = rows[-1]
    assert last["utilisation"] == pytest.approx(work.flops * last["images_per_s"] / 4 / 1e9)
    assert f"{last['utilisation']:.0%} of the peak" in words(steps[-1])
    (estimate,) = [event for event in events if event.kind == "estimate"]
    assert "--plan reckons with 35%" in estimate.message


def test_nothing_is_said_on_a_cpu(tmp_path: Path) -> None:
    events: list[DistillEvent] = []
    distill(recipe(), out=tmp_path / "run", device="cpu", stop_after=2, on_event=events.append)
    assert "utilisation" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not any(event.utilisation for event in events)
    assert "peak" not in words(next(event for event in events if event.kind == "step"))
