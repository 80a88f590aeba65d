"""`training.compile`: the same losses, and nothing is compiled anew once a run is warm, however ragged its spans."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from tiny_runs import FAMILIES, settings
from torch._dynamo.utils import counters

from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.processes.compiling import compile_blocks
from piflow_cli.preset import load_preset

WARM_UP_STEPS, STEPS = 2, 6
RAGGED = {
    # Guidance inside an interval: another number of rows at every state; spans of rollouts and windows differ anyway.
    "dit": {"teacher.guidance_scale": 2.0, "teacher.guidance_interval": [0.2, 0.9], "objective.window_substeps": 3},
    "flux": {"training.gradient_checkpointing": True, "adapter.dropout": 0.0},  # compiled code draws other dropout
}


def train(folder: Path, family: str, *, compiled: bool) -> tuple[list[dict], list[int]]:
    """Loss and gradient norm of a run's steps, and how many graphs were compiled by the end of each."""
    folder.mkdir()
    batch = {"training.batch_size": 4, "training.micro_batch_size": 4}
    wanted = {"training.compile": compiled, "policy.compiled": compiled}
    changes = {key: str(value).lower() for key, value in (batch | wanted | RAGGED[family]).items()}
    preset = load_preset(FAMILIES[family][0], settings(folder, family, **changes))
    graphs: list[int] = []

    def tell(event: DistillEvent) -> None:
        if event.kind == "step":
            graphs.append(counters["stats"]["unique_graphs"])

    distill(preset, out=folder / "run", device="cpu", stop_after=STEPS if compiled else 1, on_event=tell)
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows], graphs


@pytest.mark.slow
@pytest.mark.parametrize("family", RAGGED)
def test_nothing_is_compiled_anew_after_warm_up(tmp_path: Path, family: str) -> None:
    plain, _ = train(tmp_path / "plain", family, compiled=False)
    torch._dynamo.reset()
    counters.clear()
    rows, graphs = train(tmp_path / "compiled", family, compiled=True)
    for key in ("loss", "gradient_norm"):
        assert rows[0][key] == pytest.approx(plain[0][key], rel=1e-4), key
    assert len(rows) == STEPS
    assert graphs[WARM_UP_STEPS - 1] > 1
    assert set(graphs[WARM_UP_STEPS:]) == {graphs[WARM_UP_STEPS - 1]}
    assert not counters["graph_break"]


def test_names_of_weights_stay_and_only_blocks_are_compiled() -> None:
    module = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, num_layers=2, sample_size=4, num_embeds_ada_norm=10
    )
    before = list(module.state_dict())
    compile_blocks(module, sharded=False)
    assert list(module.state_dict()) == before
    assert [name for name, part in module.named_modules() if part._compiled_call_impl is not None] == [
        "transformer_blocks.0",
        "transformer_blocks.1",
    ]
