"""What may be asked of a student of prompts beside them: size, frames, guidance, a negative prompt.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from piflow_cli.core.conditions import Instruction, Prompt
from piflow_cli.core.guidance import GuidedPolicy
from piflow_cli.core.interfaces import Condition, Policy, Space
from piflow_cli.core.student import make_policy
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import DataError, PolicyError
from piflow_cli.teachers.text.pictures import check_taken

NEGATIVE_SCALE = 1.5
"""Guidance against a negative prompt where none is asked for: the student's own guidance is in it already."""

MAX_SIDE_PX = 16_384
"""The longest side that may be asked for."""
MAX_FRAMES = 1025
MAX_GUIDANCE = 100.0
FAR = 2.0
"""How many times as long or as short as trained a side is that is warned of."""
MAX_WARNED = 5
"""Prompts that a warning of one kind names; of others it says how many."""

PolicyAt = Callable[[Tensor, Tensor], Policy]
"""(x (B, C, *S), sigma (B,)) -> the policy made there."""


@dataclass(frozen=True)
class TextRequest:
    """A request; everything left at None is what the student was trained with.

    Args:
        width, height: pixels.
        frames: of videos.
        guidance_scale: of a network that embeds it.
        negative_prompt: what to steer away from, at the price of a second evaluation.
        negative_scale: guidance against it; 1 is none.
    """

    width: int | None = None
    height: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    negative_scale: float = NEGATIVE_SCALE
    frames: int | None = None

    def check_numbers(self) -> None:
        """Raise DataError for a number that no model could be asked for."""
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and not 1 <= side <= MAX_SIDE_PX:
                raise DataError(f"{name} is {side}; it is between 1 and {MAX_SIDE_PX} pixels")
        if self.frames is not None and not 1 <= self.frames <= MAX_FRAMES:
            raise DataError(f"frames is {self.frames}; it is between 1 and {MAX_FRAMES}")
        for name, scale in (("guidance", self.guidance_scale), ("negative_scale", self.negative_scale)):
            if scale is not None and not (math.isfinite(scale) and 0 <= scale <= MAX_GUIDANCE):
                raise DataError(f"{name} is {scale}; it is between 0 and {MAX_GUIDANCE:g}")

    def check(self, student: LoadedStudent, prompts: Sequence[str]) -> None:
        """Raise DataError or PolicyError where the student cannot do it, before anything is computed."""
        self.check_numbers()
        names = ("width", "height", "frames", "guidance_scale", "negative_prompt")
        given = [name for name in names if self._given(name)]
        if student.space.num_classes is not None:
            if given:
                raise DataError(
                    f"{student.name} draws classes at one size and takes no {', '.join(given)}; those are for "
                    "text-to-image students"
                )
            student.space.encode_prompts(prompts)  # costs nothing, and names the class that does not exist
            return
        self.latent_shape(student.space)
        trained = student.card.teacher.guidance_scale
        if self._given("guidance_scale") and not student.space.embedded_guidance and self.guidance_scale != trained:
            raise PolicyError(
                f"guidance {self.guidance_scale}: {student.name} was trained with {trained}, which is part of its "
                "weights. Leave it out; to steer away from something, use a negative prompt."
            )

    def check_teacher(self, space: Space, prompts: Sequence[str], others: set[str]) -> None:
        """Raise DataError where a teacher cannot do it; `others` are options given that only students have."""
        given = [name for name in ("guidance_scale", "negative_prompt") if self._given(name)] + sorted(others)
        given += [n for n in ("width", "height", "frames") if self._given(n) and space.num_classes is not None]
        if given:
            raise DataError(f"a teacher is drawn as its students learnt from it and takes no {', '.join(given)}")
        if space.num_classes is None:
            self.latent_shape(space)
        else:
            space.encode_prompts(prompts)

    def _given(self, name: str) -> bool:
        return getattr(self, name) is not None

    def warnings(self, student: LoadedStudent) -> list[str]:
        """What a user should know about what is asked beside the prompts."""
        if student.space.num_classes is not None:
            return []
        found = []
        trained = student.card.teacher.guidance_scale
        if self.guidance_scale is not None and self.guidance_scale != trained:
            found.append(
                f"{student.name} was trained with guidance {trained}; pictures at {self.guidance_scale} are likely to "
                "be very noisy"
            )
        if self.negative_prompt is not None:
            found.append("a negative prompt doubles the network evaluations, and the student was not trained with one")
        return found

    def size_px(self, space: Space) -> tuple[int, int]:
        """Width and height of the pictures."""
        width, height = space.size_px
        return (width if self.width is None else self.width, height if self.height is None else self.height)

    def num_frames(self, space: Space) -> int:
        """Frames of the videos; 1 for pictures."""
        return space.frames if self.frames is None else self.frames

    def latent_shape(self, space: Space) -> tuple[int, ...]:
        """(C, *S) of the pictures or videos.

        Raises:
            DataError: a size that the model cannot draw.
        """
        return space.latent_shape_of(*self.size_px(space), self.num_frames(space))

    def of_size_about(self, space: Space, prompts: Sequence[Prompt]) -> TextRequest:
        """The same, of the size that the base's own pipeline makes of reference pictures where none is asked for.

        Raises:
            DataError: a reference picture that is not taken, or several sizes.
        """
        pictures = [prompt.pictures for prompt in prompts if isinstance(prompt, Instruction)]
        if not pictures or (self._given("width") and self._given("height")):
            return self
        check_taken(prompts, space.check_reference)
        sizes = dict.fromkeys(map(space.size_about, pictures))
        if len(sizes) > 1:
            shown = ", ".join(f"{width}x{height}" for width, height in list(sizes)[:4])
            raise DataError(f"the reference pictures ask for several sizes ({shown}): pass --width and --height")
        ((width, height),) = sizes
        return replace(self, width=self.width or width, height=self.height or height)

    def condition(self, space: Space, prompts: Sequence[Prompt]) -> Condition:
        """The condition of a batch of prompts."""
        condition = space.encode_prompts(prompts)
        return condition if self.guidance_scale is None else condition.with_guidance(self.guidance_scale)

    def negative(self, space: Space, prompts: Sequence[Prompt]) -> Condition | None:
        """The condition of the negative prompt in the place of every prompt, None where there is none."""
        if self.negative_prompt is None:
            return None
        away = [
            replace(prompt, text=self.negative_prompt) if isinstance(prompt, Instruction) else self.negative_prompt
            for prompt in prompts
        ]
        return self.condition(space, away)

    def policy_at(self, student: LoadedStudent, condition: Condition, negative: Condition | None) -> PolicyAt | None:
        """How to make the policy where there is a negative prompt, None where the student alone makes it."""
        if negative is None:
            return None
        network, family = student.network, student.card.policy

        def make(x: Tensor, sigma: Tensor) -> Policy:
            cond, uncond = (make_policy(network, family, x, sigma, c) for c in (condition, negative))
            return GuidedPolicy(cond, uncond, self.negative_scale)

        return make

    def facts(self) -> dict[str, object]:
        """What was asked, by name."""
        names = ["width", "height", "frames", "guidance_scale", "negative_prompt"]
        names += ["negative_scale"] if self.negative_prompt is not None else []
        return {name: getattr(self, name) for name in names if self._given(name)}


def size_warnings(space: Space, request: TextRequest) -> list[str]:
    """What a user should know of a size: far from the trained one pictures repeat what they show, or lose it."""
    asked, usual = request.size_px(space), space.size_px
    if all(1 / FAR < side / other < FAR for side, other in zip(asked, usual, strict=True)):
        return []
    shown = [f"{width}x{height}" for width, height in (asked, usual)]
    return [f"{shown[0]} is far from {shown[1]}, the size that was trained: expect shapes that repeat or fall apart"]


def prompt_warnings(space: Space, prompts: Sequence[str]) -> list[str]:
    """What a user should know of prompts: what text encoders will not read of them."""
    if space.num_classes is not None:
        return []
    different = list(dict.fromkeys(prompts))
    limit = space.max_tokens
    dropped = {p: n for p, n in zip(different, space.dropped_tokens(different), strict=True) if n}
    unknown = {p: n for p, n in zip(different, space.unknown_tokens(different), strict=True) if n}
    return [
        *_named(dropped, f"beyond {limit} {{were}} dropped from"),
        *_named(unknown, "{are} of a script that the text encoder does not know, in"),
    ]


def _named(counts: dict[str, int], what: str) -> list[str]:
    """A line for each of the first prompts, and one for the others."""
    one, many = (
        f"token{s} {what.format(are=are, were=were)}" for s, are, were in (("", "is", "was"), ("s", "are", "were"))
    )
    lines = [
        f"{n} {one if n == 1 else many} the prompt {prompt[:40]!r}" + "..." * (len(prompt) > 40)
        for prompt, n in counts.items()
    ]
    rest = len(lines) - MAX_WARNED
    return lines if rest <= 0 else [*lines[:MAX_WARNED], f"and so for {rest} more prompts: {many} them"]
