"""Files worth keeping are written whole or not at all: into a temporary name beside the target, then renamed."""

import errno
import glob
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from piflow_cli.errors import StorageError
from piflow_cli.io.bounds import MAX_NAME_BYTES

PARTIAL = ".partial-"
"""Start of the name of what is being written."""
REPLACED = ".replaced-"
"""Start of the name of a folder that is about to be removed, once its successor is in place."""


def writable_folder(folder: Path, *, needed_bytes: int = 0) -> Path:
    """Create a folder if need be and return it.

    Raises:
        StorageError: it cannot be created or written, or its disk has less than `needed_bytes` free.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder.") from None
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StorageError(
            f"{folder} has {free / 1e9:.2f} GB free, but this needs {needed_bytes / 1e9:.2f} GB. "
            "Free some space or choose another folder."
        )
    return folder


def check_folder(folder: Path) -> None:
    """Refuse a place where no folder can be written or made; nothing is made.

    Raises:
        StorageError: a file is in its way, a name on the way is too long, or what is there cannot be written.
    """
    try:
        whole = folder.absolute()
        there = next(path for path in (whole, *whole.parents) if os.path.lexists(path))
        if not os.path.isdir(there):
            raise StorageError(f"cannot write to {folder}: {there} is no folder. Choose another place.")
        for name in whole.relative_to(there).parts:
            _check_name(name)
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot write to {folder}: {_reason(error)}. Choose another folder.") from None


def check_file(path: Path) -> None:
    """Refuse a place where no file can be written; nothing is made.

    Raises:
        StorageError: as `check_folder`, or a folder is in its way.
    """
    try:
        _check_name(path.name)
        if os.path.isdir(path):
            raise StorageError(f"{path} is a folder; name a file.")
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot write {path}: {_reason(error)}. Choose another name.") from None
    check_folder(path.parent)


def _check_name(name: str) -> None:
    """Raise OSError or ValueError for a name that file systems do not take."""
    if "\0" in name:
        raise ValueError("a name holds a NUL character")
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"the name {name[:20]!r}... is longer than {MAX_NAME_BYTES} bytes")


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Raises:
        StorageError: the folder cannot be written, or its disk is full.
    """
    with _written_beside(path, content) as partial:
        os.replace(partial, path)


def write_new(folder: Path, stem: str, suffix: str, content: bytes) -> Path:
    """Write a file whole under the first free name of stem.suffix, stem-2.suffix, ...; returns its path.

    Nothing is written over, whatever other processes write into the folder meanwhile.

    Raises:
        StorageError: the folder cannot be written, or its disk is full.
    """
    for number in itertools.count(1):
        path = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        if os.path.lexists(path):
            continue
        with _written_beside(path, content) as partial:
            try:
                os.link(partial, path)  # unlike a rename it fails where somebody was faster
            except FileExistsError:
                continue
            except OSError:  # a file system without links
                os.replace(partial, path)
            return path
    raise AssertionError


@contextmanager
def _written_beside(path: Path, content: str | bytes) -> Iterator[Path]:
    """Yield the complete content under a temporary name in the folder of `path`, which is removed afterwards.

    Raises:
        StorageError: the folder cannot be written, its disk is full, or the block ends in an OSError.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PARTIAL, delete=False) as file:
            partial = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        yield partial
        fsync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends well, replacing what was there.

    Where the process dies, `target` is as before; dying between the two renames of a replacement leaves the old folder
    under another name, from which `restore_replaced` brings it back.

    Raises:
        StorageError: the place cannot be written, or its disk is full.
    """
    target = target.absolute()  # so that "." has a name and a parent
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        restore_replaced(target)
        remove_partials_of(target)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=PARTIAL, suffix=f"-{target.name}"))
        try:
            os.chmod(partial, 0o777 & ~_umask())
            yield partial
            commit_folder(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error


def commit_folder(partial: Path, target: Path) -> None:
    """Give a complete folder its name, once all that is in it is on the disk.

    Raises:
        OSError: the disk is full or gone; `target` is as before.
    """
    _finish_files(partial)
    _replace(partial, target)


def fsync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; what goes away meanwhile counts as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def restore_replaced(target: Path) -> None:
    """Finish or undo a replacement of `target` that was killed between its two renames."""
    target = target.absolute()
    replaced = target.parent / (REPLACED + target.name)
    if not os.path.lexists(replaced):  # nor where its name would be longer than names can be
        return
    if target.exists():
        _remove(replaced)
    else:
        os.replace(replaced, target)


def remove_partials(folder: Path) -> None:
    """Clear up what interrupted writes left in a folder that nobody else writes to."""
    for path in folder.glob(f"{PARTIAL}*"):
        _remove(path)
    for path in folder.glob(f"{REPLACED}*"):
        restore_replaced(folder / path.name.removeprefix(REPLACED))


def remove_partials_of(target: Path) -> None:
    """Clear up what killed writes to a target left, where nobody else writes to it; others may be in the making."""
    for leftover in target.parent.glob(f"{PARTIAL}{'?' * 8}-{glob.escape(target.name)}"):
        _remove(leftover)


def _replace(partial: Path, target: Path) -> None:
    """Put a complete folder in the place of whatever is at `target`."""
    if not target.exists():
        os.replace(partial, target)
        fsync_folder(target.parent)
        return
    replaced = target.parent / (REPLACED + target.name)
    os.replace(target, replaced)
    os.replace(partial, target)
    fsync_folder(target.parent)
    _remove(replaced)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a name beside `target` for a file that takes its place when the block ends well.

    Raises:
        StorageError: the place cannot be written, or its disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=PARTIAL, suffix=f"-{target.name}") as folder:
            yield Path(folder) / target.name
            _finish_files(Path(folder))
            os.replace(Path(folder) / target.name, target)
            fsync_folder(target.parent)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error


def _finish_files(folder: Path) -> None:
    """Let others read the files below a folder, which safetensors does not, and wait until they are on the disk."""
    for path in (folder, *folder.rglob("*")):
        if path.is_file():
            os.chmod(path, 0o666 & ~_umask())
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            fsync_folder(path)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with all it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
