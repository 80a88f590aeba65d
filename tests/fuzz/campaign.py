"""A campaign: cases shared out over targets, run in child processes that may die, and what came of it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).parents[2]
SILENCE = 90
"""Seconds without a word after which a child is taken to hang where Python cannot interrupt it."""
Part = tuple[str, int, int]
"""A target, its first case, and the one after its last; 0 is the valid one."""
SHARES = {
    "preset": 160, "settings": 160, "plan": 20, "arguments": 40, "picture": 140, "prompts": 100, "captioned": 40,
    "metadata": 40, "table": 20, "tar": 40, "parquet": 30, "classes": 20, "latents": 30, "shards": 20, "reference": 30,
    "detector": 10, "embeddings": 30, "student": 60, "vae student": 10, "check": 40, "convert": 20, "released": 20,
    "adapter": 30, "base": 5, "dit base": 20, "style": 5, "run": 40, "manifest": 20, "resume": 5, "report": 20,
}  # fmt: skip
"""Cases of each target beside those of the others: more of what is read often, and of what is read fast."""


@dataclass
class Report:
    """What a campaign found.

    Args:
        cases: run.
        faults: what no case may do.
        ends: how cases ended, by target.
        seconds: of all cases; `slowest` of one.
    """

    cases: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)
    ends: dict[str, Counter[str]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")

    def add(self, ended: Mapping[str, Any]) -> None:
        """Count a case."""
        name = ended["target"]
        self.cases += 1
        self.ends.setdefault(name, Counter())[ended["said"]] += 1
        self.times[name] = self.times.get(name, 0.0) + ended["seconds"]
        self.slowest = max(self.slowest, (ended["seconds"], f"{name} {ended['case']}"))
        if ended["fault"]:
            self.faults.append(dict(ended))

    def kinds(self) -> list[tuple[int, str, str]]:
        """Faults by what and where they are: number, the first of them, and its words."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for fault in self.faults:
            groups.setdefault(_kind(fault), []).append(fault)
        rows = [
            (len(g), f"{g[0]['target']} {g[0]['case']}", f"{g[0]['fault']} | {g[0]['what']}") for g in groups.values()
        ]
        return sorted(rows, reverse=True)


def _kind(fault: Mapping[str, Any]) -> str:
    words = fault["fault"].split(" ")
    return f"{fault['target']} {words[0]} {words[1] if len(words) > 1 else ''} {words[-1]}"


def shares(total: int, names: Sequence[str] | None = None) -> list[Part]:
    """How many cases each target, or each of some, gets of a total: the parts of a campaign."""
    chosen = {name: SHARES[name] for name in (names or SHARES)}
    whole = sum(chosen.values())
    return [(name, 1, 1 + max(1, round(total * share / whole))) for name, share in chosen.items()]


def run(parts: Sequence[Part], *, seed: int, say: Callable[[str], None] = lambda _: None) -> Report:
    """Run the cases of some parts one after the other.

    A child that dies or hangs in a case has found a fault; the next one goes on after it.
    """
    report, left = Report(), list(parts)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while left:
            left = _child(Path(folder), left, seed, report, say)
    return report


def _child(root: Path, parts: list[Part], seed: int, report: Report, say: Callable[[str], None]) -> list[Part]:
    """Let one child run; what is left to be run after it."""
    environment = {
        **os.environ, "HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "PYTHONHASHSEED": "0",
        "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    for name in ("home", "tmp"):
        (root / name).mkdir(exist_ok=True)
    with (root / "errors.txt").open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "fuzz.worker"], env=environment, cwd=root, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    child.stdin.write(json.dumps({"root": str(root), "seed": seed, "parts": parts}).encode())
    child.stdin.close()
    at: tuple[str, int] | None = None
    seen, finished = {name for name, *_ in parts}, False
    for line in _lines(child.stdout):
        if line is None:
            break
        told = json.loads(line)
        if "ready" in told:
            seen.discard(told["target"])
            if told["ready"]:
                report.add(
                    {
                        "target": told["target"],
                        "case": 0,
                        "fault": told["ready"],
                        "said": "?",
                        "seconds": 0.0,
                        "what": "",
                    }
                )
            say(f"{told['target']}: ready in {told['seconds']:.1f} s" + (f", {told['ready']}" if told["ready"] else ""))
        elif "begins" in told:
            at = told["target"], told["begins"]
        else:
            report.add(told)
            at = (told["target"], -told["case"])
            if told["fault"]:
                say(f"  {told['target']} {told['case']}: {told['fault'][:500]} | {told['what'][:200]}")
    else:
        finished = child.wait() == 0
    child.kill()
    child.wait()
    if finished:
        return []
    why = (root / "errors.txt").read_text(errors="replace")[-400:]
    if at is None:
        raise RuntimeError(f"the child died before its first case: {why}")
    name, number = at[0], abs(at[1])
    if at[1] > 0:
        fault = f"died: the process ended by {child.returncode} {why}"
        report.add({"target": name, "case": number, "fault": fault, "said": "died", "seconds": 0.0, "what": ""})
    place = [part[0] for part in parts].index(name)
    return [(name, number + 1, parts[place][2]), *parts[place + 1 :]]


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines as they come; None, and no more, after a silence."""
    held, descriptor = b"", stream.fileno()
    last = time.monotonic()
    while True:
        ready, _, _ = select.select([descriptor], [], [], 1.0)
        if not ready:
            if time.monotonic() - last > SILENCE:
                yield None
                return
            continue
        last, chunk = time.monotonic(), os.read(descriptor, 1 << 16)
        if not chunk:
            return
        *whole, held = (held + chunk).split(b"\n")
        yield from whole
