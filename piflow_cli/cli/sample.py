"""`piflow sample`: prompts become pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.sample import SampleResult

MAX_PATHS_SHOWN = 12

EPILOG = console.examples(
    ("the student that ships with piflow: a three and a seven", "piflow sample 3 7"),
    ("a grid, one row a class", "piflow sample 0 1 2 3 --num-images 8 --grid --out digits.png"),
    ("a student of your own", "piflow sample 3 --model runs/digits-1nfe --seed 7 --out three.png"),
    ("more evaluations than it was trained for, sharpened", "piflow sample 3 --nfe 4 --temperature auto"),
)


def sample(
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="What to draw; for class models class names or indices.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH|NAME|HUB-ID", help="Student; unset: the one that ships with piflow."),
    ] = None,
    nfe: Annotated[
        int | None, typer.Option("--nfe", metavar="N", help="Network evaluations; unset: what it was trained for.")
    ] = None,
    num_images: Annotated[int, typer.Option("--num-images", metavar="N", help="Pictures a prompt; unset: 1.")] = 1,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Seed of a prompt's first picture, rising by 1; unset: 0.")
    ] = 0,
    substeps: Annotated[
        int | None, typer.Option("--substeps", metavar="N", help="Policy substeps over the whole of time.")
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option("--temperature", metavar="X|auto", help="Sharpening of the policy, 0 to 1; auto: 0.1 (NFE - 1)."),
    ] = None,
    h: Annotated[
        float | None, typer.Option("--h", metavar="X", help="Noise between evaluations: 0 none, inf all new.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE|DIR", help="A .png file, or a folder to add to; unset: samples/.")
    ] = Path("samples"),
    grid: Annotated[bool, typer.Option("--grid", help="One picture of all, a row a prompt.")] = False,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps; unset: auto.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw pictures with a student.

    Each PNG holds its prompt, seed, NFE, model and the version of piflow. Files in a folder are never written over.
    """
    sharpening = parse_temperature(temperature)
    from piflow_cli.engine.sample import sample as draw
    from piflow_cli.engine.sample import save_samples
    from piflow_cli.engine.storage import writable_folder

    writable_folder(out.parent if out.suffix else out)
    with console.meter("sample") as meter:
        result = draw(
            prompts,
            model=model,
            nfe=nfe,
            num_images=num_images,
            seed=seed,
            substeps=substeps,
            temperature=sharpening,
            h=h,
            device=device,
            on_progress=lambda done, total: meter.update(done, total, "pictures"),
        )
    for warning in result.warnings:
        console.warn(warning)
    _print_result(result, save_samples(result, out, grid=grid), as_json=as_json)


def parse_temperature(text: str | None) -> float | Literal["auto"] | None:
    """The value of --temperature. Raises BadParameter unless it is a number or auto."""
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor auto", param_hint="--temperature") from None


def _print_result(result: SampleResult, paths: list[Path], *, as_json: bool) -> None:
    if as_json:
        console.result_json(
            {
                "paths": paths,
                "prompts": result.prompts,
                "seeds": result.seeds,
                "model": result.model,
                "settings": result.settings.model_dump(mode="json"),
                "network_s": result.network_s,
                "policy_s": result.policy_s,
                "warnings": result.warnings,
            }
        )
        return
    for path in paths[:MAX_PATHS_SHOWN]:
        console.result(str(path))
    if len(paths) > MAX_PATHS_SHOWN:
        console.result(f"and {len(paths) - MAX_PATHS_SHOWN} more in {paths[0].parent}")
    count = len(result.images)
    console.result(
        f"{count} picture{'s' * (count != 1)} from {result.model} at {result.settings.nfe} NFE: "
        f"network {seconds(result.network_s)}, policy {seconds(result.policy_s)}"
    )


def seconds(value: float) -> str:
    """A short time with three digits."""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
