"""Writing whole or not at all, also where the process dies or the disk is bad."""

import os
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_models import gmflow, stored_student

from piflow_cli.engine.students.load import load_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import StorageError
from piflow_cli.io import files as storage
from piflow_cli.io.files import (
    PARTIAL,
    REPLACED,
    atomic_folder,
    check_file,
    check_folder,
    remove_partials,
    restore_replaced,
    writable_folder,
    write_atomic,
    write_new,
)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(PARTIAL)]


def test_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.json"
    write_atomic(target, "old")
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert leftovers(target.parent) == []


def test_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    write_atomic(tmp_path / "ours", "")
    (tmp_path / "folder").mkdir()
    with atomic_folder(tmp_path / "our-folder"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert (tmp_path / "our-folder").stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_folder_appears_complete_and_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    for content in ("old", "new"):
        with atomic_folder(target) as partial:
            assert list(partial.iterdir()) == []
            (partial / content).write_text(content)
            (partial / "sub").mkdir()
            (partial / "sub" / "file").write_text(content)
            assert not (target / content).exists()
        assert (target / "sub" / "file").read_text() == content
    assert sorted(path.name for path in target.iterdir()) == ["new", "sub"]
    assert leftovers(target.parent) == []


def test_folder_may_be_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_folder(Path()) as partial:
        (partial / "file").write_text("new")
    assert (tmp_path / "here" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_folder_keeps_the_old_on_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as partial:
        (partial / "file").write_text("old")
    with pytest.raises(error), atomic_folder(target) as partial:  # noqa: PT012
        (partial / "file").write_text("new")
        raise error
    assert (target / "file").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_folder_that_never_was_stays_absent_on_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic_folder(tmp_path / "folder"):  # noqa: PT011
        raise ValueError
    assert list(tmp_path.iterdir()) == []


KILLED = """
    import sys, time
    from pathlib import Path
    import torch
    import piflow_cli.formats.native as native
    from piflow_cli.engine.students.load import read_student
    from piflow_cli.engine.students.save import save_student

    target, moment = Path(sys.argv[1]), sys.argv[2]
    stored, _ = read_student(target)
    stored.weights = {name: tensor + 1 for name, tensor in stored.weights.items()}

    def wait(*_):
        print("now", flush=True)
        time.sleep(60)

    if moment == "writing":
        import safetensors.torch
        safetensors.torch.save_file = lambda weights, path, **_: (Path(path).write_bytes(b"half"), wait())
    else:
        import piflow_cli.io.files as storage
        storage.os.fsync = wait
    save_student(stored, target)
"""


@pytest.mark.parametrize("moment", ["writing", "syncing"])
def test_kill_in_the_middle_of_a_write_leaves_the_previous_student_loadable(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "student"
    stored = stored_student(gmflow())
    save_student(stored, target)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(target), moment], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "now\n"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert len(leftovers(tmp_path)) == 1
    name = "proj_out_2.means.weight"
    assert (load_student(str(target)).network.module.get_parameter(name) == stored.weights[name]).all()
    save_student(stored, target)  # the next write clears up
    assert leftovers(tmp_path) == []


def test_kill_between_the_two_renames_loses_neither(tmp_path: Path) -> None:
    """Replacing a folder takes two renames; what is between them is a moment, and the old folder is still on disk."""
    target = tmp_path / "folder"
    with atomic_folder(target) as partial:
        (partial / "file").write_text("old")
    script = """
        import os, sys
        from pathlib import Path
        from piflow_cli.io import files as storage
        rename, count = os.replace, []
        def replace(a, b):
            count.append(a)
            if len(count) == 2:
                os.kill(os.getpid(), 9)
            rename(a, b)
        storage.os.replace = replace
        with storage.atomic_folder(Path(sys.argv[1])) as partial:
            (partial / "file").write_text("new")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    with atomic_folder(tmp_path / "another"):
        pass
    restore_replaced(target)
    assert (target / "file").read_text() == "old"
    with atomic_folder(target) as partial:
        (partial / "file").write_text("new")
    assert (target / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "folder"]


def test_a_replacement_killed_before_its_clearing_up_is_finished(tmp_path: Path) -> None:
    for name, content in (("folder", "new"), (f"{REPLACED}folder", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
    restore_replaced(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "new"


def test_a_name_that_is_as_long_as_names_can_be_was_never_replaced(tmp_path: Path) -> None:
    restore_replaced(tmp_path / ("x" * 255))
    assert not list(tmp_path.iterdir())


def test_a_student_left_under_another_name_loads(tmp_path: Path) -> None:
    save_student(stored_student(gmflow()), tmp_path / "run" / "student")
    os.replace(tmp_path / "run" / "student", tmp_path / "run" / f"{REPLACED}student")
    assert load_student(str(tmp_path / "run")).card.steps == 7


def test_leftovers_of_both_kinds_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL}folder").mkdir()
    (tmp_path / f"{PARTIAL}folder" / "file").write_text("")
    (tmp_path / f"{PARTIAL}file").write_text("")
    (tmp_path / "kept").write_text("")
    (tmp_path / f"{REPLACED}student").mkdir()
    remove_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "student"]
    remove_partials(tmp_path / "missing")


def test_a_write_does_not_clear_up_what_another_is_writing(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "one") as one:
        (one / "file").write_text("1")
        with atomic_folder(tmp_path / "two") as two:
            (two / "file").write_text("2")
    assert (tmp_path / "one" / "file").read_text() == "1"
    assert (tmp_path / "two" / "file").read_text() == "2"


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "folder"
    with pytest.raises(StorageError, match="Choose another folder"):
        writable_folder(inside)
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(inside / "x", "")
    with pytest.raises(StorageError, match="cannot write"), atomic_folder(inside):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Permission denied"):
            writable_folder(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_disk_that_is_too_small_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    assert writable_folder(tmp_path / "out", needed_bytes=10**6) == tmp_path / "out"
    with pytest.raises(StorageError, match=r"has 0\.00 GB free, but this needs 1\.50 GB"):
        writable_folder(tmp_path / "out", needed_bytes=15 * 10**8)


def test_a_disk_that_fills_up_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as partial:
        (partial / "file").write_text("old")
    with pytest.raises(StorageError, match="No space left on device"), atomic_folder(target):
        raise OSError(28, "No space left on device")
    assert (target / "file").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_link_is_replaced_and_what_it_points_to_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link") as partial:
        (partial / "file").write_text("new")
    assert (tmp_path / "link" / "file").read_text() == "new"
    assert (tmp_path / "real" / "file").read_text() == "kept"


def test_a_disk_that_fills_up_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_new_files_never_replace_others(tmp_path: Path) -> None:
    names = [write_new(tmp_path, "cat", ".png", bytes([i])).name for i in range(3)]
    assert names == ["cat.png", "cat-2.png", "cat-3.png"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"\0", b"\1", b"\2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_two_writers_of_one_name_keep_both(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda i: write_new(tmp_path, "cat", ".png", bytes([i])), range(32)))
    assert len(set(written)) == 32
    assert {path.read_bytes() for path in written} == {bytes([i]) for i in range(32)}


@pytest.mark.parametrize("name", ["file/below", "x" * 256, "deep/" + "y" * 300 + "/z", "nul\0", "link"])
def test_places_that_cannot_be_written_are_refused_and_nothing_is_made(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match="cannot write"):
        check_folder(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_places_that_can_be_written_are_left_as_they_are(tmp_path: Path) -> None:
    check_folder(tmp_path / "flux-v1.5" / "below")
    check_file(tmp_path / "new" / "a.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="is a folder"):
        check_file(tmp_path)
