"""What students are measured by: prompts, detector and reference, the user's or those that ship for a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from piflow_cli.data.prompt_lists import PromptList, read_prompt_list
from piflow_cli.engine.benchmark.gauge import TEACHER
from piflow_cli.engine.benchmark.questions import Classes, Prompts, Subjects
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.yardstick import EMBEDDED_TEACHERS, Yardstick
from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import Detector, Reference
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.pixels import PIXELS_NAME, PixelDetector
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.metrics.detectors.torchscript import INCEPTION_URL
from piflow_cli.metrics.detectors.vision import VisionDetector
from piflow_cli.metrics.metric import Metric


def embedded(students: Sequence[LoadedStudent]) -> Yardstick | None:
    """The embedded yardstick where every student's teacher is the embedded one it belongs to."""
    found = {EMBEDDED_TEACHERS.get(student.card.teacher.source) for student in students}
    return found.pop() if len(found) == 1 else None


def choose_subjects(listed: PromptList | None, students: Sequence[LoadedStudent]) -> Subjects:
    """What students are asked for: their classes, or the prompts given, or those that ship.

    Args:
        listed: the user's prompts, if any.
        students: at least one; all share classes, or text encoders.

    Raises:
        DataError: prompts for class models, or none for text-to-image students whose teacher has none of its own.
    """
    first = students[0]
    if first.space.num_classes is not None:
        if listed is not None:
            raise DataError(
                f"{first.name} draws classes and takes no prompts; leave them out: its classes are asked for in turn"
            )
        return Classes(first.space.num_classes)
    if listed is None:
        yardstick = embedded(students)
        if yardstick is None or yardstick.prompts is None:
            raise DataError(
                "these students need prompts to be measured by: pass --prompts with a .txt, .jsonl or .parquet file, "
                "or a folder of these"
            )
        listed = read_prompt_list(yardstick.prompts, name=yardstick.reference)
    return Prompts(listed, first.space)


def choose_detector(
    detector: str | None, students: Sequence[LoadedStudent], metrics: Sequence[Metric], *, device: torch.device
) -> Detector:
    """The detector named, or the one that ships, or else pixels.

    Raises:
        DataError: a metric needs a classifier, and the detector is none.
        ModelError: it cannot be loaded.
    """
    yardstick = embedded(students)
    needing = [metric.name for metric in metrics if metric.needs_logits]
    name = detector or (PIXELS_NAME if yardstick is None else yardstick.detector)
    found = load_detector(name, device=device, with_logits=bool(needing))
    if needing and isinstance(found, PixelDetector | VisionDetector):
        raise DataError(
            f"{', '.join(needing)} needs a classifier, and detector {found.name} is none: pass --detector with the "
            f"TorchScript Inception network of the papers, as a file or by its URL {INCEPTION_URL}"
        )
    return found


def choose_reference(
    reference: str | None,
    students: Sequence[LoadedStudent],
    detector: Detector,
    *,
    asked_detector: str | None,
    with_teacher: bool,
) -> Reference | None:
    """The reference named, or the one that ships for the detector that ships; None for the teacher's own longest row.

    Raises:
        DataError: neither, or one that does not fit the detector; the teacher, which is not measured.
    """
    yardstick = embedded(students)
    if reference is None and yardstick is not None and asked_detector in (None, yardstick.detector):
        reference = yardstick.reference
    if reference not in (None, TEACHER):
        return load_reference(reference, detector=detector)
    if not with_teacher:
        raise DataError(
            "these students are compared to their teacher where no --reference is given, and --teacher-steps none "
            "leaves it out: name steps, or pass --reference with a folder of real pictures, or statistics as .npz (mu "
            "and sigma, as ADM publishes them for ImageNet) or .safetensors"
        )
    return None
