"""What README, docs and --help tell people to type is what the program takes; what can run here runs."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_runner import run
from typer.core import TyperGroup

from piflow_cli.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app)
ELSEWHERE = re.compile(
    r"^piflow ui|"
    r"diversity|\.pth|flux|qwen|dit-|runs/|Lakonik|/|\.(txt|toml|pt|npz|csv)\b|num-processes|latents|--compare"
)
"""What needs models, files or machines that are not here, or hundreds of pictures, or stays open until it is closed."""
SHORT = {
    "distill": ["--steps", "1", "--batch-size", "4", "--set", "training.preview_every=0", "--device", "cpu"],
    "benchmark": ["--samples", "20", "--teacher-steps", "1,2"],
    "sample": [],
    "convert": [],
    "presets": [],
    "teacher": [],
}
"""What makes a command short enough for a test."""


def in_blocks() -> set[str]:
    """Command lines of console blocks."""
    found = set()
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found |= {line for line in (line.removeprefix("$ ") for line in lines) if line.startswith("piflow ")}
    return found


def in_sentences() -> set[str]:
    """Code within sentences."""
    plain = (re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL) for page in PAGES)
    return {code for text in plain for code in re.findall(r"`(piflow [^`]+)`", text) if " | " not in code}


def in_help() -> set[str]:
    """Examples of --help."""
    return {
        line.strip()
        for command in walk(COMMANDS)
        for line in (command.epilog or "").splitlines()
        if line.strip().startswith("piflow ")
    }


def walk(command: Any) -> list[Any]:
    """A command and all below it."""
    below = command.commands.values() if isinstance(command, TyperGroup) else ()
    return [command, *(found for child in below for found in walk(child))]


RUN = sorted(line for line in in_blocks() | in_help() if not ELSEWHERE.search(line))


def arguments(line: str) -> list[str]:
    return shlex.split(line.replace("...", "x").split(" > ")[0], comments=True)[1:]


def split(line: str) -> tuple[Any, list[str]]:
    """The command that a line names, and the rest of it."""
    command, rest = COMMANDS, arguments(line)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        name, *rest = rest
        if name == "x":
            break
        assert name in command.commands, f"there is no piflow {name}"
        command = command.commands[name]
    return command, rest


@pytest.mark.parametrize("line", sorted(in_blocks() | in_help()))
def test_every_line_is_one_that_the_program_takes(line: str) -> None:
    command, rest = split(line)
    command.make_context(command.name, rest)


@pytest.mark.parametrize("line", sorted(in_sentences()))
def test_options_in_sentences_exist(line: str) -> None:
    command, rest = split(line)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h", "--install-completion", "--show-completion"}
    assert {word for word in rest if word.startswith("-") and not word.lstrip("-").isdigit()} <= known


def test_lines_are_found() -> None:
    assert len(in_blocks() | in_help()) > 40
    assert len(in_sentences()) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_is_run_exists(page: Path) -> None:
    for name in re.findall(r"python -m (piflow_cli[\w.]*)", page.read_text(encoding="utf-8")):
        assert find_spec(name) is not None, f"{page.name} runs {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`(?:pytest )?(tests/[\w./]+)", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN)
def test_what_can_run_here_runs(line: str, tmp_path: Path) -> None:
    rest = arguments(line)
    short = [] if "--limits" in rest else SHORT[rest[0]]  # it measures nothing, and takes no options of that
    process = run(*rest, *short, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
