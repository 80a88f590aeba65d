"""Kills a run of several processes again and again, at random moments, and compares it with one that nobody disturbed.

python -m piflow_cli.speed.kills [--kills 30] [--processes 2] [--strategy fsdp2] [--steps 160] [--seed 0] [--folder DIR]

Each life of the run is ended by SIGKILL or SIGTERM to one of its processes, to the launcher or to all of them, while it
starts or some steps later; a checkpoint is due at every step, so that many kills come while one is written. After each,
all processes must end within a minute, and all checkpoints that had their names must be whole. At last the run is let
go on to its end, and everything that it kept is compared with the undisturbed one, its student byte by byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from piflow_cli.engine.distill.resume.checkpoints import CheckpointCard, Checkpoints, read_card
from piflow_cli.engine.distill.resume.verify import ResumeReport, compare_runs
from piflow_cli.formats.run import METRICS
from piflow_cli.io.files import PARTIAL

SETTINGS = (
    "training.batch_size=8",
    "training.micro_batch_size=2",
    "training.checkpoint_every=1",
    "training.preview_every=0",
    "training.teacher_dtype=float32",
    "optimizer.name=adamw",
)
"""Of the embedded digits: steps of a tenth of a second, beside which checkpoints are written most of the time."""
MAX_END_S, MAX_START_S = 60, 180
MAX_LIFE_STEPS = 6
STARTING = 0.2
"""Share of the kills that come before the first step of a life."""


@dataclass(frozen=True)
class Blow:
    """One kill as it was drawn.

    Args:
        number: of the signal.
        target: launcher, all, or the number of a rank.
        steps: taken in this life before; 0 is while it starts.
        delay_s: to wait after these.
    """

    number: signal.Signals
    target: str
    steps: int
    delay_s: float


@dataclass(frozen=True)
class Kill:
    """A kill as it went.

    Args:
        blow: what was done.
        step: the last step that was logged before.
        kept: the newest whole checkpoint afterwards.
        writing: whether a checkpoint was being written.
        ended_s: until all processes had ended.
    """

    blow: Blow
    step: int
    kept: int
    writing: bool
    ended_s: float


def draw(dice: random.Random, *, processes: int) -> Blow:
    """A kill at random."""
    number = dice.choice([signal.SIGKILL, signal.SIGTERM])
    target = dice.choice([*map(str, range(processes)), "launcher", "all"])
    if dice.random() < STARTING:
        return Blow(number, target, 0, dice.uniform(0, 12))
    return Blow(number, target, dice.randint(1, MAX_LIFE_STEPS), dice.uniform(0, 0.3))


class Victim:
    """A run that is started again and again.

    Args:
        run: its folder.
        words: the options of `piflow distill`.
    """

    def __init__(self, run: Path, words: list[str]) -> None:
        self.run, self.words, self.checkpoints = run, words, Checkpoints(run / "checkpoints")

    def start(self) -> psutil.Popen:
        """A new life, in a group of its own."""
        line = [sys.executable, "-m", "piflow_cli", *self.words]
        with self.run.with_suffix(".log").open("ab") as log:
            return psutil.Popen(line, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)

    def step(self) -> int:
        """The last step that was logged."""
        try:
            rows = (self.run / METRICS).read_bytes().splitlines()
        except OSError:
            return 0
        return len(rows)

    def student(self) -> bytes:
        """The file of its student's weights."""
        return (self.run / "student" / "student.safetensors").read_bytes()

    def newest_whole(self) -> int:
        """Step of the newest checkpoint; all that have their names must be whole.

        Raises:
            RuntimeError: one is not.
        """
        for step, path in self.checkpoints.found():
            card = read_card(path)
            if not isinstance(card, CheckpointCard):
                raise RuntimeError(f"the checkpoint of step {step} {card}")
        return self.checkpoints.newest_step()

    def live_and_die(self, blow: Blow) -> Kill | None:
        """One life; None where it came to its end before the blow.

        Raises:
            RuntimeError: it did not start, did not end, or lost something.
        """
        before, old = self.newest_whole(), self._metrics_file()
        launcher = self.start()

        def is_due() -> bool:
            taken = self.step() - before if self._metrics_file() != old else 0
            return launcher.poll() is not None or taken >= blow.steps

        _wait(is_due, MAX_START_S, "begin its steps")
        time.sleep(blow.delay_s)
        ranks, step = _ranks(launcher), self.step()
        writing = blow.steps > 0 and any(self.checkpoints.folder.glob(f"{PARTIAL}*"))  # else of an earlier life
        if launcher.poll() is not None:
            return None
        begun = time.monotonic()
        for process in self._targets(blow, launcher, ranks):
            os.kill(process.pid, blow.number)
        _wait(lambda: launcher.poll() is not None and not _alive(ranks), MAX_END_S, f"end after {blow}")
        ended_s, kept = time.monotonic() - begun, self.newest_whole()
        if kept < before:
            raise RuntimeError(f"the checkpoint of step {before} is lost after {blow}")
        return Kill(blow, step, kept, writing, ended_s)

    def _metrics_file(self) -> int:
        """Which file the metrics are in: a start writes them anew, cut back to its checkpoint."""
        path = self.run / METRICS
        return path.stat().st_ino if path.exists() else 0

    @staticmethod
    def _targets(blow: Blow, launcher: psutil.Process, ranks: dict[str, psutil.Process]) -> list[psutil.Process]:
        if blow.target == "all":
            return [*ranks.values(), launcher]
        return [ranks.get(blow.target, launcher)]

    def finish(self) -> None:
        """Let the run come to its end."""
        launcher = self.start()
        if launcher.wait() != 0:
            raise RuntimeError(f"the run did not end well: see {self.run.with_suffix('.log')}")


def _ranks(launcher: psutil.Process) -> dict[str, psutil.Process]:
    """The processes that a launcher has started, by rank."""
    found = {}
    try:
        for child in launcher.children(recursive=True):
            rank = child.environ().get("RANK")
            if rank is not None:
                found[rank] = child
    except psutil.Error:
        return found
    return found


def _alive(ranks: dict[str, psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(list(ranks.values()), timeout=0)
    return any(process.status() != psutil.STATUS_ZOMBIE for process in alive if process.is_running())


def _wait(ready: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the run did not {what} within {limit_s} s")
        time.sleep(0.005)


def disturb(
    folder: Path, *, kills: int, processes: int, strategy: str, steps: int, seed: int
) -> tuple[list[Kill], ResumeReport]:
    """Kill a run so often; returns the kills, and what it is apart from an undisturbed run.

    Args:
        folder: empty, for both runs.
        kills: how many.
        processes: of the run.
        strategy: ddp or fsdp2.
        steps: of the run.
        seed: of the kills.
    """
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    words = ["distill", "--preset", "digits-1nfe", "--device", "cpu", "--steps", str(steps), *sets]
    words += ["--num-processes", str(processes), "--strategy", strategy]
    straight = Victim(folder / "straight", [*words, "--out", str(folder / "straight")])
    straight.finish()
    victim, dice, found = Victim(folder / "killed", [*words, "--out", str(folder / "killed")]), random.Random(seed), []
    while len(found) < kills:
        kill = victim.live_and_die(draw(dice, processes=processes))
        if kill is None:
            raise RuntimeError(f"the run was done after {len(found)} kills: give it more --steps")
        found.append(kill)
        print(_row(len(found), kill), flush=True)
    victim.finish()
    report, students = compare_runs(straight.run, victim.run, stopped_at=0), [straight.student(), victim.student()]
    if students[0] != students[1]:
        raise RuntimeError(f"the student in {victim.run} is another one than that in {straight.run}")
    return found, report


def _row(number: int, kill: Kill) -> str:
    when = "starting" if kill.blow.steps == 0 else f"step {kill.step}"
    writing = "while writing" if kill.writing else ""
    whom = kill.blow.target if kill.blow.target in ("launcher", "all") else f"rank {kill.blow.target}"
    return (
        f"{number:>3}  {kill.blow.number.name:<8}  {whom:<9}  {when:<9}  {writing:<14} "
        f"kept {kill.kept:>4}  ended in {kill.ended_s:.1f} s"
    )


def main() -> None:
    """Kill, and print what came of it; exit code 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--strategy", choices=["ddp", "fsdp2"], default="fsdp2")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where both runs stay")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        how = {"processes": options.processes, "strategy": options.strategy, "steps": options.steps}
        kills, report = disturb(folder, kills=options.kills, seed=options.seed, **how)
    lost = max((kill.step - kill.kept for kill in kills), default=0)
    print(
        f"{len(kills)} kills, {sum(kill.writing for kill in kills)} while a checkpoint was written; all processes "
        f"ended within {max(kill.ended_s for kill in kills):.1f} s; at most {lost} steps were taken again"
    )
    print(json.dumps({difference.part: difference.largest for difference in report.differences}))
    if not report.is_zero:
        raise SystemExit("the killed run is another one than the undisturbed")


if __name__ == "__main__":
    main()
