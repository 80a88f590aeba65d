"""Runs the command line in this process, as the console script does, and catches what it prints and how it ends."""

import contextlib
import io
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from piflow_cli.cli.app import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: object, cwd: Path) -> Ended:
    """Run piflow with `arguments` in the folder `cwd`; an exception that leaves `main` fails the test."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = ["piflow", *map(str, arguments)]
    with (
        warnings.catch_warnings(),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        mock.patch.object(sys, "argv", argv),
    ):
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code
        finally:
            logging.disable(logging.NOTSET)
    return Ended(returncode=int(code or 0), stdout=stdout.getvalue(), stderr=stderr.getvalue())
