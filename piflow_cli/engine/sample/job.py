"""A request that can be drawn, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from piflow_cli import __version__
from piflow_cli.core.conditions import Instruction, Prompt
from piflow_cli.core.flow import generators_of, randn_like_seeded
from piflow_cli.core.sampling import Stopwatch
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.sample.artist import Artist, TeacherSampling
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.engine.students.finite import decode_finite
from piflow_cli.io.pictures import to_pictures
from piflow_cli.io.sheets.videos import Video, stills, strip_size, to_videos

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Drawn:
    """One picture or video, what it was asked for, and what its file says of it.

    Args:
        image: the picture; of a video a strip of stills.
        video: None for a picture.
    """

    image: Image
    prompt: str
    seed: int
    facts: dict[str, str]
    video: Video | None = None


class _Batch(NamedTuple):
    """What one forward pass has drawn: latents (B, C, *S), on the CPU, and pictures."""

    latents: Tensor
    pictures: list[Drawn]

    def of_stills(self) -> _Batch:
        """The same without the frames of videos."""
        return self._replace(pictures=[replace(drawn, video=None) for drawn in self.pictures])


@dataclass(frozen=True)
class SampleResult:
    """Pictures and what made them; picture i belongs to prompts[i] and seeds[i].

    Args:
        drawn: the pictures, 8 bit.
        latents: (N, C, *S), float32, on the CPU.
        pictures_a_prompt: how many there are of each prompt that was asked for, one after another.
        network_s, policy_s: wall time in the network and in the policy's rollouts, of all processes together.
        conditions: what was asked of a text-to-image student beside its prompt: size, guidance, negative prompt.
        warnings: what a user should know about these settings.
        num_processes: that drew.
        frames: of every video; 1 for pictures.
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
    num_processes: int = 1
    frames: int = 1

    @property
    def images(self) -> list[Image]:
        """The pictures alone; of videos strips of stills."""
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
        """Width and height of each picture, or of a video's strip."""
        return self.drawn[0].image.size


@dataclass(frozen=True)
class SampleJob:
    """A request that has passed every check and is ready to be drawn.

    Args:
        artist: who draws.
        asked: what is asked for beside the prompts.
        wanted: prompt, with the reference pictures that it may have, and seed of every picture.
        pictures_a_prompt: as in the result.
        shape: (C, *S) of the latents.
        batch_size: pictures a forward pass.
        warnings: as in the result.
    """

    artist: Artist
    asked: TextRequest
    wanted: list[tuple[Prompt, int]]
    pictures_a_prompt: int
    shape: tuple[int, ...]
    batch_size: int
    warnings: list[str]

    @property
    def prompts(self) -> list[str]:
        """Of every picture."""
        return [str(prompt) for prompt, _ in self.wanted]

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of each picture, or of a video's strip."""
        return strip_size(self.asked.size_px(self.artist.space), self.frames)

    @property
    def frames(self) -> int:
        """Of every video; 1 for pictures."""
        return self.asked.num_frames(self.artist.space)

    def idle(self, num_processes: int) -> list[str]:
        """What a user should know where there are fewer batches than processes."""
        batches = -(-len(self.wanted) // self.batch_size)
        if batches >= num_processes:
            return []
        return [
            f"{len(self.wanted)} pictures at {self.batch_size} a forward pass are work for {batches} of "
            f"{num_processes} processes: lower --batch-size to share them"
        ]

    def run(
        self,
        *,
        together: Together | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        on_picture: Callable[[Drawn], None] | None = None,
        keep_videos: bool = True,
    ) -> SampleResult:
        """Draw everything; several processes take whole batches in turn, so that each is drawn as by one.

        Args:
            together: the processes that draw; None is this one alone.
            on_progress: called in the main process with (evaluations done, evaluations wanted), an evaluation being one
                picture's.
            on_picture: called in the main process with each picture, in their order, once it is drawn.
            keep_videos: False leaves stills alone in the result, as many videos are more than memory holds.

        Returns:
            All pictures in the main process, in others those that they drew.

        Raises:
            SamplingError: latents or pictures that are not finite.
        """
        together, stopwatch = together or Together(), Stopwatch()
        batches: list[_Batch] = []
        for start in range(0, len(self.wanted), self.batch_size * together.num_processes):
            own = self._batch(start, together, stopwatch, on_progress)
            collected = together.collect(own)  # of none but the main process
            for picture in chain.from_iterable(batch.pictures for batch in collected):
                if on_picture is not None:
                    on_picture(picture)
            fresh = collected if together.is_main else [own]
            batches += fresh if keep_videos else [batch.of_stills() for batch in fresh]
        times = together.gather((stopwatch.network_s, stopwatch.policy_s))
        network_s, policy_s = (sum(values) for values in zip(*times, strict=True))
        return SampleResult(
            drawn=[picture for batch in batches for picture in batch.pictures],
            latents=torch.cat([batch.latents for batch in batches]),
            pictures_a_prompt=self.pictures_a_prompt,
            model=self.artist.name,
            settings=self.artist.settings,
            network_s=network_s,
            policy_s=policy_s,
            warnings=self.warnings,
            conditions=self.asked.facts(),
            num_processes=together.num_processes,
            frames=self.frames,
        )

    def _batch(
        self, start: int, together: Together, stopwatch: Stopwatch, on_progress: Callable[[int, int], None] | None
    ) -> _Batch:
        """This process's batch of the round that begins at picture `start`; an empty one where none is left for it."""
        first, stop = start + together.index * self.batch_size, start + together.num_processes * self.batch_size
        part = self.wanted[first : first + self.batch_size]
        if not part:
            return _Batch(torch.empty((0, *self.shape)), [])
        number = len(self.wanted[start:stop])  # of the whole round: the other processes are as far as this one
        sampled = self._sample(part, stopwatch, self._reporter(start, number, on_progress))
        decoded = decode_finite(self.artist.space, sampled, name=self.artist.name, dtype=self.artist.dtype)
        decoded = decoded.cpu()
        videos = to_videos(decoded, fps=self.artist.space.fps)
        images = zip(to_pictures(stills(decoded)), part, videos, strict=True)
        return _Batch(
            sampled.cpu(),
            [Drawn(image, str(text), seed, self._facts(text, seed), video) for image, (text, seed), video in images],
        )

    def _sample(
        self, part: Sequence[tuple[Prompt, int]], stopwatch: Stopwatch, on_step: Callable[[int, Tensor], None]
    ) -> Tensor:
        """Latents (B, C, *S) of some of the pictures."""
        generators = generators_of(seed for _, seed in part)
        noise = randn_like_seeded((len(part), *self.shape), generators, self.artist.space.device)
        space, prompts = self.artist.space, [prompt for prompt, _ in part]
        condition, negative = self.asked.condition(space, prompts), self.asked.negative(space, prompts)
        meters = {"stopwatch": stopwatch, "on_step": on_step}
        return self.artist.draw(noise, condition, negative=negative, generators=generators, **meters)

    def _reporter(
        self, start: int, number: int, on_progress: Callable[[int, int], None] | None
    ) -> Callable[[int, Tensor], None]:
        nfe, total = self.artist.settings.nfe, len(self.wanted)

        def report(done: int, _x: Tensor) -> None:
            if on_progress is not None:
                on_progress(start * nfe + done * number, total * nfe)

        return report

    def _facts(self, prompt: Prompt, seed: int) -> dict[str, str]:
        """What a file says of itself."""
        references = prompt.names if isinstance(prompt, Instruction) else ()
        return {
            "prompt": str(prompt),
            **({"references": ", ".join(references)} if references else {}),
            "seed": str(seed),
            "nfe": str(self.artist.settings.nfe),
            "model": self.artist.name,
            "sampling": self.artist.settings.model_dump_json(),
            **{key: str(value) for key, value in self.asked.facts().items()},
            "software": f"piflow {__version__}",
        }
