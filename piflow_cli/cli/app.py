"""The `piflow` command: its subcommands, and the one place where errors become a message and an exit code."""

import errno
import os
import sys
import time
from typing import Annotated, NoReturn

import typer

from piflow_cli import __version__
from piflow_cli.cli import benchmark, console, convert, distill, presets, report, sample
from piflow_cli.cli.console import DEBUG, explain
from piflow_cli.cli.playing import ui
from piflow_cli.cli.processes import end_process, partner_is_gone, who_says
from piflow_cli.cli.teacher import check
from piflow_cli.errors import PARTNER_ENDED, PartnerError, PiflowError

app = typer.Typer(
    name="piflow",
    help="Distil slow flow-matching image models into students of 1 to 8 network evaluations (pi-Flow).",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help starts twice as fast
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (distill, sample, benchmark, convert, report, ui):
    app.command(name=command.__name__.rsplit(".", 1)[1], epilog=command.EXAMPLES)(command.command)
app.add_typer(presets.app, name="presets")
app.add_typer(check.app, name="teacher")

EXIT_KNOWN_ERROR = 1
EXIT_INTERRUPTED = 130
"""What Typer exits with at Ctrl-C; here it is a known error."""
PARTNER_SPEAKS_S = 5
"""Seconds that a process whose partner has failed waits before it ends, so that the one that failed ends first."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"piflow {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Distil slow flow-matching image models into students of 1 to 8 network evaluations (pi-Flow)."""


def main() -> None:
    """Run the command line; the console script."""
    console.open_streams()
    console.calm_threads()
    if not os.environ.get(DEBUG):
        console.quiet_libraries()
    code = 0
    try:
        app(prog_name="piflow")
    except SystemExit as leaving:
        code = leaving.code
    except PartnerError:
        end_after_partner()
    except PiflowError as error:
        fail(", ".join([str(error), *getattr(error, "__notes__", ())]))
    except BaseException as error:
        if os.environ.get(DEBUG):
            raise
        if isinstance(error, Exception) and partner_is_gone(error):
            end_after_partner()
        fail("\n".join([explain(error), *getattr(error, "__notes__", ())]))
    if code == EXIT_INTERRUPTED:
        fail("interrupted")
    try:
        sys.stdout.flush()
    except OSError as error:
        console.drop_output()
        if error.errno != errno.EPIPE:  # whoever reads a pipe may leave early
            fail(explain(error))
    end_process(code)


def end_after_partner() -> NoReturn:
    """End a process whose partner has failed, and says why: a launcher that sees it end first ends this one too."""
    time.sleep(PARTNER_SPEAKS_S)
    end_process(PARTNER_ENDED)


def fail(message: str) -> NoReturn:
    """Print one message to stderr and exit with 1."""
    console.mark("error: ", "red")
    console.note(f"{who_says()}{message}")
    end_process(EXIT_KNOWN_ERROR)
