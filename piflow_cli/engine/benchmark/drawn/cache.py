"""What was seen of a teacher's pictures, kept for the next benchmark: the teacher's rows cost most, and stay the same.

An entry is known by all that it depends on: the weights of teacher, autoencoder and text encoders, settings and
guidance, solver, steps and time grid, noise, prompts, batch size, precision and device, who looks, the libraries and
this program's own source. Where any of it differs the entry is another; nothing of it is trusted to a file's name.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import piflow_cli
from piflow_cli.core.interfaces import Space
from piflow_cli.engine.benchmark.drawn.looks import Looks, Viewing
from piflow_cli.engine.benchmark.questions import Prompts
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.engine.students.versions import versions_of
from piflow_cli.errors import StorageError
from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.io.tensors.kept import Kept, cache_folder
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.metric import Judgement
from piflow_cli.metrics.panel import Panel, Seat

MAX_BYTES = 2_000_000_000
"""Of all entries: some fifty rows of 5,000 pictures in Inception's features and classes."""
LIBRARIES = ("torch", "diffusers", "transformers", "numpy")
COSTS = ("network_s", "policy_s", "network_calls")


def usual_store() -> Kept:
    """The user's own, as `cache_folder` has it."""
    return Kept(cache_folder() / "benchmark", MAX_BYTES)


@dataclass(frozen=True)
class RowCache:
    """The cache of one benchmark; only the main process reads and writes.

    Args:
        store: where entries lie.
        said: what a user should know: damage, and folders that cannot be written.
    """

    store: Kept = field(default_factory=usual_store)
    said: list[str] = field(default_factory=list)
    _digests: dict[int, str] = field(default_factory=dict, repr=False)
    _lookers: dict[int, list[str]] = field(default_factory=dict, repr=False)

    def holds(self, sampler: Sampler, viewing: Viewing) -> bool:
        """Whether all that is asked for is there and whole."""
        return self.find(sampler, viewing) is not None

    def find(self, sampler: Sampler, viewing: Viewing) -> Looks | None:
        """What was seen of these pictures; None where not all of it is known, or it is damaged."""
        row = self._row(sampler, viewing)
        if row is None:
            return None
        seen: dict[Seat, FeatureSet] = {}
        words: dict[str, str] = {}
        for seat in viewing.seats:
            try:
                found = self.store.read(self._name(row, viewing.panel, seat))
                if found is None:
                    return None
                tensors, words = found
                seen[seat] = FeatureSet(tensors["features"], tensors.get("logits"))
                if len(seen[seat]) != len(viewing.questions):
                    raise StorageError("an entry of the cache has another number of pictures than it says")
                costs = [float(words[cost]) for cost in COSTS]
            except (StorageError, KeyError, ValueError) as damage:
                self._say(f"an entry of the cache is damaged and its row is drawn anew: {damage}")
                return None
        return Looks(seen, *costs, drawn_on=words.get("drawn_on"))

    def keep(self, sampler: Sampler, viewing: Viewing, looks: Looks) -> None:
        """Keep what was seen; where it cannot be written, say so."""
        row = self._row(sampler, viewing)
        if row is None:
            return
        words = {cost: repr(getattr(looks, cost)) for cost in COSTS} | {"drawn_on": time.strftime("%Y-%m-%d")}
        for seat, features in looks.seen.items():
            tensors = {"features": features.features}
            if features.logits is not None:
                tensors["logits"] = features.logits
            try:
                self.store.write(self._name(row, viewing.panel, seat), tensors, words)
            except StorageError as error:
                self._say(f"what was seen of the teacher's pictures is not kept: {error}")
                return

    def _say(self, message: str) -> None:
        if message not in self.said:
            self.said.append(message)

    def _row(self, sampler: Sampler, viewing: Viewing) -> dict[str, Any] | None:
        """All that pictures depend on, JSON; None for rows that are not kept: students', and weights in odd places."""
        if sampler.kind != "teacher":
            return None
        questions = viewing.questions
        spaces = [sampler.space, *([questions.subjects.encoder] if isinstance(questions.subjects, Prompts) else [])]
        modules = [sampler.module, *(module for space in spaces for module in _modules(space))]
        try:
            weights = [self._digest(module) for module in modules]
        except Exception:  # what is on no device, as offloading leaves it, or of a quantised class, fails in many ways
            return None
        numbers = " ".join(map(str, questions.numbers.tolist()))
        return {
            "weights": weights,
            "teacher": sampler.teacher,
            "method": [sampler.method, sampler.steps, repr(sampler.shift)],
            "latents": list(sampler.space.latent_shape),
            "asked for": [questions.subjects.digest(len(questions.subjects)), _sha256(numbers)],
            "seed": viewing.seed,
            "batch size": viewing.batch_size,
            "device": _device(viewing.device),
            "versions": versions_of(LIBRARIES),
            "source": source_digest(),
        }

    def _name(self, row: dict[str, Any], panel: Panel, seat: Seat) -> str:
        """An entry's name: of the pictures and of who looks at them."""
        if isinstance(seat, Judgement):
            who, asks = panel.judges[seat], seat.load.__module__
        else:
            who = panel.detector_of(seat)
            asks = f"{who.with_logits} {seat.frames}"
        if id(who) not in self._lookers:
            self._lookers[id(who)] = [who.name, who.described(), asks]
        return _sha256(json.dumps([row, self._lookers[id(who)]], sort_keys=True))[:32]

    def _digest(self, module: nn.Module) -> str:
        """Of a module's weights and its configuration; each is read once."""
        if id(module) not in self._digests:
            config = json.dumps(dict(_config(module)), sort_keys=True, default=str)
            self._digests[id(module)] = _sha256(f"{tensors_sha256(module.state_dict())} {config}")
        return self._digests[id(module)]


@cache
def source_digest() -> str:
    """A digest of this program's own source: another version of it may draw otherwise."""
    folder = Path(piflow_cli.__file__).parent
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        whole.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def _modules(space: Space) -> Iterable[nn.Module]:
    """The autoencoder of a space and its text encoders."""
    if space.num_classes is not None:
        return [space.autoencoder] if space.autoencoder is not None else []
    parts = space.pipeline.components.items()
    return [part for name, part in parts if isinstance(part, nn.Module) and not name.startswith("transformer")]


def _config(module: nn.Module) -> Iterable[tuple[str, Any]]:
    """What a module of diffusers or transformers says of itself, but for where it was read from."""
    config = getattr(module, "config", None)
    said = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
    return ((key, value) for key, value in said.items() if not key.startswith("_"))


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
