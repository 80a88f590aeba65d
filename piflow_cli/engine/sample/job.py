"""A request that can be drawn, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from piflow_cli import __version__
from piflow_cli.core.flow import generators_of, randn_like_seeded
from piflow_cli.core.sampling import Stopwatch
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.sample.artist import Artist, TeacherSampling
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.engine.students.finite import decode_finite
from piflow_cli.io.pictures import to_pictures

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Drawn:
    """One picture, what it was asked for, and what its file says of it."""

    image: Image
    prompt: str
    seed: int
    facts: dict[str, str]


@dataclass(frozen=True)
class SampleResult:
    """Pictures and what made them; picture i belongs to prompts[i] and seeds[i].

    Args:
        drawn: the pictures, 8 bit.
        latents: (N, C, *S), float32, on the CPU.
        pictures_a_prompt: how many there are of each prompt that was asked for, one after another.
        network_s, policy_s: wall time in the network and in the policy's rollouts.
        conditions: what was asked of a text-to-image student beside its prompt: size, guidance, negative prompt.
        warnings: what a user should know about these settings.
    """

    drawn: list[Drawn]
    latents: Tensor
    pictures_a_prompt: int
    model: str
    settings: SamplingSettings | TeacherSampling
    network_s: float
    policy_s: float
    warnings: list[str] = field(default_factory=list)
    conditions: dict[str, object] = field(default_factory=dict)

    @property
    def images(self) -> list[Image]:
        """The pictures alone."""
        return [drawn.image for drawn in self.drawn]

    @property
    def prompts(self) -> list[str]:
        """Of every picture."""
        return [drawn.prompt for drawn in self.drawn]

    @property
    def seeds(self) -> list[int]:
        """Of every picture."""
        return [drawn.seed for drawn in self.drawn]

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of each picture."""
        return self.drawn[0].image.size


@dataclass(frozen=True)
class SampleJob:
    """A request that has passed every check and is ready to be drawn.

    Args:
        artist: who draws.
        asked: what is asked for beside the prompts.
        wanted: prompt and seed of every picture.
        pictures_a_prompt: as in the result.
        shape: (C, *S) of the latents.
        batch_size: pictures a forward pass.
        warnings: as in the result.
    """

    artist: Artist
    asked: TextRequest
    wanted: list[tuple[str, int]]
    pictures_a_prompt: int
    shape: tuple[int, ...]
    batch_size: int
    warnings: list[str]

    @property
    def prompts(self) -> list[str]:
        """Of every picture."""
        return [prompt for prompt, _ in self.wanted]

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of each picture."""
        return self.asked.size_px(self.artist.space)

    def run(
        self,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_picture: Callable[[Drawn], None] | None = None,
    ) -> SampleResult:
        """Draw everything.

        Args:
            on_progress: called with (evaluations done, evaluations wanted), an evaluation being one picture's.
            on_picture: called with each picture once it is drawn.

        Raises:
            SamplingError: latents or pictures that are not finite.
        """
        stopwatch, latents, pictures = Stopwatch(), [], []
        for start in range(0, len(self.wanted), self.batch_size):
            part = self.wanted[start : start + self.batch_size]
            sampled = self._sample(part, stopwatch, self._reporter(start, len(part), on_progress))
            decoded = decode_finite(self.artist.space, sampled, name=self.artist.name, dtype=self.artist.dtype)
            latents.append(sampled.cpu())
            for image, (prompt, seed) in zip(to_pictures(decoded.cpu()), part, strict=True):
                pictures.append(Drawn(image, prompt, seed, self._facts(prompt, seed)))
                if on_picture is not None:
                    on_picture(pictures[-1])
        return SampleResult(
            drawn=pictures,
            latents=torch.cat(latents),
            pictures_a_prompt=self.pictures_a_prompt,
            model=self.artist.name,
            settings=self.artist.settings,
            network_s=stopwatch.network_s,
            policy_s=stopwatch.policy_s,
            warnings=self.warnings,
            conditions=self.asked.facts(),
        )

    def _sample(
        self, part: Sequence[tuple[str, int]], stopwatch: Stopwatch, on_step: Callable[[int, Tensor], None]
    ) -> Tensor:
        """Latents (B, C, *S) of some of the pictures."""
        generators = generators_of(seed for _, seed in part)
        noise = randn_like_seeded((len(part), *self.shape), generators, self.artist.space.device)
        condition = self.asked.condition(self.artist.space, [prompt for prompt, _ in part])
        return self.artist.draw(noise, condition, generators=generators, stopwatch=stopwatch, on_step=on_step)

    def _reporter(
        self, start: int, number: int, on_progress: Callable[[int, int], None] | None
    ) -> Callable[[int, Tensor], None]:
        nfe, total = self.artist.settings.nfe, len(self.wanted)

        def report(done: int, _x: Tensor) -> None:
            if on_progress is not None:
                on_progress(start * nfe + done * number, total * nfe)

        return report

    def _facts(self, prompt: str, seed: int) -> dict[str, str]:
        """What a PNG says of itself."""
        return {
            "prompt": prompt,
            "seed": str(seed),
            "nfe": str(self.artist.settings.nfe),
            "model": self.artist.name,
            "sampling": self.artist.settings.model_dump_json(),
            **{key: str(value) for key, value in self.asked.facts().items()},
            "software": f"piflow {__version__}",
        }
