"""`piflow ui`: a page to play with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.cli import console

HOST, PORT = "127.0.0.1", 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EXAMPLES = console.examples(
    ("the embedded students, for this computer alone", "piflow ui"),
    ("a student of your own to begin with", "piflow ui --model runs/emoji-4nfe --out played"),
    (
        "a released FLUX student on a GPU that holds one model at a time",
        "piflow ui --model Lakonik/pi-FLUX.1/gmflux_k8_piid_4step --offload model",
    ),
)


def command(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="What the page begins with, as piflow sample takes it.", show_default=False),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Teacher's folder or hub id. [default: as trained]")] = None,
    out: Annotated[Path, typer.Option(help="The folder that pictures are added to.")] = Path("samples"),
    quantize: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="The base: bnb-8bit, bnb-4bit, torchao-int8, torchao-fp8, or none."),
    ] = None,
    offload: Annotated[
        str, typer.Option(metavar="MODE", help="none, encoders, model, sequential or group: what waits off the GPU.")
    ] = "none",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen at; whoever reaches it may draw, and name folders here.")
    ] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65535)] = PORT,
) -> None:
    """Open a page in the browser: draw, compare students with their teacher, read runs and benchmarks."""
    if find_spec("gradio") is None:
        from piflow_cli.errors import MissingExtraError

        raise MissingExtraError(
            "the page is made with gradio, which is not installed: pip install 'piflow[ui]' (in a clone pip install "
            "'.[ui]')"
        )
    from piflow_cli.cli.playing.serve import serve
    from piflow_cli.engine.students.find import default_student, find_student
    from piflow_cli.engine.studio.studio import Studio
    from piflow_cli.engine.studio.wanted import Opening

    if model is not None:
        find_student(model)
    studio = Studio(Opening(base, device, dtype, quantize, offload), out)
    if host not in LOOPBACK:
        console.warn(f"whoever reaches {host}:{port} may draw here, and have runs of this computer shown")
    serve(studio, model or default_student(), host=host, port=port)
