"""The `piflow` command: its subcommands, and the one place where errors become a message and an exit code."""

import errno
import os
import sys
from typing import Annotated

import typer

from piflow_cli import __version__
from piflow_cli.cli import benchmark, convert, distill, presets, sample
from piflow_cli.cli.processes import PARTNER_ENDED, partner_is_gone, who_says
from piflow_cli.errors import PiflowError

app = typer.Typer(
    name="piflow",
    help="Distil slow flow-matching image models into students of 1 to 8 network evaluations (pi-Flow).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help starts twice as fast
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (distill, sample, benchmark, convert):
    app.command(name=command.__name__.rsplit(".", 1)[1], epilog=command.EXAMPLES)(command.command)
app.add_typer(presets.app, name="presets")

EXIT_KNOWN_ERROR = 1
EXIT_INTERRUPTED = 130
"""What Typer exits with at Ctrl-C; here it is a known error."""


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
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # what matters to a user is said by piflow
    try:
        app(prog_name="piflow")
    except SystemExit as leaving:
        if leaving.code != EXIT_INTERRUPTED:
            raise
        fail("interrupted")
    except PiflowError as error:
        fail(", ".join([str(error), *getattr(error, "__notes__", ())]))
    except KeyboardInterrupt:
        fail("interrupted")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("PIFLOW_DEBUG"):
            raise
        if partner_is_gone(error):  # the one that ended says why
            sys.exit(PARTNER_ENDED)
        fail("\n".join([explain(error), *getattr(error, "__notes__", ())]))


def explain(error: Exception) -> str:
    """The message for an exception that nothing below expected."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}. Free some space and run the same command again."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        return (
            "out of memory. For distill lower training.micro_batch_size or set training.gradient_checkpointing=true; "
            "for sample and benchmark lower --batch-size."
        )
    return (
        f"this is a bug in piflow: {type(error).__name__}: {error}\n"
        "Run again with PIFLOW_DEBUG=1 for the traceback, and please report it."
    )


def fail(message: str) -> None:
    """Print one message to stderr and exit with 1."""
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(f"{who_says()}{message}", err=True)
    sys.exit(EXIT_KNOWN_ERROR)
