"""The protocol of a benchmark: all that its numbers depend on and that is no row's own, by name, and a hash of it.

What changes nothing but the order of sums is left out: threads, processes, the device and the size of batches. So are
places: a model, a list of prompts or a reference is known by its content; of a published set that was fetched from the
hub, the commit is said besides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from piflow_cli.engine.benchmark.samplers import teacher_of
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.versions import versions_of
from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.metrics.detectors.features import Reference
from piflow_cli.metrics.moving.stills import SEEN
from piflow_cli.metrics.panel import Seat
from piflow_cli.teachers.text.loading.quantization import library_of

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.gauge import Gauge

LIBRARIES = ("torch", "diffusers", "transformers", "torchmetrics")
DIGITS = 12
"""Of a hash that people compare."""
GUIDANCE = ("guidance", "negative_prompt")
"""What settings of guidance have in their names."""


def protocol_of(
    gauge: Gauge, references: Mapping[Seat, Reference], students: Sequence[LoadedStudent]
) -> dict[str, Any]:
    """The parts of the protocol, by name: JSON.

    Args:
        gauge: what rows were measured with.
        references: what they were compared to.
        students: of the rows.
    """
    compared = {
        metric.name: "the teacher's row of most steps" if metric.reads in gauge.of_rows else _digest(known)
        for metric in gauge.metrics
        if metric.needs_reference and (known := references.get(metric.reads)) is not None
    }
    what, values = students[0].space.identity()
    frames = students[0].space.frames
    return {
        "samples": gauge.samples,
        "seed": gauge.seed,
        "asked for": gauge.subjects.digest(min(gauge.samples, len(gauge.subjects))),
        **({} if gauge.subjects.origin is None else {"prompts": gauge.subjects.origin}),
        what: [str(value) for value in values],
        "pictures": "256 levels, as in a saved file",
        **({"frames": f"{frames}; metrics of pictures see {SEEN}"} if frames > 1 else {}),
        "guidance": _distinct(_guidance(student) for student in students),
        "dtype": _distinct(str(student.dtype).removeprefix("torch.") for student in students),
        "detectors": gauge.panel.described(gauge.metrics),
        "references": compared,
        "groups": {
            metric.name: f"{metric.groups.num_groups} of {metric.groups.group_size}"
            for metric in gauge.metrics
            if metric.groups is not None
        },
        "versions": {
            name: version.partition("+")[0]
            for name, version in versions_of((*LIBRARIES, *_quantizers(students))).items()
        },
    }


def short_hash(parts: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _digest(reference: Reference) -> str:
    """A reference by its content."""
    tensors = {"mean": reference.mean, "cov": reference.cov}
    if reference.features is not None:
        tensors["features"] = reference.features
    return tensors_sha256(tensors)[:DIGITS]


def _guidance(student: LoadedStudent) -> dict[str, Any]:
    """How its teacher is guided."""
    settings = json.loads(teacher_of(student).model_dump_json())
    return {key: value for key, value in settings.items() if any(word in key for word in GUIDANCE)}


def _quantizers(students: Sequence[LoadedStudent]) -> list[str]:
    """The libraries that hold quantised bases."""
    return _distinct(library_of(student.quantization) for student in students if student.quantization != "none")


def _distinct(values: Any) -> list[Any]:
    """Each value once, in order."""
    found: list[Any] = []
    return [value for value in values if value not in found and not found.append(value)]
