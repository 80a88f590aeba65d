"""Options of `piflow benchmark` beside each other, and files that cannot be written when all is measured."""

from pathlib import Path

import pytest
from cli_runner import run

from piflow_cli.errors import StorageError


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--tolerance", 0.1], "'--tolerance': is what --limits calls good enough"),
        (["--teacher-steps", "none", "--solver", "heun"], "'--solver': is of the teacher's rows"),
        (["--seeds", "0-2", "--intervals", 5], "'--intervals': leaves out parts of one seed's pictures"),
        (["--report", "a.html", "--json", "../{here}/a.html"], "'--report': names the same file as --json"),
    ],
)
def test_what_others_leave_without_effect_is_refused(asked: list[object], said: str, tmp_path: Path) -> None:
    asked = [str(one).format(here=tmp_path.name) for one in asked]
    process = run("benchmark", "--metric", "fid", "--model", "digits-1nfe", "--samples", 20, *asked, cwd=tmp_path)
    assert process.returncode == 2
    assert said in " ".join(process.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_no_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The table is there before files are written."""

    def full(path: Path, _content: str | bytes) -> None:
        raise StorageError(f"cannot write {path}: No space left on device")

    for module in ("piflow_cli.engine.report.scores", "piflow_cli.io.files"):  # the former imports the latter
        monkeypatch.setattr(f"{module}.write_atomic", full)
    options = [
        "--metric",
        "accuracy",
        "--model",
        "digits-1nfe",
        "--samples",
        20,
        "--teacher-steps",
        "none",
        "--no-cache",
    ]
    for written in (["--json", "a.json"], ["--report", "a.html"]):
        process = run("benchmark", *options, *written, cwd=tmp_path)
        assert process.returncode == 1
        assert "No space left on device" in process.stderr
        assert process.stdout.startswith("model ")
