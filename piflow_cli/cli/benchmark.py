"""`piflow benchmark`: students beside their teacher, on the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark import BenchmarkResult

EXAMPLES = console.examples(
    ("the embedded students beside their teacher's solvers", "piflow benchmark --metric fid"),
    (
        "one student on two metrics",
        "piflow benchmark --metric fid --metric accuracy --model runs/demo --teacher-steps 1,4,16,128 --samples 2000",
    ),
    (
        "with the papers' detector and statistics",
        "piflow benchmark --metric fid --metric kid --model runs/dit-1nfe --reference imagenet256.npz "
        "--detector inception.pt",
    ),
)
DEFAULT_TEACHER_STEPS = "1,2,4,8,16,32"


def command(
    metrics: Annotated[
        list[str], typer.Option("--metric", help="fid, kid, is, precision-recall or accuracy; repeatable.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Student; repeatable. [default: the embedded ones]", show_default=False),
    ] = None,
    nfe: Annotated[str | None, typer.Option(metavar="N,N,...", help="Evaluations. [default: as trained]")] = None,
    samples: Annotated[int, typer.Option(help="Pictures a row, classes balanced.")] = 5000,
    reference: Annotated[
        str | None, typer.Option(help="Statistics (.npz, .safetensors) or a folder of pictures.", show_default=False)
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="TorchScript Inception, file or URL.", show_default=False)
    ] = None,
    teacher_steps: Annotated[
        str, typer.Option(metavar="N,N,...|none", help="Steps to sample the teacher with.")
    ] = DEFAULT_TEACHER_STEPS,
    solvers: Annotated[
        list[str] | None,
        typer.Option(
            "--solver", help="Teacher's solver: euler, heun, unipc, dpmsolver++; repeatable. [default: euler]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, the same for every row.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures a forward pass.")] = 500,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result; - for stdout.")
    ] = None,
) -> None:
    """Measure students and their teacher's own solvers in one table, on the same noise and classes."""
    from piflow_cli.engine.benchmark import benchmark
    from piflow_cli.engine.models import embedded_students
    from piflow_cli.engine.storage import writable_folder, write_atomic

    if json_file is not None and str(json_file) != "-":
        writable_folder(json_file.parent)
    countdown = console.Countdown()
    with console.progress() as line:
        result = benchmark(
            metrics=metrics,
            models=models or list(embedded_students()),
            nfe=_numbers(nfe, "--nfe"),
            samples=samples,
            reference=reference,
            detector=detector,
            seed=seed,
            batch_size=batch_size,
            device=device,
            teacher_steps=_numbers(None if teacher_steps == "none" else teacher_steps, "--teacher-steps") or (),
            solvers=solvers or ("euler",),
            on_progress=lambda done, total, what: line.update(
                done, total, f"{what}  {countdown.left(done, total)} left"
            ),
        )
    for warning in result.warnings:
        console.warn(warning)
    if json_file is not None and str(json_file) == "-":
        typer.echo(result.to_json())
        return
    _print(result)
    if json_file is not None:
        write_atomic(json_file, result.to_json() + "\n")
        console.note(f"written to {json_file}")


def _numbers(text: str | None, option: str) -> list[int] | None:
    """The whole numbers of `1,2,4`."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of whole numbers such as 1,2,4", param_hint=option) from None


def _print(result: BenchmarkResult) -> None:
    """The table, and what its numbers depend on."""
    with_teacher = any(row.fid_to_teacher is not None for row in result.rows)
    arrows = {"lower": "↓", "higher": "↑"}
    columns = [
        "model",
        "method",
        "NFE",
        *(f"{title} {arrows[result.better[key]]}" for key, title in result.titles.items()),
    ]
    columns += ["ratio to teacher", "FID to teacher"] * with_teacher + ["ms/picture", "policy %"]
    rows = []
    for row in result.rows:
        cells = [row.model, row.method, str(row.nfe), *(f"{row.scores[key]:.4g}" for key in result.titles)]
        if with_teacher:
            cells += [_score(row.fid_ratio), _score(row.fid_to_teacher)]
        total = row.network_s + row.policy_s
        rows.append((*cells, f"{1000 * total:.3g}", f"{100 * row.policy_s / max(total, 1e-12):.0f}"))
    console.print_table(columns, rows, num_left=2)
    measured = f"{result.samples} pictures a row, detector {result.detector}, reference {result.reference}"
    against = f"; the teacher's row to compare with: {', '.join(result.teacher_rows)}" if result.teacher_rows else ""
    typer.echo(f"{measured}, seed {result.seed}{against}")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
