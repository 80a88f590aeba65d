"""A run's folder as a page shows it. Whatever is damaged or missing in it is left out, and said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_cli.engine.report.metrics import Metrics
from piflow_cli.engine.report.settings import Setting, all_settings, changed_settings, cut, origin_of
from piflow_cli.engine.report.thumbnails import Frame, Strip
from piflow_cli.errors import StorageError
from piflow_cli.formats.run import HISTORY, METRICS, PAIRED, PRESET, PREVIEWS, STARTS, VALIDATION
from piflow_cli.io.bounds import MAX_TEXT_BYTES, bounded_json
from piflow_cli.io.regular import read_regular, read_text
from piflow_cli.io.texts.amounts import duration, pace
from piflow_cli.io.texts.names import label_of

PICTURE_BYTES = 5_200_000
"""Of all pictures in a page, before they are written in base64, which takes a third more."""
MAX_FRAMES = 24
"""Under a slider of one run."""
MAX_STARTS = 40


@dataclass(frozen=True)
class Start:
    """A time that a run was started.

    Args:
        time: as the clock of its machine said.
        step: from which it went on.
        what: how it ran, and what was changed before.
    """

    time: str
    step: str
    what: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A label, its value, and what stands below the value."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class RunView:
    """What there is to show of a run.

    Args:
        name: of its folder.
        subject: teacher, student and policy, in a line.
        preset: the values of its preset; empty where they cannot be read.
        step, steps: taken, and of how many; 0 where nobody says.
        facts: the most wanted ones first.
        metrics: its curves.
        previews, sheets: pictures by step.
        changed: what differs from the preset of that name, None where none ships under it.
        settings: every key.
        environment: label and value, of its last start.
        starts: all of them.
        notes: what could not be read.
    """

    name: str
    subject: str
    preset: Mapping[str, Any]
    step: int
    steps: int
    facts: tuple[Fact, ...]
    metrics: Metrics
    previews: tuple[Frame, ...]
    sheets: tuple[Frame, ...]
    changed: tuple[Setting, ...] | None
    settings: tuple[Setting, ...]
    environment: tuple[tuple[str, str], ...]
    starts: tuple[Start, ...]
    notes: tuple[str, ...]

    @property
    def progress(self) -> float:
        """The share of the steps that were taken, in percent."""
        return min(100.0, 100 * self.step / self.steps) if self.steps else 0.0

    @property
    def preset_name(self) -> str:
        """What the preset is called."""
        return _text(self.preset.get("name")) or "unknown"

    @property
    def origin(self) -> str:
        """The preset that ships from which this one was made, or its own name."""
        return _text(origin_of(self.preset))


class RunReader:
    """Reads a run's folder again and again: numbers and pictures that are known are not read twice.

    Args:
        folder: of the run.
        num_runs: on the page; they share the room that pictures have.
    """

    def __init__(self, folder: Path, *, num_runs: int = 1) -> None:
        self.folder = folder
        self.metrics = Metrics(folder / METRICS)
        most = max(4, MAX_FRAMES // num_runs)
        room = {"most": most, "max_bytes": PICTURE_BYTES // (2 * most * num_runs)}
        self.previews = Strip(folder / PREVIEWS, **room)
        self.sheets = Strip(folder / VALIDATION, **room)

    def look(self) -> RunView:
        """The run as it is now."""
        notes: list[str] = []
        try:
            self.metrics.read_on()
        except OSError as error:
            notes.append(f"{METRICS} cannot be read: {error.strerror or error}")
        if self.metrics.unreadable:
            notes.append(f"{METRICS}: {self.metrics.unreadable} lines could not be read and were left out")
        preset = self._preset(notes)
        changed = changed_settings(preset)
        starts = _lines(self.folder / STARTS, notes)
        return RunView(
            name=label_of(self.folder.resolve().name) or "run",
            subject=_subject(preset),
            preset=preset,
            step=self.metrics.step,
            steps=_count(_at(preset, "training", "steps")),
            facts=tuple(_facts(self.metrics, preset)),
            metrics=self.metrics,
            previews=tuple(self.previews.frames()),
            sheets=tuple(self.sheets.frames()),
            changed=None if changed is None else tuple(changed),
            settings=tuple(all_settings(preset)),
            environment=tuple(_environment(starts)),
            starts=tuple(_starts(starts, _lines(self.folder / HISTORY, notes))),
            notes=tuple(notes),
        )

    def _preset(self, notes: list[str]) -> Mapping[str, Any]:
        path = self.folder / PRESET
        try:
            value = bounded_json(read_text(path))
        except (OSError, ValueError) as error:
            notes.append(f"{PRESET} cannot be read: {getattr(error, 'strerror', None) or error}")
            return {}
        if not isinstance(value, dict):
            notes.append(f"{PRESET} holds no table")
            return {}
        return value


def open_run(folder: Path, *, num_runs: int = 1) -> RunReader:
    """A reader of a run's folder.

    Raises:
        StorageError: it is none.
    """
    if not folder.is_dir() or not any((folder / name).exists() for name in (PRESET, METRICS)):
        what = "holds no run" if folder.is_dir() else "is no folder"
        raise StorageError(
            f"{folder} {what}: name the folder that `piflow distill --out` wrote, with {PRESET} and {METRICS} in it"
        )
    return RunReader(folder, num_runs=num_runs)


def _facts(metrics: Metrics, preset: Mapping[str, Any]) -> list[Fact]:
    found = []
    if bins := metrics.curves["loss"].bins() if "loss" in metrics.curves else []:
        found.append(Fact("loss", f"{bins[-1].mean:.4g}"))
    for nfe, curve in metrics.scores().get(PAIRED, {}).items():
        if curve.least is not None:
            best = f"best, step {curve.least.step:,}"
            found.append(Fact(f"paired error, {nfe} NFE", f"{curve.least.value:.4g}", best))
    rate = metrics.curves.get("images_per_s")
    if rate is not None and rate.last is not None and rate.last.value > 0:
        found.append(Fact("speed", pace(rate.last.value)))
    if metrics.wall_s:
        found.append(Fact("trained for", duration(metrics.wall_s)))
    if batch := _count(_at(preset, "training", "batch_size")):
        found.append(Fact("batch", f"{batch:,}", f"{batch * metrics.step:,} pictures so far"))
    if metrics.skipped:
        found.append(Fact("skipped", f"{metrics.skipped:,} steps", "loss or gradient not finite"))
    return found


def _subject(preset: Mapping[str, Any]) -> str:
    """Who is distilled into what, as far as the preset says."""
    teacher, nfe = _text(_at(preset, "teacher", "source")), _count(_at(preset, "sampling", "nfe"))
    policy, words = _text(_at(preset, "policy", "type")), []
    if teacher:
        words.append(f"{teacher} into")
    if nfe:
        words.append(f"a student of {nfe} evaluation{'s' * (nfe > 1)}")
    if policy:
        words.append(f"by {policy}")
    return " ".join(words)


def _environment(starts: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    table = starts[-1].get("environment") if starts else None
    items = table.items() if isinstance(table, dict) else ()
    return [(cut(str(key)), _text(value)) for key, value in list(items)[:MAX_STARTS] if key != "run"]


def _starts(starts: list[Mapping[str, Any]], changes: list[Mapping[str, Any]]) -> list[Start]:
    """The starts of a run, oldest first, each with what was changed since the one before."""
    events = sorted([*changes, *starts], key=lambda row: (_text(row.get("time")), "changes" not in row))
    found: list[Start] = []
    pending: list[str] = []
    for event in events:
        if "changes" in event:
            said = event["changes"] if isinstance(event["changes"], list) else []
            pending += [f"changed: {_text(change)}" for change in said[:MAX_STARTS]]
        else:
            ran = _at(event, "environment", "run")
            found.append(_start(event, [*pending, *([_text(ran)] if ran else [])]))
            pending = []
    if pending:
        found.append(_start(events[-1], pending))
    return found[-MAX_STARTS:]


def _start(event: Mapping[str, Any], what: list[str]) -> Start:
    return Start(_text(event.get("time")).replace("T", " "), f"{_count(event.get('step')):,}", tuple(what))


def _lines(path: Path, notes: list[str]) -> list[Mapping[str, Any]]:
    """The tables of a file of lines, those alone that can be read."""
    if not path.exists():
        return []
    try:
        lines = read_regular(path, max_bytes=MAX_TEXT_BYTES).decode("utf-8", "replace").splitlines()
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror or error}")
        return []
    found = []
    for line in lines[-10 * MAX_STARTS :]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            notes.append(f"{path.name}: a line cannot be read and was left out")
            continue
        found += [row] if isinstance(row, dict) else []
    return found


def _at(tree: object, *keys: str) -> object:
    """What a nested table holds under keys, None where it holds nothing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _text(value: object) -> str:
    """A text on one line, as much of it as a table holds; of what is no text, nothing."""
    return label_of(value) if isinstance(value, str) else ""


def _count(value: object) -> int:
    """A number of things; 0 of what is none."""
    return value if type(value) is int and 0 <= value <= 10**12 else 0
