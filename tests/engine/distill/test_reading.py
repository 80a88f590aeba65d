"""What a step is trained on: the same however many processes read it, and prompts encoded at one go."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_flux, tiny_qwen
from torch import nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.engine.distill import distill
from piflow_cli.preset import Preset, load_preset

TEACHERS = {"flux": tiny_flux, "qwen": tiny_qwen}


def tiny_preset(folder: Path, *overrides: str) -> Preset:
    """The emoji recipe on a random pipeline, trained on pictures."""
    return load_preset(
        "emoji-1nfe",
        [
            f"teacher.source={tiny_flux().source}",
            "teacher.max_sequence_length=12",
            "teacher.width=48",
            "teacher.height=64",
            "adapter.rank=2",
            "sampling.total_substeps=8",
            f"data={{type='captioned', path='{folder}'}}",
            "training.batch_size=2",
            "training.micro_batch_size=1",
            "training.mixed_precision=no",
            "training.teacher_dtype=float32",
            "training.checkpoint_every=1",
            "training.preview_every=0",
            "training.steps=3",
            *overrides,
        ],
    )


def save_pictures(folder: Path) -> None:
    """Four pictures of noise with captions."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i, prompt in enumerate(("a red cat", "blue dog on the house", "the cat", "a photo of a house")):
        Image.fromarray(draw.integers(0, 255, (80, 70, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(prompt)


def test_students_do_not_depend_on_who_reads_nor_on_a_stop(tmp_path: Path) -> None:
    save_pictures(tmp_path / "pictures")
    ahead = tiny_preset(tmp_path / "pictures", "training.data_workers=2")
    distill(tiny_preset(tmp_path / "pictures"), out=tmp_path / "here", device="cpu")
    distill(ahead, out=tmp_path / "ahead", device="cpu", stop_after=1)
    distill(ahead, out=tmp_path / "ahead", device="cpu")
    weights = Path("student") / "student.safetensors"
    expected, found = (load_file(tmp_path / run / weights) for run in ("here", "ahead"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("family", "passes"), [("flux", 1), ("qwen", 2)])
def test_encoders_go_up_once_a_step_and_the_negative_prompt_once_a_run(
    family: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance = {"guidance_scale": 2.0} if family == "qwen" else {}
    space = TEACHERS[family](offload_encoders=True, **guidance).load().space
    space.device = torch.device("meta")  # elsewhere than the encoders' home
    encoders, went = space.encoders(), []
    asked: list[list[str]] = []
    homes = {id(encoder): torch.device("cpu") for encoder in encoders}

    def move(module: nn.Module, device: torch.device) -> nn.Module:
        went.append((id(module), torch.device(device).type))
        homes[id(module)] = torch.device(device)
        return module

    def encode(prompts: list[str], *, length: int, others: dict[str, list[str]]) -> TextCondition:
        assert length == space.settings.max_sequence_length
        asked.append(prompts)
        assert went[-len(encoders) :] == [(id(encoder), "meta") for encoder in encoders]  # all are up
        return TextCondition(torch.zeros(len(prompts), 3, 4))

    monkeypatch.setattr(nn.Module, "to", move)
    monkeypatch.setattr(space, "embed", encode)
    monkeypatch.setattr("piflow_cli.teachers.text.placing._home", lambda module: homes[id(module)])
    for step in range(2):
        batches = space.encoded([[f"a {step}"], [f"b {step}", "c"], [f"d {step}"]])
        assert [len(batch) for batch in batches] == [1, 2, 1]
    assert sum(device == "meta" for _, device in went) == 2 * len(encoders)
    assert sum(device == "cpu" for _, device in went) == 2 * len(encoders)
    assert asked.count([space.settings.negative_prompt]) == passes - 1


def test_cached_embeddings_need_no_encoder() -> None:
    space = tiny_qwen(guidance_scale=2.0).load(encoders=False).space
    cached = [TextCondition(torch.zeros(2, 3, 4)), TextCondition(torch.ones(1, 3, 4))]
    assert space.encoded(cached) == cached
