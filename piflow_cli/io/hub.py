"""Where a model's source is: a local folder or file, a hub id, or what ships. All access to the hub is in this file."""

import re
from collections.abc import Sequence
from pathlib import Path

from piflow_cli.errors import ModelError
from piflow_cli.io.zoo import in_zoo, zoo_entries

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".ckpt", ".pth", ".pt", ".bin")
LOCAL_FOLDERS = ("runs",)
"""First folders that are never somebody's name on the hub: the documentation writes there."""


def locate(source: str, *, part: str = "teacher") -> Path | str:
    """Return the local path of a source, or the source itself where it is a hub id.

    Args:
        source: a folder, a weight file, a hub id `owner/name`, or `zoo:NAME` for what ships with the package.
        part: the folder inside a zoo entry.

    Raises:
        ModelError: there is no such folder, and the source is no hub id either.
    """
    embedded = in_zoo(source, part)
    if embedded is not None:
        if not embedded.is_dir():
            raise ModelError(f"no embedded model {source!r}. Embedded: {', '.join(zoo_entries(part))}.")
        return embedded
    path = Path(source).expanduser()
    if path.exists():
        return path
    if HUB_ID.fullmatch(source) and not source.endswith(WEIGHT_SUFFIXES) and not looks_local(source):
        return source
    raise ModelError(
        f"{source!r} does not exist here and is no hub id (owner/name). "
        "Pass a diffusers folder, a .safetensors or .pth file, a hub id, or zoo:NAME." + beside(path)
    )


def looks_local(source: str) -> bool:
    """Whether a source that does not exist can only be meant as a path: the hub is not asked for it.

    It starts like a path, or its first folder is here.
    """
    first = source.split("/")[0]
    return source.startswith(("/", "./", "../", "~")) or first in LOCAL_FOLDERS or Path(first).is_dir()


def beside(path: Path, *, shown: int = 8) -> str:
    """A sentence with the folders that are where `path` is not; empty where its parent is not there either."""
    try:
        found = sorted(p.name for p in path.parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return ""
    if path.parent == Path() or not found:
        return ""
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return f" In {path.parent} there is {', '.join(found[:shown])}{more}."


def fetch_file(repository: str, name: str, *, revision: str | None = None, local_only: bool = False) -> Path:
    """The local copy of one file of a repository, downloaded if need be.

    Raises:
        ModelError: it cannot be had.
    """
    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(repository, name, revision=revision, local_files_only=local_only)
    except Exception as error:  # hub, network and gating errors share no ground class
        raise unreachable(repository, error) from error
    return Path(path)


def fetch_folder(
    repository: str, patterns: Sequence[str], *, revision: str | None = None, local_only: bool = False
) -> Path:
    """The local folder of a repository with the files that match, downloaded if need be.

    Raises:
        ModelError: it cannot be had.
    """
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(patterns), local_files_only=local_only
        )
    except Exception as error:  # hub, network and gating errors share no ground class
        raise unreachable(repository, error) from error
    return Path(folder)


def list_files(repository: str, *, known: str, revision: str | None = None, local_only: bool = False) -> list[str]:
    """The names of a repository's files; of the copy that is here, where the hub cannot be asked.

    Args:
        known: a file that the repository is known to have, by which the copy is found.

    Raises:
        ModelError: neither can be had.
    """
    import huggingface_hub

    if not local_only:
        try:
            return huggingface_hub.list_repo_files(repository, revision=revision)
        except Exception as error:  # hub, network and gating errors share no ground class
            reason = error
    try:
        copy = huggingface_hub.hf_hub_download(repository, known, revision=revision, local_files_only=True)
    except Exception as error:
        raise unreachable(repository, error if local_only else reason) from error
    return file_names(Path(copy).parents[known.count("/")])


def file_names(folder: Path) -> list[str]:
    """The files below a folder, by their names relative to it, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def unreachable(source: str, error: Exception) -> ModelError:
    """The error for a hub id whose files cannot be had."""
    return ModelError(
        f"cannot get {source!r} from the model hub: {type(error).__name__}. Without network, download it where there "
        f"is one (`hf download {source} --local-dir FOLDER`; gated models need `hf auth login` and accepted terms) and "
        "pass the folder instead of the id."
    )
