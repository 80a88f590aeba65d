"""`piflow benchmark`: students beside their teacher, on the same noise and the same classes or prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from piflow_cli.cli import console
from piflow_cli.cli.benchmarking import examples
from piflow_cli.cli.benchmarking.comparing import print_comparison
from piflow_cli.cli.benchmarking.ignored import refuse_beside, refuse_without_effect
from piflow_cli.cli.benchmarking.limits import print_limits
from piflow_cli.cli.benchmarking.page import write_page
from piflow_cli.cli.benchmarking.table import print_result
from piflow_cli.cli.numbers import parse_numbers, parse_seeds
from piflow_cli.cli.processes import NumProcesses, start_processes
from piflow_cli.cli.report import check_page

EXAMPLES = examples.EXAMPLES
METRICS = "What to measure, such as fid or clip-score; MODEL: folder or hub id of its own network. Repeatable."
STDOUT = "-"
DEFAULT_TEACHER_STEPS = "1,2,4,8,16,32"
USUAL_PARTS = 20
USUAL_SAMPLES = 5000


def command(
    context: typer.Context,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME[=MODEL]", help=METRICS, show_default=False)
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Student; repeatable. [default: the embedded ones]", show_default=False),
    ] = None,
    nfe: Annotated[str | None, typer.Option(metavar="N,N,...", help="Evaluations. [default: as trained]")] = None,
    h: Annotated[
        str | None,
        typer.Option(
            "--h", metavar="H,H,...", help="Stochasticity between evaluations; 0 is the ODE. [default: as trained]"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A paper's protocol, its figures beside yours: paper-flux, paper-qwen, paper-imagenet."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Pictures a row, of classes or prompts in turn. [default: 5000]")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Prompts for text-to-image students: .txt, .jsonl (with `label` for accuracy), .csv, .parquet, a "
            "folder, OWNER/NAME on the hub, or a published set, NAME or NAME:PATH.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Statistics (.npz, .safetensors), a folder of pictures, or `teacher`.", show_default=False),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="`pixels`, a vision model (folder or hub id), or TorchScript Inception, file or URL.",
            show_default=False,
        ),
    ] = None,
    teacher_steps: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...|none", help=f"Steps to sample the teacher with. [default: {DEFAULT_TEACHER_STEPS}]"
        ),
    ] = None,
    solvers: Annotated[
        list[str] | None,
        typer.Option(
            "--solver", help="Teacher's solver: euler, heun, unipc, dpmsolver++; repeatable. [default: euler]"
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,KIND,...",
            help="Bases of text-to-image students, a row each: none, bnb-8bit, bnb-4bit, torchao-int8, torchao-fp8.",
        ),
    ] = None,
    intervals: Annotated[
        int, typer.Option(metavar="N", help="Parts of the pictures left out in turn for the intervals of 95%; 0: none.")
    ] = USUAL_PARTS,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the noise, the same for every row. [default: 0]", show_default=False),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N-N,...", help="Several of them, such as 0-4: means over seeds, with intervals between them."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a forward pass. [default: by their size]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    num_processes: NumProcesses = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Draw the teacher's rows anew, and keep nothing of them.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write a page: table, plots, pictures."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result; - for stdout.")
    ] = None,
    compared: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="A.json B.json",
            help="Measure nothing: say what differs between two results, in protocol and beyond noise.",
            show_default=False,
        ),
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|PRESET",
            help="Before any training: the least error of each policy, size and --nfe on its teacher's trajectories.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="What --limits calls good enough.")] = 1e-3,
) -> None:
    """Measure students and their teacher's own solvers in one table, on the same noise and classes or prompts."""
    from piflow_cli.io.files import check_file

    if json_file is not None and str(json_file) != STDOUT:
        check_file(json_file)
    if compared is not None:
        refuse_beside("--compare", context, with_it={"compared", "json_file"})
        _compare(compared, json_file)
        return
    if limits is not None:
        refuse_beside(
            "--limits", context, with_it={"limits", "nfe", "tolerance", "seed", "device", "dtype", "json_file"}
        )
        _limit(limits, parse_numbers(nfe, "--nfe"), tolerance, seed or 0, device, dtype, json_file=json_file)
        return
    if not metrics and recipe is None:
        raise typer.BadParameter("say what to measure, such as --metric fid", param_hint="'--metric'")
    if report is not None:
        check_page(report, option="--report")
    several = None if seeds is None else parse_seeds(seeds)
    chosen = {"nfe": parse_numbers(nfe, "--nfe"), "h": parse_numbers(h, "--h", float)}
    steps = () if teacher_steps == "none" else parse_numbers(teacher_steps, "--teacher-steps")
    asked = {"metrics": metrics, "samples": samples, "prompts": prompts, "reference": reference, "detector": detector}
    asked["teacher_steps"] = steps
    paper = None
    if recipe is not None:
        from piflow_cli.engine.benchmark.papers.recipes import recipe_of

        paper = recipe_of(recipe)
    asked = _with_defaults(asked) if paper is None else paper.options(**asked)
    written = {"report": report, "json_file": json_file}
    refuse_without_effect(context, teacher_steps=asked["teacher_steps"], seeds=several, **written)
    start_processes(num_processes)
    from piflow_cli.engine.benchmark import benchmark
    from piflow_cli.engine.benchmark.drawn.cache import RowCache
    from piflow_cli.engine.benchmark.showing.album import Album
    from piflow_cli.engine.processes.together import joined

    countdown, album = console.Countdown(), None if report is None else Album()
    with joined(device) as (together, own_device), console.progress(shown=together.is_main) as line:
        result = benchmark(
            models=models,
            intervals=intervals,
            seed=seed or 0,
            seeds=several,
            batch_size=batch_size,
            device=own_device,
            dtype=dtype,
            solvers=solvers or ("euler",),
            quantize=[] if quantize is None else [kind.strip() for kind in quantize.split(",")],
            album=album,
            cache=None if no_cache else RowCache(),
            together=together,
            on_progress=lambda done, total, what: line.update(done, total, countdown.words(what, done, total)),
            **chosen,
            **asked,
        )
    if together.is_main:
        result = result if paper is None else paper.beside(result)
        for warning in result.warnings:
            console.warn(warning)
        _show(result.to_json(), json_file, lambda: print_result(result))
        if report is not None:
            write_page(result, album, report)
            console.note(f"written to {report}")


def _with_defaults(asked: dict[str, Any]) -> dict[str, Any]:
    """Options of a benchmark by no paper's protocol."""
    steps = parse_numbers(DEFAULT_TEACHER_STEPS, "--teacher-steps")
    usual = {"samples": USUAL_SAMPLES, "teacher_steps": steps}
    return asked | {key: value for key, value in usual.items() if asked[key] is None}


def _compare(files: tuple[Path, Path], json_file: Path | None) -> None:
    """What two files of results say of each other, or JSON, or both."""
    from piflow_cli.engine.benchmark.proof.compare import compare, read_table

    first, second = (read_table(file) for file in files)
    found = compare(first, second)
    _show(found.to_json(), json_file, lambda: print_comparison(found, *files))


def _limit(
    source: str,
    nfe: list[int] | None,
    tolerance: float,
    seed: int,
    device: str,
    dtype: str,
    *,
    json_file: Path | None,
) -> None:
    """What limits the students of a teacher, or JSON, or both."""
    from piflow_cli.engine.benchmark.floors.source import USUAL_NFE, limits_of

    options = {"nfe": nfe or USUAL_NFE, "tolerance": tolerance, "seed": seed, "device": device, "dtype": dtype}
    with console.progress() as line:
        countdown = console.Countdown()
        found = limits_of(
            source,
            **options,
            on_progress=lambda done, total, what: line.update(done, total, countdown.words(what, done, total)),
        )
    _show(found.to_json(), json_file, lambda: print_limits(found))


def _show(text: str, json_file: Path | None, print_table: Callable[[], None]) -> None:
    """JSON on stdout if asked for there; else the table, and only then a file: a full disk costs no numbers."""
    from piflow_cli.io.files import write_atomic

    if str(json_file) == STDOUT:
        typer.echo(text)
        return
    print_table()
    if json_file is not None:
        write_atomic(json_file, text + "\n")
        console.note(f"written to {json_file}")
