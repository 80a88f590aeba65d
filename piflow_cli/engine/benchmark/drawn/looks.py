"""Drawing a row's pictures over all processes, and what each of a panel says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from piflow_cli.engine.benchmark.questions import Questions
from piflow_cli.engine.benchmark.samplers import Meter, Sampler
from piflow_cli.engine.benchmark.showing.album import Album
from piflow_cli.engine.processes.together import Together
from piflow_cli.metrics.detectors.features import FeatureSet, join_features
from piflow_cli.metrics.panel import Panel, Seat


@dataclass(frozen=True)
class Looks:
    """What was seen of a row's pictures, and what they cost.

    Args:
        seen: by who looked, in the order of the pictures.
        network_s, policy_s: seconds a picture, as `BenchmarkRow` has them.
        network_calls: pictures put through the network for each picture made.
        drawn_on: the day on which they were drawn, where that was another benchmark; None for now.
    """

    seen: Mapping[Seat, FeatureSet]
    network_s: float
    policy_s: float
    network_calls: float
    drawn_on: str | None = None


@dataclass(frozen=True)
class Viewing:
    """Pictures that are to be looked at, whoever draws them.

    Args:
        questions: what they are to show.
        seats: who looks at them.
        panel: of these.
        seed: of their noise.
        batch_size: pictures a forward pass.
        device: where they are drawn.
    """

    questions: Questions
    seats: Sequence[Seat]
    panel: Panel
    seed: int
    batch_size: int
    device: torch.device

    def draw(
        self, sampler: Sampler, *, together: Together, on_pictures: Callable[[int], None], album: Album | None = None
    ) -> Looks | None:
        """What is seen of a sampler's pictures, in the main process; processes take whole batches in turn.

        Args:
            sampler: that draws.
            together: the processes.
            on_pictures: called with the number of pictures of each batch, those of other processes' included.
            album: keeps the first pictures.
        """
        meter = Meter()
        options = {"batch_size": self.batch_size, "seed": self.seed, "device": self.device, "meter": meter}
        own, a_round = [], self.batch_size * together.num_processes
        for batch in sampler.pictures(self.questions, **options, takes=together.takes):
            begun = len(own) * a_round
            start = begun + together.index * self.batch_size
            own.append(self.panel.look(batch, self.questions.prompts(start, start + len(batch)), self.seats))
            if album is not None:
                album.take(sampler, batch, start=start, questions=self.questions)
            on_pictures(min(begun + a_round, len(self.questions)) - begun)
        parts = together.collect_in_turn(own)
        costs = together.gather((meter.stopwatch.network_s, meter.stopwatch.policy_s, meter.network_rows))
        if not together.is_main:
            return None
        return Looks(joined(parts), *(sum(values) / len(self.questions) for values in zip(*costs, strict=True)))

    def show(self, sampler: Sampler, album: Album) -> None:
        """Draw the first pictures alone, for an album, where the rest is known."""
        count = album.count_of(sampler.space.frames)
        first = Questions(self.questions.subjects, self.questions.numbers[:count])
        options = {"batch_size": self.batch_size, "seed": self.seed, "device": self.device, "meter": Meter()}
        start = 0
        for batch in sampler.pictures(first, **options):
            album.take(sampler, batch, start=start, questions=first)
            start += len(batch)


def joined(parts: Sequence[Mapping[Seat, FeatureSet]]) -> dict[Seat, FeatureSet]:
    """What each seat saw of several batches."""
    return {seat: join_features([part[seat] for part in parts]) for seat in parts[0]}
