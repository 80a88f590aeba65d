"""Prints what limits a student, a line a segment: `engine/benchmark/limits.py` says how it is measured.

python -m piflow_cli.speed.limits [STUDENT] [--samples 32] [--iterations 240]
"""

import argparse

from piflow_cli.engine.benchmark.limits import find_limits
from piflow_cli.engine.students.find import default_student
from piflow_cli.engine.students.load import load_student


def main() -> None:
    """Measure a student and print a line a segment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?", default=None, help="name or folder; default: the embedded one")
    parser.add_argument("--samples", type=int, default=32, help="trajectories")
    parser.add_argument("--iterations", type=int, default=240, help="of the fit of the static policies")
    options = parser.parse_args()
    student = load_student(options.student or default_student(None))
    print("squared error at a segment's end, relative to its length squared")
    print("sigma           teacher, 1 step  student's policy  static policy")
    for row in find_limits(student, samples=options.samples, iterations=options.iterations):
        print(
            f"{row.sigma_src:.3f} to {row.sigma_dst:.3f}  {row.euler:>15.5f}  {row.network:>16.5f}  {row.fitted:>13.5f}"
        )


if __name__ == "__main__":
    main()
