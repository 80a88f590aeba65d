"""The README of a published student: what it is, how it is used, how it scores, and what it stands on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from piflow_cli.errors import PiflowError
from piflow_cli.formats.released.comfyui import ADAPTED
from piflow_cli.formats.student import StudentCard
from piflow_cli.io.hub import locate

PAPER = "https://arxiv.org/abs/2510.14974"
HOME_FORMAT, COMFYUI = "native", "comfyui"
SCORED = ("model", "method", "nfe", "h")
"""Keys of a benchmark's row that say what was measured."""


def model_card(
    card: StudentCard,
    *,
    place: str,
    written_as: str = HOME_FORMAT,
    sheet: str | None = None,
    scores: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> str:
    """Markdown with the metadata that the hub reads.

    Args:
        card: of the student.
        place: where others will find it: owner/name, owner/name/folder, or a path.
        written_as: the format of its files.
        sheet: file name of a picture beside the README.
        scores: what `piflow benchmark --json` wrote.
        licence: its identifier on the hub; None says that the base's holds.
    """
    base = base_id(card)
    text = [*_front(card, base=base, licence=licence), f"# {place.rstrip('/').rsplit('/', 1)[-1]}", ""]
    nfe, what = card.sampling.nfe, "video" if card.teacher.num_frames > 1 else "picture"
    text += [
        f"A student of {nfe} network evaluation{'s' * (nfe > 1)} a {what}, distilled by [π-Flow]({PAPER}) (policy "
        f"`{card.policy.type}`) from {f'[{base}](https://huggingface.co/{base})' if base else 'its teacher'}.",
        "",
    ]
    if sheet is not None:
        text += [f"![pictures by the student]({sheet})", ""]
    text += [*_facts(card), *_usage(card, place=place, written_as=written_as), *_table(scores)]
    held = f"The student: `{licence}`. " if licence else ""
    owner = f"[{base}](https://huggingface.co/{base})" if base else "its teacher"
    text += ["## Licence", "", f"{held}It is derived from {owner}, whose licence holds for it too.", ""]
    return "\n".join(text)


def base_id(card: StudentCard) -> str | None:
    """The base on the hub, None where it is a folder of somebody's machine or ships with piflow."""
    source = card.teacher.source
    try:
        return source if isinstance(locate(source), str) else None
    except PiflowError:  # a folder of another machine
        return None


def read_scores(path: Path) -> dict[str, Any] | None:
    """What a benchmark wrote, None where there is no such file or it is another's."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("rows"), list) else None


def _front(card: StudentCard, *, base: str | None, licence: str | None) -> list[str]:
    """The metadata block."""
    lines = ["---", "library_name: piflow"]
    if card.teacher.students_need_base:
        given, drawn = ("image" if _edits(card) else "text"), ("video" if card.teacher.num_frames > 1 else "image")
        lines.append(f"pipeline_tag: {given}-to-{drawn}")
    if base is not None:
        lines += [f"base_model: {base}", f"base_model_relation: {'adapter' if card.adapter else 'finetune'}"]
    lines.append(f"license: {licence or 'other'}")
    return [*lines, "tags:", "- pi-flow", "- few-step", "- distillation", "---", ""]


def _facts(card: StudentCard) -> list[str]:
    sampling = card.sampling
    rows = {
        "evaluations": sampling.nfe,
        "policy": f"`{card.policy.type}`",
        "weights": f"LoRA of rank {card.adapter.rank} on the base" if card.adapter else "all",
        "guidance trained in": card.guidance_scale if card.guidance_scale is not None else "none",
        "shift, last step": f"{sampling.shift:g}, {sampling.final_step_scale:g}",
        "trained": f"{card.steps:,} steps of preset `{card.preset}`" if card.preset else f"{card.steps:,} steps",
        "piflow": card.piflow_version,
    }
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]


def _usage(card: StudentCard, *, place: str, written_as: str) -> list[str]:
    """How it is used from piflow, diffusers and ComfyUI."""
    prompt, call, needed, file = "a cat", 'prompt="a cat"', [], "picture.png"
    if not card.teacher.students_need_base:
        prompt, call = "0", '"0"'
    elif _edits(card):
        prompt, call = "make it red", 'prompt="make it red", image=Image.open("picture.png")'
        needed, file = ["from PIL import Image"], "edited.png"
    asked = f'"{prompt}"' + " --image picture.png" * card.teacher.num_pictures[0]
    lines = [
        "## Use",
        "",
        "```console",
        f"$ piflow sample {asked} --model {place} --nfe {card.sampling.nfe}",
        "```",
        "",
    ]
    written = f'pipe({call}).images[0].save("{file}")'
    if card.teacher.num_frames > 1:
        written = f'export_to_video(pipe({call}).frames[0], "video.mp4", fps={card.teacher.frame_rate})'
        needed = ["from diffusers.utils import export_to_video"]
    lines += [
        "As a pipeline of diffusers:",
        "",
        "```python",
        *needed,
        "from piflow_cli import load_pipeline",
        "",
        f'pipe = load_pipeline("{place}")',
        written,
        "```",
        "",
    ]
    if written_as == COMFYUI:
        lines += [
            "In ComfyUI: put the file where [ComfyUI-piFlow](https://github.com/Lakonik/ComfyUI-piFlow) looks for "
            f"adapters, beside the base; {card.sampling.nfe} steps, shift {card.sampling.shift:g}, last step "
            f"{card.sampling.final_step_scale:g}.",
            "",
        ]
    elif card.adapter is not None and card.teacher.type in ADAPTED:
        lines += [f"For ComfyUI: `piflow convert {place} student.safetensors --to comfyui`.", ""]
    return lines


def _edits(card: StudentCard) -> bool:
    """Whether a prompt says nothing to the student without a picture."""
    return card.teacher.num_pictures[0] > 0


def _table(scores: Mapping[str, Any] | None) -> list[str]:
    """The rows of a benchmark, with what they were measured on."""
    rows: Sequence[Mapping[str, Any]] = [] if scores is None else scores["rows"]
    if not rows:
        return []
    titles: Mapping[str, str] = scores.get("titles", {}) if scores is not None else {}
    names = list(rows[0].get("scores", {}))
    lines = ["## Scores", "", "| " + " | ".join([*SCORED, *(titles.get(name, name) for name in names)]) + " |"]
    lines.append("|" + "---|" * (len(SCORED) + len(names)))
    for row in rows:
        cells = [f"{row[key]:g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in SCORED]
        cells += [f"{row['scores'][name]:.4g}" if name in row["scores"] else "" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    said = ("samples", "detector", "reference", "seed")
    facts = [f"{key} {scores[key]}" for key in said if scores is not None and scores.get(key) is not None]
    return [*lines, "", f"By `piflow benchmark`: {', '.join(facts)}.", ""]
