"""What is measured: a loaded teacher, some prompts or classes, sizes, and the walks of the base's own pipeline.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from piflow_cli.core.conditions import Instruction
from piflow_cli.core.interfaces import BaseWalk, Condition, Teacher, TeacherFamily

PROMPTS = ("a cat", "a watercolour painting of a mountain lake at sunset, with a small boat on it")
"""Of different lengths."""
SIDES = ((8, 6), (4, 10))
"""Width and height in patches of the sizes that are walked."""
REFERENCE_SIDES = ((96, 64), (80, 112))
"""Width and height in pixels of the reference pictures that are tried."""
MORE = (1, 2)
"""And of videos the latent frames after the first one."""
NUM_STEPS = 4
SEED = 20
USUAL_SCALE = 3.0
"""Guidance that is walked with where the settings ask for none."""


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Args:
        name: what was looked at.
        passed: None where it could not be measured.
        said: what was measured; where it failed, what is probably wrong.
    """

    name: str
    passed: bool | None
    said: str


def right(name: str, said: str) -> Finding:
    """What is as it should be."""
    return Finding(name, True, said)


def wrong(name: str, said: str) -> Finding:
    """What is not, and what is probably wrong."""
    return Finding(name, False, said)


def unmeasured(name: str, why: str) -> Finding:
    """What cannot be measured of this teacher."""
    return Finding(name, None, why)


def largest(x: Tensor) -> float:
    """The greatest magnitude."""
    return float(x.abs().max())


@dataclass
class Subject:
    """A teacher under examination.

    Args:
        settings: the family's.
        teacher: loaded by them, in float32.
        num_pictures: reference pictures of every prompt.
    """

    settings: TeacherFamily
    teacher: Teacher
    num_pictures: int = 0
    _walks: dict[tuple[tuple[int, ...], float], BaseWalk] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        space = self.teacher.space
        self.num_pictures = max(self.num_pictures, space.num_pictures[0])
        self.pictures = tuple(map(_reference, range(self.num_pictures)))
        self.condition: Condition = (
            space.encode_prompts(self._asked) if self.takes_prompts else space.preview_conditions(2)
        )

    @property
    def _asked(self) -> list[Instruction]:
        """The prompts, each with the reference pictures."""
        return [Instruction(prompt, self.pictures) for prompt in PROMPTS]

    def about(self, num_pictures: int) -> Self:
        """The same teacher, with so many reference pictures of every prompt."""
        return replace(self, num_pictures=num_pictures)

    @property
    def takes_prompts(self) -> bool:
        """Whether conditions are prompts, and not classes."""
        return self.teacher.space.num_classes is None

    @property
    def adapts(self) -> bool:
        """Whether students are adapters; else they are trained in full."""
        return bool(self.teacher.backbone.lora_targets(self.teacher.module))

    @property
    def sizes_px(self) -> list[tuple[int, ...]]:
        """Width and height in pixels of the pictures that are tried, and the frames of videos."""
        space = self.teacher.space
        if not self.takes_prompts:
            return [space.size_px]
        factor, (*_, down, across) = self.settings.latent_factor(), self.teacher.backbone.layout.sides
        sides = [(wide * across * factor, high * down * factor) for wide, high in SIDES]
        step = self.settings.frame_factor
        return sides if step is None else [(*size, 1 + step * more) for size, more in zip(sides, MORE, strict=True)]

    @property
    def scale(self) -> float:
        """Guidance by two passes that is walked with."""
        return self.settings.guidance_scale if self.settings.guidance_scale != 1 else USUAL_SCALE

    def walk(self, size_px: tuple[int, ...], *, scale: float = 1.0) -> BaseWalk:
        """The walk of the base's own pipeline; made once. Raises ModelError where there is none."""
        if (size_px, scale) not in self._walks:
            self._walks[size_px, scale] = self.settings.base_walk(
                self.teacher,
                self.condition,
                size_px=size_px,
                seed=SEED,
                num_steps=NUM_STEPS,
                scale=scale,
                pictures=self.pictures,
            )
        return self._walks[size_px, scale]

    def state(self, size_px: tuple[int, ...] | None = None) -> Tensor:
        """Noise (B, C, *S) of pictures of a size, the first one if it is not said."""
        space = self.teacher.space
        shape = (len(self.condition), *space.latent_shape_of(*(size_px or self.sizes_px[0])))
        return torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(space.device)

    def sigmas(self, sigma: float) -> Tensor:
        """A noise level for every picture, (B,)."""
        return torch.full((len(self.condition),), sigma, device=self.teacher.space.device)

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: float, condition: Condition | None = None) -> Tensor:
        """The velocity without guidance."""
        condition = self.condition if condition is None else condition
        at = torch.full((len(condition),), sigma)
        return self.teacher.as_base(1.0).velocity(x, at, condition)

    def module_copy(self) -> nn.Module:
        """A copy of the teacher's module to build a student on; an adapter's shares the weights, which it freezes."""
        module = self.teacher.module
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())} if self.adapts else {}
        return copy.deepcopy(module, shared)

    def alone(self) -> list[Condition]:
        """The condition of every prompt, encoded by itself."""
        return [self.teacher.space.encode_prompts([asked]) for asked in self._asked]


def _reference(number: int) -> Image.Image:
    """A reference picture of large coloured fields, each of another size."""
    width, height = REFERENCE_SIDES[number % len(REFERENCE_SIDES)]
    fields = np.random.default_rng(SEED + number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(fields).resize((width, height), Image.Resampling.BICUBIC)
