"""What a family of teachers implements: how its network is called, and the settings that are the family.

Shapes: B batch, C latent channels, S spatial dims (H, W or T, H, W), D width of the network, P positions in a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces.checking import BaseWalk
from piflow_cli.core.interfaces.planning import Advice, CacheCase, Conditioning, MemoryCase, Part
from piflow_cli.core.interfaces.policies import PatchLayout
from piflow_cli.core.interfaces.spaces import Condition, Space
from piflow_cli.core.schedule import Shift
from piflow_cli.io.tensors.slices import SlicedWeights

TeacherVelocity = Callable[[Tensor, Tensor], Tensor]
"""(x (B, C, *S), sigma (B,), best on the host) -> guided teacher velocity (B, C, *S), without gradient."""


class Backbone(Protocol):
    """How to call a diffusers module of one family, whatever its final projection is."""

    latent_channels: int
    layout: PatchLayout
    projection_name: str
    """Name of the final projection inside the module."""
    time_argument: str
    """Name of the module's argument that says the time."""
    trained_modules: tuple[str, ...]
    """Modules that a student with an adapter trains in full, besides its head."""

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The module's output (B, channels, *S) in its own dtype at x (B, C, *S), sigma (B,)."""
        ...

    def embed_dim(self, module: nn.Module) -> int:
        """D, the width of what `embed` returns."""
        ...

    def embed(self, module: nn.Module, sigma: Tensor, condition: Condition) -> Tensor:
        """The time and condition embedding (B, D) that modulates the module's blocks."""
        ...

    def projection(self, module: nn.Module) -> nn.Linear:
        """The final projection of an untouched teacher module."""
        ...

    def replace_projection(self, module: nn.Module, head: nn.Module, *, output_channels: int) -> None:
        """Put a head in the place of the final projection.

        Args:
            head: a policy's, or the teacher's projection and a policy's head in one, between which a flag decides.
            output_channels: channels a latent position that the head gives.
        """
        ...

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Full names of the linear layers that get LoRA by the published recipe; none: all weights are trained."""
        ...


class Teacher(Protocol):
    """A loaded teacher: a velocity field with its conditions and its latent space."""

    name: str
    module: nn.Module
    backbone: Backbone
    space: Space
    network: dict[str, Any]
    """What `TeacherFamily.rebuild` needs to make the module again without the teacher: JSON."""

    def name_classes(self, names: Mapping[int, str]) -> None:
        """Give classes that have no name of their own these; students know them by the same."""
        ...

    def as_base(self, scale: float) -> Self:
        """The same teacher, guided as the base's own pipeline does it at another scale; an embedded one stays."""
        ...

    def own_shift(self, positions: int, *, num_steps: int) -> Shift:
        """The time grid on which the base's own pipeline samples.

        Args:
            positions: patches of a latent, which some schedulers go by.
            num_steps: of the walk, which others go by.

        Raises:
            ModelError: it is none that a shift makes.
        """
        ...

    def velocity(
        self, x: Tensor, sigma: Tensor, condition: Condition, *, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Guided velocity (B, C, *S) in float32 at x (B, C, *S), sigma (B,).

        Args:
            sigma: best on the host, where it tells which samples guidance acts on without a wait for the device.
            network: (x, sigma, condition) -> output; evaluates the network in place of `module`, as a student that
                shares the teacher's weights does.
        """
        ...


class TeacherFamily(Protocol):
    """The settings of one kind of teacher: they load it, or describe it without its weights."""

    type: str
    source: str
    guidance_scale: float
    size_px: tuple[int, int] | None
    """Width and height that the settings name; None where the network has one size."""
    num_frames: int
    """Frames of the videos that the settings are for; 1 for pictures."""
    frame_rate: int
    """Frames a second of its videos; of no meaning for pictures."""
    frame_factor: int | None
    """Frames that a latent position stands for, but the first one, which stands for one; None: pictures alone."""
    quantization: str
    """Of the frozen weights while they load; "none" keeps them whole."""
    offload_encoders: bool
    """Whether text encoders and autoencoder are on the device only while they work."""
    pipeline_classes: ClassVar[tuple[str, ...]]
    """The pipelines of diffusers that bases come as, by the name in their index."""
    num_pictures: ClassVar[tuple[int, int]]
    """The fewest and the most reference pictures that a prompt may have; (0, 0) for networks that take none."""
    students_need_base: ClassVar[bool]
    """Whether a student needs parts of the teacher to be sampled: text encoders, an autoencoder, frozen weights."""

    @classmethod
    def said_by(cls, source: str) -> frozenset[str]:
        """Keys that say something of a source's files, where a source of this name says it itself."""
        ...

    def source_paths(self) -> dict[str, Path]:
        """The local files and folders that its weights are read from, by the key that names them."""
        ...

    def load(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, encoders: bool = True
    ) -> Teacher:
        """The frozen teacher; without its text encoders where `encoders` is False."""
        ...

    def outline(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, encoders: bool = True
    ) -> tuple[Teacher, SlicedWeights]:
        """The teacher with its module on the meta device, and the files that its weights are read from in slices."""
        ...

    def check_network(self, network: dict[str, Any], *, origin: object) -> None:
        """Raise ModelError unless a description of a module, as a student's card keeps it, is one of this family.

        Args:
            origin: of the card, for the message.
        """
        ...

    def check_prompts(self, network: dict[str, Any], prompts: Sequence[str]) -> None:
        """Raise DataError for a prompt that no student of this description knows, such as the name of no class."""
        ...

    def check_size(self, width: int, height: int, frames: int | None = None) -> None:
        """Raise DataError where there are no pictures of width x height pixels, as far as configs say it.

        Args:
            frames: of videos; None is as many as the settings say.
        """
        ...

    def class_names(self, network: dict[str, Any]) -> dict[int, str]:
        """Names of classes in a student's description of the module; none where conditions are prompts."""
        ...

    def load_space(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, encoders: bool = True
    ) -> Space:
        """The space alone, without the network; without text encoders where `encoders` is False."""
        ...

    def autoencoder_fingerprint(self) -> str:
        """What decides the latents of a picture, as `io.tensors.digests.fingerprint` names it."""
        ...

    def base_walk(
        self,
        teacher: Teacher,
        condition: Condition,
        *,
        size_px: tuple[int, ...],
        seed: int,
        num_steps: int,
        scale: float,
        pictures: Sequence[Any] = (),
    ) -> BaseWalk:
        """The walk of the base's own diffusers pipeline, with the module and the space of a loaded teacher.

        Args:
            condition: of B pictures.
            pictures: the reference pictures that the condition has of each, the same ones of all.
            size_px: width and height of them, and the frames of videos.
            seed: of the noise.
            num_steps: of its sampler.
            scale: guidance by two passes; 1 is none.

        Raises:
            NoWalkError: there is no such pipeline, or it goes no Euler steps; the message says which.
        """
        ...

    def check_base(self, network: dict[str, Any], teacher: Teacher) -> None:
        """Raise ModelError unless an adapter trained on a module of this description fits a loaded teacher."""
        ...

    def check_source(self, *, pictures: bool = False) -> None:
        """Raise ModelError where it can be said without reading weights that loading will fail.

        Args:
            pictures: whether pictures will be encoded or decoded.
        """
        ...

    def describe(self) -> tuple[nn.Module, Backbone]:
        """The module on the meta device and its backbone, by the source where it is on this machine."""
        ...

    def advice(self) -> tuple[Advice, ...]:
        """What a preset for this source should say of its own, by configs alone.

        Raises:
            ModelError: the source is missing, unreachable or of another family.
        """
        ...

    def conditioning(self, module: nn.Module) -> Conditioning:
        """What a module of this family takes beside the latents."""
        ...

    def latent_size(self, module: nn.Module, size_px: tuple[int, int] | None) -> tuple[int, ...]:
        """S, in latent positions, of pictures of `size_px` (width, height); None is the size of the settings."""
        ...

    def latent_factor(self) -> int:
        """Pixels along the side of a latent position."""
        ...

    def frozen_bytes(self, module: nn.Module, item_bytes: int) -> int:
        """Bytes of the frozen weights as they are loaded: at `item_bytes` each, unless quantised or kept in float32."""
        ...

    def pipeline_parts(self) -> tuple[Part, ...]:
        """Text encoders and autoencoder: as the source describes them where it is on this machine, else as published.

        Raises:
            ModelError: the source names a part that is no class of diffusers' or transformers'.
        """
        ...

    def measured(self, module: nn.Module) -> tuple[MemoryCase | CacheCase, ...]:
        """What was measured of a published recipe whose teacher this is, at its size; none where it is another."""
        ...

    def dummy_condition(
        self, module: nn.Module, batch_size: int, *, references_px: Sequence[tuple[int, int] | None] = ()
    ) -> Condition:
        """A condition of the right shapes on the module's device, its values of no meaning: work is counted with it.

        Args:
            references_px: width and height of the reference pictures of each prompt; None is the settings' size.
        """
        ...

    def rebuild(
        self,
        network: dict[str, Any],
        *,
        folder: Path | None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> tuple[nn.Module, Backbone, Space]:
        """The parts of a student from its card: the module with its projection in place (on meta), and the rest."""
        ...
