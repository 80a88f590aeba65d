"""`piflow ui` before there is a page: what is missing or wrong is said at once."""

import socket
import sys
from pathlib import Path

import pytest
from cli_runner import run


def test_without_gradio_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    process = run("ui", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("error: the page is made with gradio, which is not installed: pip install 'piflow")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "emoji-9nfe"], "emoji-9nfe"),
        (["--out", "a-file"], "a-file"),
        (["--offload", "all"], "offload 'all' is none of"),
        (["--dtype", "int8"], "dtype 'int8' is none of"),
        (["--device", "abacus"], "abacus"),
        (["--port", "0"], "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_said_before_the_page(arguments: list[str], message: str, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra ui")
    (tmp_path / "a-file").touch()
    process = run("ui", *arguments, cwd=tmp_path)
    assert process.returncode != 0
    assert message in process.stderr


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra ui")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = run("ui", "--port", taken.getsockname()[1], cwd=tmp_path)
    assert process.returncode == 2
    assert "cannot be listened at" in process.stderr
