"""Where a model's source is: a local folder or file, a hub id, or what ships. All access to the hub is in this file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_cli.errors import ModelError
from piflow_cli.io.texts.names import user_path
from piflow_cli.io.zoo import in_zoo, zoo_entries

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".ckpt", ".pth", ".pt", ".bin")
LOCAL_FOLDERS = ("runs", "models")
"""First folders that are never somebody's name on the hub: the documentation writes there."""


@dataclass(frozen=True)
class HubAccess:
    """How the hub is asked; what is left out is its client's default.

    Args:
        token: of an account, or False for none.
        cache_dir: where downloads are kept.
        force_download: whether to download again what is there.
        local_files_only: never ask.
    """

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False

    def options(self) -> dict[str, Any]:
        """As keywords of the hub's client."""
        return {
            "token": self.token,
            "cache_dir": self.cache_dir,
            "force_download": self.force_download,
            "local_files_only": self.local_files_only,
        }


@dataclass(frozen=True)
class HubTarget:
    """Where on the hub a folder goes.

    Args:
        repository: owner/name, or a name of the token's own; made where there is none.
        subfolder: inside it.
        message: of the commit.
        private: whether a repository that is made is; None is the owner's default.
        token: of an account that may write there.
        create_pr: ask the owner to take it instead.
    """

    repository: str
    subfolder: str | None = None
    message: str | None = None
    private: bool | None = None
    token: str | bool | None = None
    create_pr: bool = False

    @property
    def place(self) -> str:
        """How others name it: owner/name or owner/name/folder."""
        return self.repository if self.subfolder is None else f"{self.repository}/{self.subfolder}"


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
    path = user_path(source)
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


def fetch_dataset_files(repository: str, names: Sequence[str], *, revision: str | None = None) -> tuple[Path, str]:
    """The local folder of a data set with some of its files, downloaded if need be, all of one commit, and the commit.

    Args:
        repository: owner/name.
        names: the files' names in it.
        revision: a branch, tag or commit; None is its main branch.

    Raises:
        ModelError: they cannot be had; the message has no advice.
    """
    import huggingface_hub

    folder, commit = Path(), revision
    for name in names:
        try:
            path = huggingface_hub.hf_hub_download(repository, name, repo_type="dataset", revision=commit)
        except Exception as error:  # hub, network and gating errors share no ground class
            raise ModelError(f"cannot get {name!r} of the data set {repository!r}: {type(error).__name__}") from error
        folder = Path(path).parents[name.count("/")]
        commit = folder.name  # the cache keeps a folder a commit
    return folder, str(commit)


def fetch_folder(
    repository: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    local_only: bool = False,
    access: HubAccess | None = None,
) -> Path:
    """The local folder of a repository with the files that match, downloaded if need be.

    Args:
        access: how the hub is asked, in place of `local_only`.

    Raises:
        ModelError: it cannot be had.
    """
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(patterns),
            **(access or HubAccess(local_files_only=local_only)).options(),
        )
    except Exception as error:  # hub, network and gating errors share no ground class
        raise unreachable(repository, error) from error
    return Path(folder)


def fetch_base(source: str, access: HubAccess, **options: Any) -> Path:
    """The local folder of a diffusers pipeline on the hub: the files that loading it takes.

    Args:
        options: diffusers' revision, variant and use_safetensors.

    Raises:
        ModelError: it cannot be had.
    """
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(source, **options, **access.options()))
    except Exception as error:  # hub, network and gating errors share no ground class
        raise unreachable(source, error) from error


def fetch_part(source: str, part: str) -> Path | None:
    """The local folder of a part of a diffusers pipeline, None where it has none.

    Raises:
        ModelError: the hub cannot be reached.
    """
    place = locate(source)
    root = place if isinstance(place, Path) else fetch_folder(source, [f"{part}/*"])
    return root / part if (root / part).is_dir() else None


def upload(folder: Path, target: HubTarget) -> str:
    """Upload a folder and return what the hub's client says of the commit; a README that is there already stays.

    Raises:
        ModelError: the hub cannot be reached, or does not take it.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=target.token)
    try:
        made = api.create_repo(target.repository, private=target.private, exist_ok=True, token=target.token)
        described = target.subfolder is not None or api.file_exists(made.repo_id, "README.md", token=target.token)
        return api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            path_in_repo=target.subfolder,
            commit_message=target.message or "Upload a pi-Flow student",
            create_pr=target.create_pr,
            token=target.token,
            ignore_patterns=["README.md"] if described else None,
        )
    except Exception as error:  # hub, network and access errors share no ground class
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise ModelError(
            f"cannot upload to {target.repository!r}: {type(error).__name__} {reason}. `hf auth login` with a token "
            "that may write there, or pass token."
        ) from error


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


def local_path(source: str, *, revision: str | None = None) -> Path | None:
    """The local path of a source, None for a hub id whose files are not on this machine yet.

    Raises:
        ModelError: as `locate`.
    """
    found = locate(source)
    if isinstance(found, Path):
        return found
    from huggingface_hub import try_to_load_from_cache

    names = ("model_index.json", "config.json")
    cached = (try_to_load_from_cache(source, name, revision=revision) for name in names)
    return next((Path(path).parent for path in cached if isinstance(path, str)), None)


def unreachable(source: str, error: Exception) -> ModelError:
    """The error for a hub id whose files cannot be had."""
    return ModelError(
        f"cannot get {source!r} from the model hub: {type(error).__name__}. Without network, download it where there "
        f"is one (`hf download {source} --local-dir FOLDER`; gated models need `hf auth login` and accepted terms) and "
        "pass the folder instead of the id."
    )
