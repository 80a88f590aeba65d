"""`piflow distill --plan`: what it prints, what it refuses, and that it asks no network."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from cli_runner import run


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
