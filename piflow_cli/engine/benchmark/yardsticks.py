"""What students are measured by: prompts, detector and reference, the user's or those that ship for a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from piflow_cli import registry
from piflow_cli.core.interfaces import Space
from piflow_cli.data.files.prompts import READERS
from piflow_cli.data.prompt_lists import PromptList, read_prompt_list
from piflow_cli.data.published.entry import KIND
from piflow_cli.engine.benchmark.gauge import TEACHER
from piflow_cli.engine.benchmark.questions import Classes, Prompts, Subjects
from piflow_cli.engine.sample.check import check_pictures
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.yardstick import EMBEDDED_TEACHERS, Yardstick
from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import Detector, Reference
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.pixels import PIXELS_NAME
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.metrics.metric import WHOLE, Features, Judgement, Metric
from piflow_cli.metrics.panel import Panel, Seat, require_classifier, seats_of
from piflow_cli.teachers.text.pictures import check_taken

PICTURES_GIVEN = "`references` in the rows of --prompts"


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
        DataError: prompts for class models, none for text-to-image students whose teacher has none of its own, or more
            or fewer reference pictures than one takes.
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
                f"these students need prompts to be measured by: pass --prompts with a file ({', '.join(READERS)}), a "
                f"folder of these, or a published set ({', '.join(registry.names(KIND))})"
            )
        listed = read_prompt_list(yardstick.prompts, name=yardstick.reference)
    counts = [listed.num_pictures(number) for number in range(len(listed))]
    for student in students:
        check_pictures(counts, student.space.num_pictures, name=student.name, how=PICTURES_GIVEN)
    return Prompts(listed, first.space)


def check_taken_pictures(subjects: Subjects, space: Space, count: int) -> None:
    """Read the reference pictures of the first `count` subjects, as far as there are, before anything is drawn.

    Raises:
        DataError: one cannot be read, or is not taken; its file is named.
    """
    if isinstance(subjects, Prompts) and subjects.listed.about is not None:
        for number in range(min(count, len(subjects))):
            check_taken([subjects.listed.asked(number)], space.check_reference)


def choose_detector(
    detector: str | None, students: Sequence[LoadedStudent], metrics: Sequence[Metric], *, device: torch.device
) -> Detector:
    """The detector named, or the one that ships, or else pixels.

    Args:
        metrics: those that are asked for; what they read by models of their own is none of the detector's.

    Raises:
        DataError: a metric needs a classifier, and the detector is none.
        ModelError: it cannot be loaded.
    """
    yardstick = embedded(students)
    served = [metric for metric in metrics if isinstance(metric.reads, Features) and metric.reads.model is None]
    name = detector or (PIXELS_NAME if yardstick is None else yardstick.detector)
    found = load_detector(name, device=device, with_logits=any(metric.needs_logits for metric in served))
    require_classifier(found, served)
    return found


def check_prompts(metrics: Sequence[Metric], subjects: Subjects) -> None:
    """Refuse metrics that read prompts where there are none.

    Raises:
        DataError: there are none.
    """
    judged = [metric.name for metric in metrics if isinstance(metric.reads, Judgement)]
    if judged and subjects.name is None:
        raise DataError(
            f"{', '.join(judged)} judges pictures by their prompts, and these students draw classes: leave it out"
        )


def check_takes(metrics: Sequence[Metric], students: Sequence[LoadedStudent]) -> None:
    """Refuse metrics of pictures for students of videos, and those of videos for students of pictures.

    Raises:
        DataError: one that does not take what a student draws.
    """
    for student in students:
        frames = student.space.frames
        kind, other = ("videos", "pictures") if frames > 1 else ("pictures", "videos")
        refused = [metric.name for metric in metrics if metric.takes == other]
        if refused:
            known = [name for name in registry.names("metric") if registry.resolve("metric", name).takes != other]
            drawn = f"videos of {frames} frames" if frames > 1 else "pictures"
            raise DataError(
                f"{', '.join(refused)} {'is' if len(refused) == 1 else 'are'} of {other}, and {student.name} draws "
                f"{drawn}. Metrics that take {kind}: {', '.join(known)}"
            )


def choose_references(
    reference: str | None,
    students: Sequence[LoadedStudent],
    panel: Panel,
    metrics: Sequence[Metric],
    *,
    asked_detector: str | None,
    with_teacher: bool,
) -> dict[Seat, Reference]:
    """The reference named, or the one that ships for the detector that ships, by what of pictures is read.

    What has none is compared to the teacher's own longest row.

    Raises:
        DataError: one that does not fit its detector; none at all, and no teacher that is measured.
    """
    yardstick, found = embedded(students), {}
    for seat in seats_of([metric for metric in metrics if metric.needs_reference]):
        named = reference
        if seat == WHOLE and named is None and yardstick and asked_detector in (None, yardstick.detector):
            named = yardstick.reference
        if named not in (None, TEACHER):
            found[seat] = load_reference(named, detector=panel.detector_of(seat))
        elif not with_teacher:
            why = "these students are compared to their teacher where no --reference is given"
            why = "--reference teacher is its row of most steps" if reference == TEACHER else why
            raise DataError(
                f"{why}, and --teacher-steps none leaves it out: name steps, or pass --reference with a folder of real "
                "pictures, or statistics as .npz (mu and sigma, as ADM publishes them for ImageNet) or .safetensors"
            )
    return found


def reference_unread(reference: str | None, metrics: Sequence[Metric]) -> list[str]:
    """A warning where a reference was named and no metric compares pictures to any; else none."""
    if reference in (None, TEACHER) or any(metric.needs_reference for metric in metrics):
        return []
    names = ", ".join(metric.name for metric in metrics)
    return [f"--reference {reference} was not read: {names} compares pictures to no others"]
