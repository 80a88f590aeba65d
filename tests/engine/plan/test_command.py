"""`piflow distill --plan`: what it prints, what it refuses, and that it asks no network."""

import json
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from cli_runner import run

from piflow_cli.engine.plan.fit import fit
from piflow_cli.preset import load_preset


def test_command_line_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    ended = run("distill", "--preset", "flux-4nfe", "--plan", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert any(line.split() == ["LoRA", "on", "154", "layers", "629,997,568"] for line in lines)
    assert any("1 GPU  DDP 2,4,8,32  FSDP2 2  FSDP2 4  FSDP2 8  FSDP2 32" in line for line in lines)
    assert "  8 GPUs   x 4 accumulated x 8 at a time = 256" in lines
    assert any(line.startswith("FSDP2 on 8 GPUs, 1 image at a time") and "16 GB" in line for line in lines)
    assert "8 x 57 blocks x 4,608 tokens x 3,072 x 2 bytes" in ended.stdout
    assert "share left by coding  0.75, assumed" in ended.stdout
    assert not list(tmp_path.iterdir())


def test_command_line_takes_a_number_of_gpus(tmp_path: Path) -> None:
    ended = run("distill", "--preset", "flux-4nfe", "--plan", "--gpus", "4", "--json", cwd=tmp_path)
    found = json.loads(ended.stdout)
    assert [memory["gpus"] for memory in found["memory"]] == [4, 4]
    assert found["batches"] == [{"gpus": 4, "micro_batch_size": 8, "accumulation": 8, "problem": ""}]
    assert found["trainable_parameters"] == 653_697_569
    assert found["published"][0]["published_bytes"] == 65_000_000_000
    both = json.loads(run("distill", "-p", "flux-4nfe", "--plan", "--gpus", "1,8", "--json", cwd=tmp_path).stdout)
    assert [(m["strategy"], m["gpus"]) for m in both["memory"]] == [("one GPU", 1), ("DDP", 8), ("FSDP2", 8)]
    refused = run("distill", "--preset", "flux-4nfe", "--plan", "--gpus", "1,0", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--gpus" in refused.stderr
    refused = run("distill", "--preset", "flux-4nfe", "--plan", "--gpus", "3", cwd=tmp_path)
    assert refused.returncode == 1
    assert "2 or 4 GPUs share it" in refused.stderr


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    ended = run("distill", "--preset", "flux-4nfe", "--set", "teacher.architecture=FLUX.9", "--plan", cwd=tmp_path)
    assert ended.returncode == 1
    assert "FLUX.1-dev" in ended.stderr


def test_fit_prints_the_line_to_paste_and_what_it_costs(tmp_path: Path) -> None:
    ended = run("distill", "--preset", "flux-4nfe", "--plan", "--fit", "1x24GB", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    first, memory = ended.stdout.splitlines()[:2]
    assert first.startswith("To fit 1x24GB: piflow distill --preset flux-4nfe --set training.micro_batch_size=1 ")
    assert "of 24.0 GB" in memory
    assert "not the published recipe any more" in ended.stderr
    pasted = shlex.split(first.partition(": ")[2])[1:]
    again = run(*pasted, "--plan", "--gpus", "1", "--json", cwd=tmp_path)
    (planned,) = json.loads(again.stdout)["memory"]
    assert planned["total_bytes"] < 24e9


def test_fit_on_several_gpus_says_how_to_start(tmp_path: Path) -> None:
    ended = run("distill", "--preset", "flux-4nfe", "--plan", "--fit", "8x24GB", cwd=tmp_path)
    assert ended.stdout.splitlines()[0].endswith("--num-processes 8 --strategy fsdp2")


@pytest.mark.parametrize(
    ("gpus", "message"), [("1x12GB", "does not fit 1 x 12 GB"), ("24", "such as 1x24GB; got '24'")]
)
def test_fit_says_what_cannot_fit(tmp_path: Path, gpus: str, message: str) -> None:
    ended = run("distill", "--preset", "qwen-4nfe", "--plan", "--fit", gpus, cwd=tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr


def test_plan_says_hours(tmp_path: Path) -> None:
    """Twice the peak, or twice the GPUs, is half the time."""
    one = run("distill", "--preset", "flux-4nfe", "--plan", "--gpus", "1,2", "--tflops", "500", "--json", cwd=tmp_path)
    hours = [row["hours"] for row in json.loads(one.stdout)["hours"]]
    assert hours[0] == pytest.approx(2 * hours[1])
    two = run("distill", "--preset", "flux-4nfe", "--plan", "--gpus", "1", "--tflops", "1000", "--json", cwd=tmp_path)
    assert json.loads(two.stdout)["hours"][0]["hours"] == pytest.approx(hours[0] / 2)


@pytest.mark.parametrize(
    ("base", "fitted", "gb"), [("flux-4nfe", "flux-4nfe-24gb", 24), ("qwen-4nfe", "qwen-4nfe-48gb", 48)]
)
def test_presets_for_one_card_are_what_fit_makes(base: str, fitted: str, gb: int) -> None:
    words = {"name", "summary", "source", "expected", "needs"}
    found = fit(load_preset(base), gpus=1, size_bytes=gb * 10**9).preset
    assert load_preset(fitted).model_dump(exclude=words) == found.model_dump(exclude=words)
