"""Teachers that edit, of random weights, and recipes of theirs on prompts about small pictures."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_bases import tiny_flux2
from tiny_qwen_edit import tiny_qwen_edit
from tiny_runs import SMALL_TEXT

from piflow_cli.core.interfaces import TeacherFamily
from piflow_cli.preset import Preset, load_preset

ROWS = (
    {"prompt": "a red cat", "references": "cat.png"},
    {"prompt": "blue dog on the house", "references": ["hat.png", "cat.png"]},
    {"prompt": "the cat", "references": ["hat.png"]},
)
KINDS = {"flux2": (tiny_flux2, "flux2-klein-4nfe"), "qwen-edit": (tiny_qwen_edit, "qwen-edit-4nfe")}


def rows(folder: Path) -> Path:
    """Prompts about pictures of two sizes, and the same with targets."""
    place = folder / "edits"
    place.mkdir(exist_ok=True)
    for i, (name, size) in enumerate({"cat": (96, 64), "hat": (64, 80), "target": (70, 90)}.items()):
        fields = np.random.default_rng(i).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(fields).resize(size, Image.Resampling.NEAREST).save(place / f"{name}.png")
    (place / "edits.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    targets = [{"file_name": "target.png", **row} for row in ROWS]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, targets)))
    return place


def settings(kind: str, folder: Path, *, images: bool = False) -> tuple[str, list[str]]:
    """A published preset, and what makes it one of a random pipeline on prompts about pictures."""
    make, preset = KINDS[kind]
    family: TeacherFamily = make(folder / kind)
    place = rows(folder)
    data = f"type='captioned', path='{place}'" if images else f"type='prompts', path='{place / 'edits.jsonl'}'"
    changes = family.model_dump(include={"source", "width", "height", "max_sequence_length"})
    table = [f"teacher.{key}={json.dumps(value)}" for key, value in changes.items()]
    table += ["teacher.offload_encoders=false", "teacher.guidance_scale=2.0", "training.steps=3", *SMALL_TEXT]
    return preset, [*table, f"data={{{data}, references='references'}}"]


def recipe(kind: str, folder: Path, *overrides: str, images: bool = False) -> Preset:
    """A family's published recipe at the size of a random pipeline, on prompts about pictures."""
    preset, table = settings(kind, folder, images=images)
    return load_preset(preset, [*table, *overrides])
