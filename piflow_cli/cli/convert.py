"""`piflow convert`: write a student in another format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.convert.check import CheckResult
    from piflow_cli.engine.convert.convert import ConvertResult
    from piflow_cli.engine.convert.publish import Publication

EXAMPLES = console.examples(
    ("the authors' layout, proved by outputs", "piflow convert runs/dit-1nfe released/ --to lakonlab --verify"),
    (
        "take from a preset what a released file leaves open",
        "piflow convert released.safetensors mine/ --to native --preset dit-1nfe",
    ),
    ("one file for ComfyUI-piFlow", "piflow convert runs/flux-4nfe pi-flux.safetensors --to comfyui"),
    (
        "a transformer that needs no LoRA, compared with the adapter on its base",
        "piflow convert runs/flux-4nfe merged/ --to merged --base models/FLUX.1-dev --verify",
    ),
    (
        "upload it with a model card: pictures, scores, how to use it, base and licence",
        "piflow convert runs/flux-4nfe --push-to-hub OWNER/NAME --license apache-2.0",
    ),
    ("whether a student is still whole; nothing is written", "piflow convert runs/flux-4nfe --verify"),
)


def command(
    src: Annotated[
        str, typer.Argument(help="Student or run folder, RUN@STEP, released weight file, embedded name or hub id.")
    ],
    dst: Annotated[
        Path | None,
        typer.Argument(
            help="Folder to write, or .safetensors file for comfyui; it must not exist.", show_default=False
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="native|lakonlab|comfyui|merged", help="Format to write.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read it back; compare every tensor, and outputs where the base is at hand. "
            "Without DST and --to: check SRC as it is, by its checksums.",
        ),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(metavar="PATH|ID", help="Base of an adapter: to merge into it, and to compare outputs on it."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset that a released student was trained by, where its files do not say it.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float32|bfloat16|float16", help="Of merged weights. [default: the base's]"),
    ] = None,
    device: Annotated[str, typer.Option(help="Where outputs are compared: auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace a student that is at DST.")] = False,
    readme: Annotated[bool, typer.Option("--readme", help="Write a model card beside the files of a folder.")] = False,
    hub: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub", metavar="OWNER/NAME", help="Upload it with a model card; --to is native if left out."
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A repository that is made is private.")] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Picture for the model card. [default: a run's newest preview]")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="`piflow benchmark --json` for the model card. [default: a run's benchmark.json]"),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="For the model card, as the hub names it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert a student: piflow's folder, the authors' released layout, ComfyUI-piFlow's file, a merged transformer."""
    from piflow_cli.engine.convert import check, convert
    from piflow_cli.engine.convert.publish import Publication

    if dst is None and to is None and verify and hub is None:
        _report_check(check(src, preset=preset, base=base), as_json=as_json)
        return
    if hub is not None:
        to = to or "native"
    elif private or (not readme and (sheet or scores or licence)):
        raise typer.BadParameter("goes with --push-to-hub, or for a model card with --readme", param_hint="--private")
    if hub is None and (dst is None or to is None):
        missing = "DST" if dst is None else "--to"
        raise typer.BadParameter(
            "say where to write and in which format; --verify alone checks SRC", param_hint=missing
        )
    write = partial(
        convert, src, to=to, verify=verify, preset=preset, base=base, dtype=dtype, device=device, force=force
    )
    commit = None
    if readme or hub is not None:
        result, commit = _publish(
            src, write, dst=dst, to=to, hub=hub, private=private, publication=Publication(sheet, scores, licence)
        )
    else:
        result = write(dst)
    for warning in result.warnings:
        console.warn(warning)
    if as_json:
        console.print_json(asdict(result) | ({"commit": commit} if hub is not None else {}))
        return
    place = result.path if commit is None or dst is not None else hub
    typer.echo(f"{place}  ({result.num_tensors} tensors, {result.source_format} to {result.format})")
    _report_proof(result)
    if commit is not None:
        typer.echo(f"uploaded: {commit}")


def _publish(
    src: str,
    write: Callable[[Path], ConvertResult],
    *,
    dst: Path | None,
    to: str,
    hub: str | None,
    private: bool,
    publication: Publication,
) -> tuple[ConvertResult, str | None]:
    """Convert with a model card, and upload."""
    from piflow_cli import registry
    from piflow_cli.engine.convert.publish import publish
    from piflow_cli.io.hub import HubTarget

    suffix = registry.resolve("format", to)().suffix
    if suffix and dst is not None:
        raise typer.BadParameter(
            f"{to} is one file, which has no README beside it: leave out DST and --readme, or name a hub",
            param_hint="DST",
        )
    name = f"{hub.rsplit('/', 1)[-1]}{suffix}" if suffix and hub else None
    target = HubTarget(hub, private=private or None) if hub is not None else None
    return publish(src, write, folder=dst, file_name=name, hub=target, publication=publication)


def _report_check(result: CheckResult, *, as_json: bool) -> None:
    for warning in result.warnings:
        console.warn(warning)
    if as_json:
        console.print_json(asdict(result))
        return
    compared = {
        "files": "every file has its checksum",
        "tensors": "the tensors have their checksum",
        None: "it carries no checksums, so that a changed value that is still a number is not found",
    }
    typer.echo(f"{result.path}  ({result.num_tensors} tensors, {result.format})")
    typer.echo(f"verified: weights are finite and fit the card; {compared[result.checksums]}")


def _report_proof(result: ConvertResult) -> None:
    if result.proof == "outputs":
        share = f" ({100 * result.relative_difference:.2g}% of their size, rms)" if result.max_difference else ""
        typer.echo(f"verified: largest difference of outputs on random input {result.max_difference:.3g}{share}")
    elif result.proof == "tensors":
        typer.echo("verified: every tensor and the card, bit for bit; --base lets outputs be compared too")
