"""Put a run's student among those that ship with the package, its weights in half precision.

python -m piflow_cli.zoo.ship runs/digits-1nfe digits/digits-1nfe
"""

from __future__ import annotations

import argparse
from pathlib import Path

from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import read_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.formats.student import StoredStudent

ZOO = Path(__file__).parent


def ship(run: str, name: str) -> Path:
    """Write the student of a run to students/ in a zoo entry, and return its folder.

    Args:
        run: run or student folder.
        name: zoo entry and name of the student, such as digits/digits-1nfe.

    Raises:
        ModelError: there is no student.
        StorageError: it cannot be written.
    """
    stored, _ = read_student(find_student(run))
    entry, _, student = name.partition("/")
    weights = {key: tensor.half() for key, tensor in stored.weights.items()}
    target = ZOO / entry / "students" / student
    save_student(StoredStudent(card=stored.card, weights=weights), target)
    return target


def main() -> None:
    """Ship the student that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run or student folder")
    parser.add_argument("name", help="ENTRY/NAME, such as digits/digits-1nfe")
    options = parser.parse_args()
    print(ship(options.run, options.name))


if __name__ == "__main__":
    main()
