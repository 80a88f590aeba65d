"""A child process that runs cases one after the other, and says of each on stdout how it ended."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from fuzz import guard
from fuzz.case import Case, Target


def rng_of(seed: int, target: str, number: int) -> random.Random:
    """The draws of one case, whatever was run before it."""
    return random.Random(f"{seed} {target} {number}")


class Bench:
    """Where cases are run: each in a folder of its own, made anew from what is valid.

    Args:
        root: an empty folder.
        targets: what is attacked, by name.
    """

    def __init__(self, root: Path, targets: dict[str, Target]) -> None:
        self.root, self.targets = root, targets
        self.valid = root / "valid"

    def prepare(self, name: str) -> str | None:
        """Build the valid input of a target and run it; why it does not run, None where it does."""
        if not (self.valid / name).exists():
            (self.valid / name).mkdir(parents=True)
            self.targets[name].build(self.valid / name)
        return self.run(name, None, 0)["fault"]

    def run(self, name: str, rng: random.Random | None, number: int) -> dict[str, Any]:
        """Run a case; without draws the valid one, which has to end well."""
        target, folder = self.targets[name], self.root / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.valid / name, folder / "given", symlinks=True)
        case = Case(folder / "given", folder / "out")
        case.out.mkdir()
        what = target.attack(rng, case.given) if rng is not None else target.usual
        before = guard.listing(folder)
        os.chdir(case.out)
        roots = (case.out, self.root / "tmp", self.root / "home", *((case.given,) if target.writes else ()))
        with guard.watched(*roots) as watch:
            fault, said, words, seconds = guard.fault_of(lambda: target.run(case, what), target.known)
        os.chdir(self.root)
        if fault is None and rng is None and said != "well":
            fault = f"valid input is refused: {words}"
        allowed = tuple(map(str, roots))
        changed = {*before.items()} ^ {*guard.listing(folder).items()} if folder.exists() else {("the case", (0, 0))}
        changed = sorted({path for path, _ in changed if not path.startswith(allowed)})
        others = [*watch.seen, *(f"changed {path}" for path in changed)]
        if fault is None and others:
            fault = f"forbidden: {'; '.join(dict.fromkeys(others))[:400]}"
        return {
            "target": name, "case": number, "fault": fault, "said": said, "seconds": round(seconds, 3),
            "what": str(what)[:400],
        }  # fmt: skip


def main() -> None:
    """Run what stdin asks for: a JSON object of root, seed and a list of (target, first, last)."""
    asked = json.loads(sys.stdin.read())
    sys.dont_write_bytecode = True
    root = Path(asked["root"])
    for name in ("tmp", "home"):
        (root / name).mkdir(exist_ok=True)
    say = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what libraries print goes nowhere
    from fuzz.targets import TARGETS

    guard.install()
    bench = Bench(root, TARGETS)
    for name, first, last in asked["parts"]:
        begun = time.perf_counter()
        problem = bench.prepare(name)
        guard.limit_memory()
        print(
            json.dumps({"target": name, "ready": problem, "seconds": time.perf_counter() - begun}), file=say, flush=True
        )
        for number in range(first, last):
            print(json.dumps({"target": name, "begins": number}), file=say, flush=True)
            ended = bench.run(name, rng_of(asked["seed"], name, number), number)
            print(json.dumps(ended), file=say, flush=True)


if __name__ == "__main__":
    main()
