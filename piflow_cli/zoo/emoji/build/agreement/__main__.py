"""Compare the order in which feature networks put rows of pictures: the one that ships, and three ImageNet classifiers.

    python -m piflow_cli.zoo.emoji.build.agreement [--work DIR] [--json FILE]

Draws rows of 1,500 pictures by students and teacher (in the work folder, once), makes some of the teacher's worse, and
measures the Fréchet distance of each row to the real pictures in the features of all; then that of 500 real pictures,
damaged by degrees. The classifiers come from packages of PyPI that nothing else needs; without them nothing is drawn.
Prints every row, how many of the orders that are known without a judge each network has right, and Spearman's
coefficient of every two networks.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from piflow_cli.errors import PiflowError
from piflow_cli.io.files import write_atomic
from piflow_cli.io.pictures import to_uint8
from piflow_cli.metrics.detectors.features import mean_and_cov
from piflow_cli.metrics.frechet.fid import fid
from piflow_cli.zoo.emoji.build.__main__ import WORK
from piflow_cli.zoo.emoji.build.agreement.graded import NUM_PICTURES, disorder
from piflow_cli.zoo.emoji.build.agreement.networks import Looks, features_of, networks
from piflow_cli.zoo.emoji.build.agreement.ranks import agreement
from piflow_cli.zoo.emoji.build.agreement.rows import CHANGES, DRAWN, KNOWN, LONGEST, draw_rows, read_row
from piflow_cli.zoo.emoji.build.data.pictures import load_data
from piflow_cli.zoo.emoji.build.features import plain_pictures

ROWS = "agreement"
"""Folder of the drawn rows in the work folder."""


class Judge:
    """The Fréchet distance to the real pictures (M, 3, 64, 64) uint8 in a network's features."""

    def __init__(self, network: Looks, real: Tensor) -> None:
        self.name, self.network = network.name, network
        self.mean, self.cov = mean_and_cov(features_of(network, real))

    def __call__(self, images: Tensor) -> float:
        """Of (N, 3, 64, 64) uint8 pictures."""
        return fid(features_of(self.network, images), self.mean, self.cov)


def scores_of(judge: Judge, folder: Path) -> dict[str, float]:
    """The score of every row."""
    scores = {}
    for name in (*(row.name for row in DRAWN), *CHANGES):
        images = read_row(folder, LONGEST.name if name in CHANGES else name)
        if name in CHANGES:
            images = to_uint8(CHANGES[name](images.float() / 255))
        scores[name] = judge(images)
        print(f"{judge.name}: {name} {scores[name]:.4g}", file=sys.stderr, flush=True)
    return scores


def graded(judge: Judge, real: Tensor) -> str:
    """How many degrees of damage to some real pictures (M, 3, 64, 64) uint8 it puts in order, and which not."""
    chosen = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[:NUM_PICTURES]
    wrong, count = disorder(judge, real[chosen])
    return f"{judge.name}: {count - len(wrong)} of {count} degrees of damage in order" + _listed(map(str, wrong))


def table(scores: dict[str, dict[str, float]]) -> str:
    """All rows by every network, best first by the last, and how far every two agree, over all and the drawn ones."""
    *_, last = scores.values()
    width = max(map(len, last))
    lines = ["  ".join([f"{'row':<{width}}", *(f"{name:>18}" for name in scores)])]
    for name in sorted(last, key=last.get):
        lines.append("  ".join([f"{name:<{width}}", *(f"{found[name]:>18.4g}" for found in scores.values())]))
    for network, found in scores.items():
        wrong = [f"{better} above {worse}" for better, worse in KNOWN if not found[better] < found[worse]]
        lines.append(f"{network}: {len(KNOWN) - len(wrong)} of {len(KNOWN)} known orders right" + _listed(wrong))
    drawn = [row.name for row in DRAWN]
    for what, names in (("rows", list(last)), ("rows that models drew", drawn)):
        for (first, ours), (second, others) in combinations(scores.items(), 2):
            found = agreement([ours[name] for name in names], [others[name] for name in names])
            span = f"{found.rho:.3f} ({found.low:.3f} to {found.high:.3f})"
            lines.append(f"Spearman over {len(names)} {what}, {first} and {second}: {span}")
    return "\n".join(lines)


def _listed(wrong: Iterable[str]) -> str:
    found = "; ".join(wrong)
    return f", not: {found}" if found else ""


def main(arguments: list[str] | None = None) -> int:
    """Draw, measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help=f"folder of the emoji's `data` step (default: {WORK})")
    parser.add_argument("--json", type=Path, help="also write all scores there")
    options = parser.parse_args(arguments)
    work = options.work.expanduser()
    try:
        compared = networks()
        pictures = load_data(work)
        draw_rows(work / ROWS, lambda name: print(f"drawn: {name}", file=sys.stderr, flush=True))
        real = pictures.images[plain_pictures(pictures.emoji)]
        judges = [Judge(network, real) for network in compared]
        scores = {judge.name: scores_of(judge, work / ROWS) for judge in judges}
        if options.json is not None:
            write_atomic(options.json, json.dumps(scores, indent=1) + "\n")
        degrees = [graded(judge, real) for judge in judges]
    except PiflowError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print("\n".join([table(scores), *degrees]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
