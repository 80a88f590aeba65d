"""The command to go on with is the one that was typed, launcher included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from piflow_cli.cli.typed import is_launcher, simplified

SHOW = "import sys; from piflow_cli.cli.typed import typed_command; sys.argv[0] = 'piflow'; print(typed_command())"


@pytest.mark.parametrize(
    ("words", "simple"),
    [
        (["/venv/bin/python", "/venv/bin/torchrun", "--nproc-per-node", "2"], ["torchrun", "--nproc-per-node", "2"]),
        (
            ["/bin/python3.11", "-u", "-m", "torch.distributed.run"],
            ["python", "-m", "torch.distributed.run"],
        ),
        (["/venv/bin/python", "go.py", "distill"], ["python", "go.py", "distill"]),
        (["piflow", "distill"], ["piflow", "distill"]),
    ],
)
def test_interpreters_and_folders_are_left_out(words: list[str], simple: list[str]) -> None:
    assert simplified(words) == simple


def test_a_launcher_holds_the_arguments_of_what_it_starts() -> None:
    own = ["piflow", "distill", "--preset", "a"]
    assert is_launcher(["torchrun", "-m", "piflow_cli", "distill", "--preset", "a"], own)
    assert not is_launcher(["bash", "-c", "something else"], own)


def test_without_a_launcher_it_is_what_this_process_was_given() -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK")}
    command = [sys.executable, "-c", SHOW, "distill", "--out", "a folder"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert shown == "piflow distill --out 'a folder'\n"


def test_under_torchrun_it_starts_with_torchrun(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(SHOW)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "--standalone"]
    command = [*launcher, str(tmp_path / "show.py"), "distill", "--out", "a folder"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = f"python -m torch.distributed.run --nproc_per_node 1 --standalone {tmp_path / 'show.py'} distill"
    assert shown == f"{expected} --out 'a folder'\n"
