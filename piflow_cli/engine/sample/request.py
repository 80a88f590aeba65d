"""What may be asked of a text-to-image student beside its prompt: size, guidance, a negative prompt.

Shapes: B batch, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from piflow_cli.core.guidance import GuidedPolicy
from piflow_cli.core.interfaces import Condition, Policy
from piflow_cli.core.student import make_policy
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import DataError, PolicyError

NEGATIVE_SCALE = 1.5
"""Guidance against a negative prompt where none is asked for: the student's own guidance is in it already."""

PolicyAt = Callable[[Tensor, Tensor], Policy]
"""(x (B, C, H, W), sigma (B,)) -> the policy made there."""


@dataclass(frozen=True)
class TextRequest:
    """A request; everything left at None is what the student was trained with.

    Args:
        width, height: pixels.
        guidance_scale: of a network that embeds it.
        negative_prompt: what to steer away from, at the price of a second evaluation.
        negative_scale: guidance against it; 1 is none.
    """

    width: int | None = None
    height: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    negative_scale: float = NEGATIVE_SCALE

    def check(self, student: LoadedStudent, prompts: Sequence[str]) -> None:
        """Raise DataError or PolicyError where the student cannot do it, before anything is computed."""
        given = [name for name in ("width", "height", "guidance_scale", "negative_prompt") if self._given(name)]
        if student.space.num_classes is not None:
            if given:
                raise DataError(
                    f"{student.name} draws classes at one size and takes no {', '.join(given)}; those are for "
                    "text-to-image students"
                )
            student.space.encode_prompts(prompts)  # costs nothing, and names the class that does not exist
            return
        self.latent_shape(student)
        trained = student.card.teacher.guidance_scale
        if self._given("guidance_scale") and not student.space.embedded_guidance and self.guidance_scale != trained:
            raise PolicyError(
                f"guidance {self.guidance_scale}: {student.name} was trained with {trained}, which is part of its "
                "weights. Leave it out; to steer away from something, use a negative prompt."
            )

    def _given(self, name: str) -> bool:
        return getattr(self, name) is not None

    def warnings(self, student: LoadedStudent, prompts: Sequence[str]) -> list[str]:
        """What a user should know about the request."""
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
        limit = student.space.max_tokens
        for prompt, dropped in zip(prompts, student.space.dropped_tokens(prompts), strict=True):
            if dropped:
                found.append(f"{dropped} tokens beyond {limit} were dropped from the prompt {prompt[:40]!r}...")
        return found

    def latent_shape(self, student: LoadedStudent) -> tuple[int, ...]:
        """(C, H, W) of the pictures.

        Raises:
            DataError: a side that the autoencoder and the patches do not divide.
        """
        if student.space.num_classes is not None:
            return student.space.latent_shape
        family = student.family
        return student.space.latent_shape_of(self.width or family.width, self.height or family.height)

    def condition(self, student: LoadedStudent, prompts: Sequence[str]) -> Condition:
        """The condition of a batch of prompts."""
        condition = student.space.encode_prompts(prompts)
        return condition if self.guidance_scale is None else condition.with_guidance(self.guidance_scale)

    def policy_at(self, student: LoadedStudent, condition: Condition) -> PolicyAt | None:
        """How to make the policy where there is a negative prompt, None where the student alone makes it."""
        if self.negative_prompt is None:
            return None
        negative = self.condition(student, [self.negative_prompt] * len(condition))
        network, family = student.network, student.card.policy

        def make(x: Tensor, sigma: Tensor) -> Policy:
            cond, uncond = (make_policy(network, family, x, sigma, c) for c in (condition, negative))
            return GuidedPolicy(cond, uncond, self.negative_scale)

        return make

    def facts(self) -> dict[str, object]:
        """What was asked, by name."""
        names = ["width", "height", "guidance_scale", "negative_prompt"]
        names += ["negative_scale"] if self.negative_prompt is not None else []
        return {name: getattr(self, name) for name in names if self._given(name)}
