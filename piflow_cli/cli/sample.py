"""`piflow sample`: draw pictures with a student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.sample import SampleResult

EXAMPLES = console.examples(
    ("two digits with the embedded 1-NFE student", "piflow sample 3 7"),
    ("a sheet with a row a digit", "piflow sample 0 1 2 3 4 5 6 7 8 9 --num-images 8 --grid --out digits.png"),
    (
        "a class by its name, from a student of your own",
        'piflow sample "golden retriever" --model runs/dit-2nfe --nfe 2 --seed 7',
    ),
)


def command(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw; a class name or index.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Embedded student, student or run folder, or hub id.", show_default=False),
    ] = None,
    nfe: Annotated[int | None, typer.Option(help="Network evaluations. [default: as trained]")] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", help="Pictures a prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first picture; the next ones count on.")] = 0,
    substeps: Annotated[int | None, typer.Option(help="Policy substeps over the whole of time.")] = None,
    temperature: Annotated[
        str | None, typer.Option(metavar="X|auto", help="Sharpening of the policy, 0 to 1, or auto.")
    ] = None,
    h: Annotated[float | None, typer.Option("--h", help="Stochasticity between evaluations; 0 is the ODE.")] = None,
    out: Annotated[Path, typer.Option(help="A .png file, or a folder.")] = Path("samples"),
    grid: Annotated[bool, typer.Option("--grid", help="One picture with a row a prompt.")] = False,
    batch_size: Annotated[int, typer.Option(help="Pictures a forward pass.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw pictures with a student; each PNG carries its prompt, seed, NFE and model."""
    from piflow_cli.engine.sample import sample, save_samples

    _check_writable(out.parent if out.suffix else out)
    countdown = console.Countdown()
    with console.progress() as line:
        result = sample(
            prompts,
            model=model,
            nfe=nfe,
            num_images=num_images,
            seed=seed,
            substeps=substeps,
            temperature=_temperature(temperature),
            h=h,
            batch_size=batch_size,
            device=device,
            on_progress=lambda done, total: line.update(
                done, total, f"{done}/{total} pictures  {countdown.left(done, total)} left"
            ),
        )
    for warning in result.warnings:
        console.warn(warning)
    _report(result, save_samples(result, out, grid=grid), as_json=as_json)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or made, before anything is loaded; nothing is made yet."""
    from piflow_cli.engine.storage import writable_folder

    writable_folder(next(path for path in (folder, *folder.parents) if path.exists()))


def _temperature(text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor auto", param_hint="--temperature") from None


def _report(result: SampleResult, paths: list[Path], *, as_json: bool) -> None:
    if as_json:
        console.print_json(
            {
                "paths": paths,
                "prompts": result.prompts,
                "seeds": result.seeds,
                "model": result.model,
                "sampling": result.settings.model_dump(),
                "network_s": result.network_s,
                "policy_s": result.policy_s,
                "warnings": result.warnings,
            }
        )
        return
    for path in paths:
        typer.echo(path)
    share = 100 * result.policy_s / max(result.network_s + result.policy_s, 1e-9)
    typer.echo(
        f"{len(result.images)} pictures by {result.model} at {result.settings.nfe} NFE: "
        f"network {result.network_s:.2f} s, policy {result.policy_s:.2f} s ({share:.0f}%)"
    )
