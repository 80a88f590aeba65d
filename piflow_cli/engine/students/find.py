"""Where a student is: embedded, a path, a run folder, or on the hub."""

import time
from pathlib import Path

from piflow_cli import registry
from piflow_cli.errors import ModelError
from piflow_cli.formats.checkpoint import find_checkpoint
from piflow_cli.formats.native import read_card
from piflow_cli.io.files import REPLACED, restore_replaced
from piflow_cli.io.hub import HUB_ID, HubAccess, beside, fetch_folder, looks_local
from piflow_cli.io.locks import in_use
from piflow_cli.io.texts.names import user_path
from piflow_cli.io.zoo import ZOO

AT_BEST = "@best"
"""What a run's name goes on with where its best student is meant."""
DEFAULT_ENTRIES = ("emoji", "digits")
"""Whose students draw and are measured where none is named: the first of what ships that has some."""


def embedded_students() -> dict[str, Path]:
    """Students that ship with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(ZOO.glob("*/students/*/student.json"))}


def default_students() -> list[str]:
    """The embedded students that draw and are measured where none is named, all of one teacher.

    Raises:
        ModelError: none ship.
    """
    by_entry: dict[str, list[str]] = {}
    for name, folder in embedded_students().items():
        by_entry.setdefault(folder.parents[1].name, []).append(name)
    found = next((by_entry[entry] for entry in DEFAULT_ENTRIES if entry in by_entry), None)
    if found is None:
        raise ModelError("no students are installed with the package: pass --model with a student's folder or hub id")
    return found


def default_student(nfe: int | None = None) -> str:
    """The default student of most evaluations, or the one trained for `nfe`, or for the nearest number to it.

    Raises:
        ModelError: none ship.
    """
    folders = embedded_students()
    trained = {name: read_card(folders[name]).sampling.nfe for name in default_students()}
    wanted = max(trained.values()) if nfe is None else nfe
    return min(trained, key=lambda name: (abs(trained[name] - wanted), -trained[name], name))


def find_student(source: str, *, access: HubAccess | None = None) -> Path:
    """The local folder or file of a student: an embedded name, a path, a run, its checkpoint, or a hub id (downloaded).

    Args:
        source: one of these.
        access: how the hub is asked.

    Raises:
        ModelError: there is none.
    """
    embedded = embedded_students()
    if source in embedded:
        return embedded[source]
    checkpoint, path = find_checkpoint(source), user_path(source)
    if checkpoint is not None:
        return checkpoint
    if source.endswith(AT_BEST) and not path.exists():
        return _find_best(Path(source.removesuffix(AT_BEST)).expanduser())
    for folder in (path, path / "student"):
        if not in_use(folder.parent):  # by a run, which replaces its student itself
            restore_replaced(folder)
    _wait_for_student(path)
    if path.exists():
        return path / "student" if (path / "student" / "student.json").exists() else path
    if looks_local(source):
        raise ModelError(
            f"there is no student at {source}.{beside(path)} "
            f"Pass a student or run folder, a hub id, or an embedded student: {', '.join(embedded)}."
        )
    repository, subfolder = _hub_place(source)
    if repository is not None:
        return _download(repository, subfolder, access or HubAccess())
    raise ModelError(registry.unknown_name("student", source, list(embedded)) + " Or pass a student folder or hub id.")


def check_student(source: str) -> None:
    """Raise ModelError where a student is meant to be here and is not; the hub is not asked."""
    if looks_local(source) or _hub_place(source)[0] is None:
        find_student(source)


def _find_best(run: Path) -> Path:
    """The student of a run that its validation found to be the best."""
    best = run / "best"
    if not in_use(run):
        restore_replaced(best)
    if not (best / "student.json").is_file():
        raise ModelError(
            f"{run} keeps no best student: it is kept by runs that validate (validation.every), once they have. Leave "
            f"{AT_BEST} out for the last one."
        )
    return best


def _wait_for_student(run: Path) -> None:
    """Let a run that goes on finish the replacement of its student, which takes no time."""
    for _ in range(20):
        if not (run / f"{REPLACED}student").exists() or (run / "student" / "student.json").exists() or not in_use(run):
            return
        time.sleep(0.05)


def _hub_place(source: str) -> tuple[str | None, str]:
    """Repository and folder in it of `owner/name` or `owner/name/folder`; None where the source is neither."""
    parts = source.split("/")
    repository, subfolder = "/".join(parts[:2]), "/".join(parts[2:])
    return (repository if HUB_ID.fullmatch(repository) else None), subfolder


def _download(repository: str, subfolder: str, access: HubAccess) -> Path:
    """The local folder of a student on the hub.

    Raises:
        ModelError: unreachable, no such folder, or several students and none named.
    """
    prefix = f"{subfolder}/" if subfolder else ""
    patterns = [f"{prefix}{pattern}" for pattern in ("*.json", "*.safetensors", "vae/*", "base/*")]
    folder = fetch_folder(repository, patterns, access=access) / subfolder
    if not folder.is_dir():
        raise ModelError(f"{repository} has no folder {subfolder}")
    return folder
