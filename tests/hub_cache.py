"""Repositories in a cache as the hub's client keeps them: a folder a commit, and what branches point to."""

from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_repository(
    cache: Path, repository: str, *, kind: str = "models", commit: str = COMMIT, branch: str = "main"
) -> Path:
    """The folder of a repository's files at a commit, made, with a branch that points to it."""
    folder = cache / f"{kind}--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / branch).write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot


def cached_dataset(cache: Path, repository: str, *, commit: str = COMMIT, branch: str = "main") -> Path:
    """The same of a data set."""
    return cached_repository(cache, repository, kind="datasets", commit=commit, branch=branch)
