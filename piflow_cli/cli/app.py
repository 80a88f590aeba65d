"""The command line: commands, and the one place where known errors become one message and an exit code."""

import errno
import os
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from piflow_cli import __version__
from piflow_cli.cli import benchmark, console, convert, distill, presets, sample
from piflow_cli.errors import PiflowError

DEBUG = "PIFLOW_DEBUG"
INTERRUPTED = 130
"""What Typer exits with at Ctrl-C; here every failure that is no usage error exits with 1."""

EPILOG = console.examples(
    ("distil the embedded teacher in a few minutes on a CPU", "piflow distill --preset digits-1nfe"),
    ("draw with the student that ships with piflow", "piflow sample 3 7 --num-images 4 --grid"),
    ("measure it beside its teacher", "piflow benchmark --metric fid --teacher-steps 1,4,16"),
)

app = typer.Typer(
    name="piflow",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.result(f"piflow {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Distil flow-matching image models into students of 1 to 8 network evaluations, and sample and measure them.

    Results go to stdout, progress to stderr. Exit codes: 0 done, 1 a known error (one message), 2 wrong usage.
    """


def _add(name: str, command: Callable[..., None], epilog: str) -> None:
    app.command(name, epilog=epilog, no_args_is_help=name != "benchmark")(command)


_add("distill", distill.distill, distill.EPILOG)
_add("sample", sample.sample, sample.EPILOG)
_add("benchmark", benchmark.benchmark, benchmark.EPILOG)
_add("convert", convert.convert, convert.EPILOG)
app.add_typer(presets.app, name="presets")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave by SystemExit: 0 done, 1 a known error, 2 wrong usage.

    Args:
        arguments: without the program's name; None is the process's own.
    """
    try:
        app(arguments, prog_name="piflow")
    except SystemExit as leaving:
        if leaving.code != INTERRUPTED:
            raise
        console.error("interrupted")
    except KeyboardInterrupt:
        console.error("interrupted")
    except Exception as error:
        if os.environ.get(DEBUG) == "1":
            raise
        console.error(explain(error))
    raise SystemExit(1)


def explain(error: Exception) -> str:
    """The message for an exception that ended a command."""
    if isinstance(error, PiflowError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}. Free some space and run the same command again."
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return (
            "out of memory. For distill lower training.micro_batch_size or set training.gradient_checkpointing=true; "
            "for benchmark lower --batch-size."
        )
    return (
        f"{type(error).__name__}: {error}\nThis is a bug in piflow. Run the same command with {DEBUG}=1 to see the "
        "traceback, and report it with the command."
    )


if __name__ == "__main__":
    main()
