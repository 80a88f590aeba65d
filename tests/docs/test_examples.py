"""What README, docs and --help tell people to type is what the program takes; what can run here runs."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import typer
from cli_runner import run

from piflow_cli.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app)
ELSEWHERE = re.compile(r"flux|qwen|dit-|runs/|Lakonik|/|\.(txt|toml|pt|npz|csv)\b|num-processes|latents")
"""What needs models, files or machines that are not here."""
SHORT = {
    "distill": ["--steps", "1", "--batch-size", "4", "--set", "training.preview_every=0", "--device", "cpu"],
    "benchmark": ["--samples", "20", "--teacher-steps", "1,2"],
    "sample": [],
    "convert": [],
    "presets": [],
}
"""What makes a command short enough for a test."""


def in_pages() -> set[str]:
    """Command lines of console blocks and of code within sentences."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found |= {line[2:] for line in lines if line.startswith("$ piflow ")}
        plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        found |= {code for code in re.findall(r"`(piflow [^`]+)`", plain) if " | " not in code}
    return found


def in_help() -> set[str]:
    """Examples of --help."""
    return {
        line.strip()
        for command in walk(COMMANDS)
        for line in (command.epilog or "").splitlines()
        if line.strip().startswith("piflow ")
    }


def walk(command: click.Command) -> list[click.Command]:
    """A command and all below it."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(found for child in below for found in walk(child))]


EXAMPLES = sorted(in_pages() | in_help())


def arguments(line: str) -> list[str]:
    return shlex.split(line.replace("...", "x"), comments=True)[1:]


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_line_is_one_that_the_program_takes(line: str) -> None:
    command, rest = COMMANDS, arguments(line)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, *rest = rest
        assert name in command.commands, f"there is no piflow {name}"
        command = command.commands[name]
    bare = rest in ([], ["x"], ["--install-completion"])  # the name of a command, in a sentence
    if not bare and "--help" not in rest and not isinstance(command, click.Group):
        command.make_context(command.name, rest)


def test_lines_are_found() -> None:
    assert len(EXAMPLES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_is_run_exists(page: Path) -> None:
    for name in re.findall(r"python -m (piflow_cli[\w.]*)", page.read_text(encoding="utf-8")):
        assert find_spec(name) is not None, f"{page.name} runs {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`(?:pytest )?(tests/[\w./]+)", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in EXAMPLES if not ELSEWHERE.search(line) and "[" not in line])
def test_what_can_run_here_runs(line: str, tmp_path: Path) -> None:
    rest = arguments(line)
    if len(rest) < 2 or rest[1] == "x" or any(word.isupper() and len(word) > 2 for word in rest):
        pytest.skip("names a command, or has words to be replaced")
    process = run(*rest, *SHORT[rest[0]], cwd=tmp_path)
    assert process.returncode == 0, process.stderr
