"""Put what was built of the emoji among the files of the package, and distil the students that ship with it."""

from pathlib import Path

from piflow_cli.engine.distill import distill
from piflow_cli.errors import DataError
from piflow_cli.io.files import atomic_folder
from piflow_cli.io.zoo import ZOO
from piflow_cli.preset import load_preset
from piflow_cli.zoo.emoji.build.data.pictures import Pictures
from piflow_cli.zoo.emoji.build.prompt_list import PROMPT_LIST, build_prompt_list, save_prompt_list
from piflow_cli.zoo.ship import ship

ENTRY = "emoji"
PARTS = {"teacher": "teacher/pipeline", "features": "features/model"}
"""Folders of the entry, and where the work folder has them."""
SHIPPED = ("emoji-4nfe", "emoji-2nfe", "emoji-1nfe", "emoji-4nfe-dx")
"""Presets of the students that ship; the last is there for comparison."""


def ship_models(pictures: Pictures, work: Path, *, target: Path = ZOO / ENTRY) -> Path:
    """Copy the finished teacher and feature network from a work folder, and write the prompt list; gives the entry.

    Raises:
        DataError: one of them is not finished.
        StorageError: the entry cannot be written.
    """
    for part, place in PARTS.items():
        if not (work / place).is_dir():
            raise DataError(
                f"{work / place} is not there: run `python -m piflow_cli.zoo.emoji.build {part}` to its end"
            )
    for part, place in PARTS.items():
        _copy(work / place, target / part)
    save_prompt_list(build_prompt_list(pictures), target / PROMPT_LIST.name)
    return target


def train_students(work: Path, *, device: str, steps: int | None = None) -> Path | None:
    """Distil every student that ships, each going on where it stopped, and ship it; gives nothing if stopped early.

    Args:
        work: the runs go to its folder `students`.
        device: as `distill` takes it.
        steps: in place of the presets'.

    Raises:
        PiflowError: as `distill`.
    """
    for name in SHIPPED:
        preset = load_preset(name, [] if steps is None else [f"training.steps={steps}"])
        result = distill(preset, out=work / "students" / name, device=device)
        if result.interrupted:
            return None
        print(ship(str(result.out), f"{ENTRY}/{name}"))
    return ZOO / ENTRY / "students"


def _copy(source: Path, target: Path) -> None:
    """Replace a folder by another's files, whole or not at all."""
    with atomic_folder(target) as fresh:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            place = fresh / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
