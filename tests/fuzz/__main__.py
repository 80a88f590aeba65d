"""Run a campaign from the command line: `PYTHONPATH=.:tests python -m fuzz --cases 20000`."""

from __future__ import annotations

import argparse
import sys
import time

from fuzz import campaign


def main() -> int:
    """Exit code 1 where a fault was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Attack what piflow reads, and count faults.")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--case", type=int, help="only this case of the target")
    asked = parser.parse_args()
    begun = time.monotonic()
    if asked.case is None:
        parts = campaign.shares(asked.cases, asked.target)
    else:
        parts = [(name, asked.case, asked.case + 1) for name in asked.target or ()]
    report = campaign.run(parts, seed=asked.seed, say=lambda words: print(words, file=sys.stderr, flush=True))
    for name, ends in report.ends.items():
        print(f"{name:12} {report.times[name]:7.1f} s  " + ", ".join(f"{n} {end}" for end, n in ends.most_common(6)))
    for number, first, words in report.kinds():
        print(f"\n{number} x, first {first}: {words}")
    slow = f"the slowest {report.slowest[0]:.1f} s ({report.slowest[1]})"
    print(f"\n{report.cases} cases in {time.monotonic() - begun:.0f} s, {slow}, {len(report.faults)} faults")
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
