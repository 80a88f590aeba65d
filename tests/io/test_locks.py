"""One process at a time: a live owner is named, a dead one loses the lock, one elsewhere is not guessed about."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from piflow_cli.errors import StorageError
from piflow_cli.io.locks import LOCK, FolderLock, Owner

HOLDER = """
import sys, time
from pathlib import Path
from piflow_cli.io.locks import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_live_owner_keeps_the_lock_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with pytest.raises(StorageError, match=rf"in use by another process: process {process.pid} on "):
        FolderLock(tmp_path).acquire()
    os.kill(process.pid, signal.SIGKILL)  # it stays a zombie until it is waited for
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    lock = FolderLock(tmp_path)
    lock.acquire()
    process.wait()
    assert lock.is_held()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_not_taken_twice_by_one_process(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    first.acquire()
    second = FolderLock(tmp_path)
    with pytest.raises(StorageError, match=f"process {os.getpid()} "):
        second.acquire()
    second.release()
    assert first.is_held()


def test_a_number_that_another_process_has_by_now_is_no_owner(tmp_path: Path) -> None:
    owner = replace(Owner.of_this_process(), started="an earlier boot 17")
    (tmp_path / LOCK).write_text(json.dumps(asdict(owner)))
    FolderLock(tmp_path).acquire()


def test_an_owner_on_another_machine_is_refused_with_the_way_out(tmp_path: Path) -> None:
    owner = replace(Owner.of_this_process(), host="elsewhere", pid=2**22 + 1)
    (tmp_path / LOCK).write_text(json.dumps(asdict(owner)))
    with pytest.raises(StorageError, match=rf"on elsewhere.* remove {tmp_path / LOCK}"):
        FolderLock(tmp_path).acquire()
    (tmp_path / LOCK).unlink()
    FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"host": 1', "\0" * 90])
def test_a_damaged_lock_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(StorageError, match=rf"remove {tmp_path / LOCK}"):
        FolderLock(tmp_path).acquire()


def test_of_many_that_find_a_dead_owner_one_gets_the_lock(tmp_path: Path) -> None:
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        (folder / LOCK).write_text(json.dumps(asdict(replace(Owner.of_this_process(), started="earlier"))))

        def take(_: int, folder: Path = folder) -> bool:
            try:
                FolderLock(folder).acquire()
            except StorageError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(8))) == 1


def test_a_lock_lost_with_its_folder_is_not_held(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder)
    lock.acquire()
    (folder / LOCK).unlink()
    assert not lock.is_held()
    lock.release()
