"""A small benchmark of a student against the real digits."""

from typing import Any

from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.students.load import LoadedStudent

SAMPLES = 30


def measure(student: LoadedStudent | list[LoadedStudent], **changes: Any) -> BenchmarkResult:
    """A small benchmark against the real digits."""
    arguments: dict[str, Any] = {
        "models": student if isinstance(student, list) else [student],
        "samples": SAMPLES,
        "reference": "digits",
        "detector": "digits-cnn",
        "device": "cpu",
    }
    return benchmark(**arguments | changes)
