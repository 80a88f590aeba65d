"""Which family a source is of, by the class of pipeline that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from piflow_cli import registry
from piflow_cli.core.interfaces import TeacherFamily
from piflow_cli.core.problems import explain
from piflow_cli.errors import ModelError, PresetError
from piflow_cli.io.hub import fetch_file, locate
from piflow_cli.io.presets import parse_overrides
from piflow_cli.io.weights import read_json

INDEX, CARD = "model_index.json", "student.json"


def teacher_settings(source: str, *, family: str | None = None, settings: Sequence[str] = ()) -> TeacherFamily:
    """The settings of a teacher by its source.

    Args:
        source: folder, weight file, hub id or zoo:NAME.
        family: a registered one; None takes that of the pipeline's class.
        settings: `key=value` of the family's own.

    Raises:
        ModelError: it is an empty folder or a student, nothing says which family it is of, or it cannot be reached.
        PresetError: a setting that the family does not know, or not this value.
    """
    check_kind(locate(source), source)
    kind = registry.resolve("teacher", family or family_of(source))
    table = {"type": family or kind.model_fields["type"].default, "source": source} | parse_overrides(settings)
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        problems = "\n".join(f"  {explain(item, kind, ('teacher',))}" for item in error.errors())
        raise PresetError(f"these are no settings of a {table['type']} teacher:\n{problems}") from None


def check_kind(place: Path | str, source: str) -> None:
    """Raise ModelError for an empty folder, and for a student, which is checked by what it was trained from.

    Args:
        place: of the source on this machine, or a hub id, of which nothing is said.
        source: as it was asked for.
    """
    if isinstance(place, str) or not place.is_dir():
        return
    if not any(place.iterdir()):
        raise ModelError(f"{source} is an empty folder; was its download cut off? Pass a teacher's folder or hub id")
    card = next((path for path in (place / CARD, place / "student" / CARD) if path.is_file()), None)
    if card is None:
        return
    teacher = read_json(card).get("teacher")
    base = teacher.get("source") if isinstance(teacher, dict) else None
    check = f": piflow teacher check {base}" if base else ""
    raise ModelError(
        f"{source} is a student, and what is checked are teachers. Check the one that it was trained from{check}"
    )


def family_of(source: str) -> str:
    """The family whose pipeline's class a source names.

    Raises:
        ModelError: it has no index, or one of another pipeline.
    """
    place = locate(source)
    path = fetch_file(place, INDEX) if isinstance(place, str) else Path(place) / INDEX
    families = {name: registry.resolve("teacher", name) for name in registry.names("teacher")}
    known = {pipeline: name for name, family in families.items() for pipeline in family.pipeline_classes}
    names = ", ".join(families)
    if path.parent.is_file():
        raise ModelError(
            f"{source} is one file, which does not say whose it is; name its family (--family): {names}. Of dit the "
            "file is the teacher; of the others pass the pipeline's folder, and the file by --set transformer=FILE"
        )
    if not path.is_file():
        raise ModelError(f"{source} has no {INDEX}, which would say whose it is; name its family (--family): {names}")
    found = read_json(path).get("_class_name")
    if found not in known:
        raise ModelError(f"{source} holds a {found}; teachers are made of {', '.join(known)}")
    return known[found]
