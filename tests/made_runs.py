"""Run folders as `piflow distill` leaves them, made without a distillation."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from piflow_cli.preset import load_preset

COLOURS = [(200, 40, 40), (40, 160, 60), (50, 70, 210), (210, 160, 30)]
"""Of the previews, in turn."""


def row(step: int) -> dict[str, float]:
    """What a step writes down."""
    loss = 0.2 + 4 * math.exp(-step / 80) + 0.05 * math.sin(7 * step)
    return {
        "step": step,
        "loss": loss,
        "gradient_norm": 1.5 + math.sin(step),
        "learning_rate": 1e-3 * min(1, step / 50),
        "images_per_s": 180 + 5 * math.cos(step),
        "wall_s": 0.7 * step,
        "skipped": 0,
        "loss_segment_1": 1.2 * loss,
        "loss_segment_2": 0.8 * loss,
    }


def validation(step: int) -> dict[str, float]:
    """What a validation writes down."""
    return {"step": step, "validation/paired_error_2nfe": 0.3 / step**0.5, "validation/fid_2nfe": 90 / step}


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def make_run(folder: Path, *, steps: int = 200, pictures: int = 4, overrides: tuple[str, ...] = ()) -> Path:
    """A run of digits-2nfe at its end, with previews of one colour each and one validation."""
    for name in ("previews", "validation"):
        (folder / name).mkdir(parents=True)
    preset = load_preset("digits-2nfe", [f"training.steps={steps}", *overrides])
    (folder / "preset.json").write_text(preset.model_dump_json(), encoding="utf-8")
    write_lines(folder / "metrics.jsonl", [*map(row, range(1, steps + 1)), *map(validation, (steps // 2, steps))])
    for i in range(pictures):
        step = steps * (i + 1) // pictures
        Image.new("RGB", (640, 200), COLOURS[i % len(COLOURS)]).save(folder / "previews" / f"step-{step:07d}.png")
    Image.new("RGB", (320, 200), "white").save(folder / "validation" / f"step-{steps:07d}.png")
    environment = {"piflow": "0.1.0", "device": "cpu, 2 of 2 cores", "run": "1 process; batch 128 = 1 x 128"}
    starts = [("2026-01-02T03:04:05", 0), ("2026-01-02T08:00:01", 120)]
    write_lines(
        folder / "starts.jsonl", [{"time": time, "step": step, "environment": environment} for time, step in starts]
    )
    changed = {"time": "2026-01-02T08:00:00", "step": 120, "changes": ["training.steps 120 -> 200"]}
    write_lines(folder / "history.jsonl", [changed])
    return folder
