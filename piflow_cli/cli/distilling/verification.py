"""What `piflow distill --verify-resume` does: runs in processes of their own, then a table of what differs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from piflow_cli.cli import console
from piflow_cli.errors import PiflowError, PresetError, TrainingError

if TYPE_CHECKING:
    from piflow_cli.engine.distill.resume.verify import ResumeReport
    from piflow_cli.preset import Preset

MAX_STEPS = 10**9
"""More than any run has."""
MICRO_BATCHES = (
    " The order of the data stays where micro-batches can stay: set training.micro_batch_size to a number that divides "
    "each process's share of the batch."
)
SAME = "data, batch, draws and schedules are the same"


@dataclass(frozen=True)
class Line:
    """A run as `piflow distill` takes it.

    Args:
        preset: name or file.
        settings: as --set takes them, all that were asked for.
        device, strategy: as typed.
        num_processes: of this machine.
    """

    preset: str
    settings: Sequence[str]
    device: str
    strategy: str
    num_processes: int

    def words(self, out: Path, *, stop_after: int, num_processes: int) -> list[str]:
        """The command line of one part, which saves at its end alone."""
        quiet = (f"training.checkpoint_every={MAX_STEPS}", "training.preview_every=0")
        sets = [part for setting in (*self.settings, *quiet) for part in ("--set", setting)]
        line = ["distill", "--preset", self.preset, *sets, "--device", self.device, "--out", str(out)]
        line += ["--stop-after", str(stop_after), "--strategy", self.strategy]
        return line + (["--num-processes", str(num_processes)] if num_processes > 1 else [])


def verify_resume(line: Line, recipe: Preset, *, steps: int, then: int | None, out: Path, as_json: bool) -> None:
    """Run 2 x `steps` steps straight, and `steps`, save, load in a new process and `steps` more; say what differs.

    Args:
        line: the run.
        recipe: what it resolves to.
        steps: K.
        then: processes of the part that goes on; None is as before.
        out: beside it is where the runs are kept meanwhile, and left where they differ.
        as_json: print one JSON object.

    Raises:
        PresetError: the recipe has fewer steps.
        TrainingError: the runs differ where they must not.
    """
    from piflow_cli.engine.distill.resume.verify import compare_runs

    if recipe.training.steps < 2 * steps:
        raise PresetError(
            f"--verify-resume {steps} takes {2 * steps} steps and training.steps is {recipe.training.steps}: raise "
            "--steps, or verify fewer"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{out.name}-verify-resume-", dir=out.parent))
    straight, resumed, first = folder / "straight", folder / "resumed", line.num_processes
    parts = [(straight, 2 * steps, first), (resumed, steps, first), (resumed, 2 * steps, then or first)]
    for number, (run, last, processes) in enumerate(parts, 1):
        console.note(f"run {number} of {len(parts)}: to step {last} in {run}")
        _run(line.words(run, stop_after=last, num_processes=processes))
    report = compare_runs(straight, resumed, stopped_at=steps)
    _show(report, as_json=as_json)
    _judge(report, device=line.device, folder=folder)
    shutil.rmtree(folder)


def _run(words: list[str]) -> None:
    """Run piflow in a new process; it says itself what was wrong, and this one ends as it did."""
    ended = subprocess.run([sys.executable, "-m", "piflow_cli", *words], stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise typer.Exit(ended.returncode if ended.returncode > 0 else 1)


def _show(report: ResumeReport, *, as_json: bool) -> None:
    if as_json:
        console.print_json(asdict(report) | {"zero": report.is_zero, "keeps_order": report.keeps_order})
        return
    first, then = (
        f"{count} process{'es' * (count != 1)}{', sharded' * sharded}"
        for count, sharded in zip(report.num_processes, report.sharded, strict=True)
    )
    how = first if report.same_processes else f"{first}, gone on with on {then}"
    typer.echo(f"{report.steps} steps straight beside a stop and a new start after {report.stopped_at}; {how}\n")
    rows = [[d.part, d.compared, d.where, f"{d.largest:.3g}"] for d in report.differences]
    console.print_table(["part", "compared", "in", "largest difference"], rows, num_left=3)
    typer.echo()


def _judge(report: ResumeReport, *, device: str, folder: Path) -> None:
    """Say what the differences mean.

    Raises:
        TrainingError: the runs differ where they must not.
    """
    from piflow_cli.engine.students.device import resolve_device

    kept = f"Both runs are kept in {folder}."
    if not report.keeps_order:
        wrong = ", ".join(d.part for d in report.differences if d.exact and d.largest)
        advice = "" if report.same_processes else MICRO_BATCHES
        raise TrainingError(f"the run that went on is another one, by its {wrong}.{advice} {kept}")
    if report.is_zero:
        console.note("nothing differs")
    elif not report.same_processes:
        console.note(f"{SAME}; weights differ by the order in which sums are taken")
    elif resolve_device(device).type == "cpu":
        raise TrainingError(f"the run that went on is another one, on a CPU where nothing may differ. {kept}")
    else:
        console.note(f"{SAME}; a GPU may take sums in another order every time")


def check_verify(*, plan: bool, cache_only: bool, num_machines: int, started: bool) -> None:
    """Refuse what a verification cannot be combined with.

    Raises:
        PiflowError: it was.
    """
    if plan or cache_only:
        raise PiflowError("--verify-resume runs a few steps; leave out --plan and --cache-only")
    if num_machines > 1 or started:
        raise PiflowError(
            "--verify-resume starts its own processes, on one machine: leave out the launcher and --num-machines, "
            "and say --num-processes N"
        )
