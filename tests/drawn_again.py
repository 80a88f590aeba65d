"""Requests of the page, and the commands that it shows for them."""

import shlex
from pathlib import Path

from cli_runner import run

from piflow_cli.engine.studio.studio import Studio
from piflow_cli.engine.studio.wanted import Wanted


def assert_same_files(studio: Studio, wanted: Wanted, folder: Path) -> None:
    """Draw a request, and then each of its commands in a folder of its own."""
    drawing = studio.draw(wanted)
    expected = [[path.read_bytes() for path in paths] for paths in drawing.paths]
    commands = list(drawing.commands)
    if drawing.sheet is not None and drawing.sheet_command is not None:
        expected.append([drawing.sheet.read_bytes()])
        commands.append(drawing.sheet_command)
    for i, (command, files) in enumerate(zip(commands, expected, strict=True)):
        program, *arguments = shlex.split(command)
        here = folder / str(i)
        here.mkdir()
        process = run(*arguments, cwd=here)
        assert (program, process.returncode) == ("piflow", 0), process.stderr
        paths = [here / line for line in process.stdout.splitlines() if line.endswith(".png")]
        assert [path.read_bytes() for path in paths] == files, command
