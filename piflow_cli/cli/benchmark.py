"""`piflow benchmark`: students beside their teacher, in one table from the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli import registry
from piflow_cli.cli import console
from piflow_cli.cli.sample import seconds

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark import BenchmarkResult
    from piflow_cli.engine.gauge import BenchmarkRow

STDOUT = "-"

EPILOG = console.examples(
    ("the student that ships with piflow, beside its teacher", "piflow benchmark --metric fid --teacher-steps 1,4,16"),
    (
        "two students at several NFE, on two metrics",
        "piflow benchmark --metric fid --metric accuracy --model runs/a --model runs/b --nfe 1,2,4",
    ),
    ("the teacher's other solvers", "piflow benchmark --teacher-steps 4,8 --solver heun --solver unipc"),
    (
        "ImageNet: the detector and the reference of the papers",
        "piflow benchmark --model runs/dit-1nfe --samples 50000 --detector inception-2015-12-05.pt "
        "--reference VIRTUAL_imagenet256_labeled.npz --json fid.json",
    ),
)


def benchmark(
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="|".join(registry.names("metric")), help="May be repeated; unset: fid."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="PATH|NAME|HUB-ID", help="May be repeated; unset: the student that ships with piflow."
        ),
    ] = None,
    nfe: Annotated[
        str | None, typer.Option("--nfe", metavar="N,N,...", help="Evaluations; unset: what each was trained for.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", metavar="N", help="Pictures a row; unset: 5000.")] = 5000,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="STATS|FOLDER", help="What pictures are compared to; unset: the digits."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", metavar="FILE|URL", help="TorchScript feature network; unset: the digits' own."),
    ] = None,
    teacher_steps: Annotated[
        str | None, typer.Option("--teacher-steps", metavar="N,N,...", help="Also measure the teacher at these steps.")
    ] = None,
    solvers: Annotated[
        list[str] | None,
        typer.Option(
            "--solver", metavar="NAME", help="Teacher's solver: euler, heun, unipc, dpmsolver++; may be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of noise and subsets; unset: 0.")] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Pictures a forward pass; unset: 256.")
    ] = 256,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps; unset: auto.")
    ] = "auto",
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON; - prints it instead.")
    ] = None,
) -> None:
    """Measure students, and their teacher's own solvers, on the same noise and balanced classes.

    Scores compare only at the same number of pictures, with the same detector and the same reference: the table says
    them. The embedded students are measured by a small digit classifier, which is no Inception FID.
    """
    evaluations, steps = parse_counts(nfe, "--nfe"), parse_counts(teacher_steps, "--teacher-steps")
    from piflow_cli.engine.benchmark import benchmark as measure
    from piflow_cli.engine.models import DEFAULT_STUDENT
    from piflow_cli.engine.storage import writable_folder, write_atomic

    if json_file not in (None, STDOUT):
        writable_folder(Path(json_file).parent)
    with console.meter("benchmark") as meter:
        result = measure(
            metrics=metrics or ["fid"],
            models=models or [DEFAULT_STUDENT],
            nfe=evaluations or None,
            samples=samples,
            reference=reference,
            detector=detector,
            seed=seed,
            batch_size=batch_size,
            device=device,
            teacher_steps=steps,
            solvers=solvers or ["euler"],
            on_progress=meter.update,
        )
    for warning in result.warnings:
        console.warn(warning)
    if json_file == STDOUT:
        console.result(result.to_json())
        return
    console.result(result_table(result))
    if json_file is not None:
        write_atomic(Path(json_file), result.to_json() + "\n")
        console.note(f"wrote {json_file}")


def parse_counts(text: str | None, option: str) -> list[int]:
    """The numbers of `1,2,4`. Raises BadParameter unless all are whole numbers."""
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of whole numbers such as 1,2,4", param_hint=option) from None


def result_table(result: BenchmarkResult) -> str:
    """The table, and below it what its numbers depend on."""
    beside_teacher = any(row.fid_to_teacher is not None for row in result.rows)
    headings = ["model", "method", "NFE", *result.titles.values()]
    headings += ["FID to teacher", "FID ratio"] * beside_teacher + ["network", "policy"]
    rows = [_cells(row, result, beside_teacher=beside_teacher) for row in result.rows]
    text = console.table(headings, rows, right=range(2, len(headings)))
    directions = [f"{title}: {result.better[column]} is better" for column, title in result.titles.items()]
    size = f" ({result.reference_samples:,} pictures)" if result.reference_samples else ""
    notes = [
        f"{result.samples:,} pictures a row from the same noise (seed {result.seed}) on {result.device}; "
        "times are for one picture",
        f"features of {result.detector}; reference {result.reference}{size}",
        "; ".join(directions),
    ]
    if beside_teacher:
        notes.append(f"FID to teacher and FID ratio: to {', '.join(result.teacher_rows)}")
    return text + "\n\n" + "\n".join(notes)


def _cells(row: BenchmarkRow, result: BenchmarkResult, *, beside_teacher: bool) -> list[str]:
    """A row of the table, as text."""
    scores = [_score(row.scores.get(column)) for column in result.titles]
    beside = [_score(row.fid_to_teacher), _score(row.fid_ratio)] * beside_teacher
    name = f"{row.model} (teacher)" if row.kind == "teacher" else row.model
    return [name, row.method, str(row.nfe), *scores, *beside, seconds(row.network_s), seconds(row.policy_s)]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"
