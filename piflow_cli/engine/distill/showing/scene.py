"""Pictures that are asked for again and again while a student is trained: what they show, and the noise they start at.

Shapes: N pictures, C latent channels, S spatial dims.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from PIL.Image import Image
from torch import Tensor

from piflow_cli.core.conditions import Instruction, Prompt
from piflow_cli.core.flow import generators_of, randn_like_seeded
from piflow_cli.core.interfaces import Condition, DataSource, Space
from piflow_cli.data.prompt_lists import PromptList
from piflow_cli.engine.distill.embeddings import encode_asked
from piflow_cli.io.sheets.comparison import shown_small
from piflow_cli.preset import Preset


@dataclass(frozen=True)
class Scene:
    """N pictures: their prompts or classes, the seeds of their noise, as `piflow sample` draws it, and conditions.

    Args:
        labels: what each shows.
        seeds: of its noise.
        condition: of all.
        shape: (C, *S) of the latents.
        about: the first reference picture of each that has one, for sheets.
    """

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    condition: Condition
    shape: tuple[int, ...]
    about: tuple[Image | None, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, index: list[int]) -> Scene:
        """Some of the pictures."""
        labels, seeds, about = (
            tuple(values[i] for i in index if values) for values in (self.labels, self.seeds, self.about)
        )
        return replace(self, labels=labels, seeds=seeds, about=about, condition=self.condition[torch.tensor(index)])

    def noise(self, device: torch.device) -> Tensor:
        """(N, C, *S): the same whatever the device."""
        return randn_like_seeded((len(self), *self.shape), generators_of(self.seeds), device)


def usual_scene(data: DataSource, space: Space, count: int) -> Scene:
    """Pictures of the data's first prompts, or of classes spread over all, each from noise of its own."""
    prompts, drawn = data.preview_prompts(count), data.preview(count)
    if prompts is None or drawn is None:
        prompts = list(islice(cycle(space.examples(count)), count))
        condition = space.encode_prompts(prompts)
    else:
        condition = space.conditions(drawn)
    about = first_pictures(data.preview_asked(count))
    return Scene(tuple(prompts), tuple(range(count)), condition, tuple(space.latent_shape), about)


def asked_scene(preset: Preset, listed: PromptList, data: DataSource, space: Space) -> Scene:
    """What the preset's validation asks for: every prompt from every seed.

    Args:
        preset: whose `[validation]` says seeds and sizes.
        listed: the prompts that it names; where there are none, those of previews are taken.
        data: whose.
        space: of the teacher.

    Raises:
        DataError: no such class, no pictures of that size, or a reference picture that is not taken.
    """
    asked = preset.validation
    shape = space.latent_shape if asked.size_px is None else space.latent_shape_of(*asked.size_px)
    if len(listed):
        count, labels, about = len(listed), tuple(listed.texts), first_pictures(map(listed.asked, range(len(listed))))
        one = Scene(labels, (0,) * count, encode_asked(preset, space, listed), tuple(shape), about)
    else:
        count = max(1, preset.training.preview_images // len(asked.seeds))
        one = replace(usual_scene(data, space, count), shape=tuple(shape))
    every = one.part([i for i in range(count) for _ in asked.seeds])
    return replace(every, seeds=asked.seeds * count)


def first_pictures(prompts: Iterable[Prompt]) -> tuple[Image | None, ...]:
    """The first reference picture of each prompt, not larger than a sheet shows it; None where there is none."""
    return tuple(
        shown_small(prompt.pictures[0]) if isinstance(prompt, Instruction) and prompt.pictures else None
        for prompt in prompts
    )


def measured_scene(data: DataSource, space: Space, count: int) -> tuple[Scene, Tensor | None]:
    """Pictures to measure, of the data's first prompts or of the classes in turn, and which class each is of, (N,)."""
    seeds, shape = tuple(range(count)), tuple(space.latent_shape)
    if space.num_classes is None:
        prompts, drawn = data.preview_prompts(count), data.preview(count)
        return Scene(tuple(prompts or ("",) * count), seeds, space.conditions(drawn), shape), None
    labels = torch.arange(count) % space.num_classes
    return Scene(tuple(map(str, labels.tolist())), seeds, space.conditions(labels), shape), labels
