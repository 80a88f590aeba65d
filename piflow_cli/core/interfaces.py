"""The protocols that policy and teacher families implement; `core` and `engine` know families only through them.

Shapes: B batch, C latent channels, S spatial dims (H, W or T, H, W), D width of the network, P positions in a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from piflow_cli.core.schedule import Shift

Condition = Any
"""What a network is conditioned on, as its teacher family made it: labels (B,), or a dataclass of embeddings."""


@runtime_checkable
class Policy(Protocol):
    """A network-free velocity field made from one network output at (x_src, sigma_src): a frozen value."""

    exact_rollout: bool
    """Whether `rollout` is a closed form of stepping `velocity`, differentiable at the cost of one evaluation."""
    depends_on_x: bool
    """Whether the x_0 estimate of the policy depends on the state, and not only on time."""

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Velocity u at state x (B, C, *S) and noise level sigma (B,)."""
        ...

    def rollout(self, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> Tensor:
        """State at raw time tau_to of the policy's ODE started at x (B, C, *S), tau_from; times are (B,)."""
        ...

    def detach(self) -> Self:
        """The same policy cut from the graph that made it."""
        ...

    def perturb(self, p: float, *, generator: torch.Generator | None = None) -> Self:
        """The policy with the regularising noise of its family at strength p; itself where the family has none."""
        ...

    def with_temperature(self, temperature: float) -> Self:
        """The policy sharpened to `temperature` in [0, 1]; itself where the family has no temperature."""
        ...


@dataclass(frozen=True)
class PatchLayout:
    """How a token of the network's final projection holds a patch.

    Args:
        positions: P, positions in a patch (4 for 2x2).
        channels_last: True where a token is (P, channels), as in DiT; False where it is (channels, P), as in FLUX.
    """

    positions: int
    channels_last: bool


class PolicyFamily(Protocol):
    """The settings of one kind of policy: how wide its head is, how to build it, how its output becomes a policy."""

    type: str

    def output_channels(self, latent_channels: int) -> int:
        """Channels a latent position that the head asks of the network."""
        ...

    def build_head(
        self, projection: nn.Linear, *, latent_channels: int, embed_dim: int, layout: PatchLayout
    ) -> PolicyHead:
        """An uninitialised head on the device and in the dtype of the teacher's projection."""
        ...

    def policy(self, output: Tensor, extra: Tensor | None, x_src: Tensor, sigma_src: Tensor) -> Policy:
        """The policy of a network output (B, output_channels, *S) at the source x_src (B, C, *S), sigma_src (B,)."""
        ...

    def check_sampling(self, *, segments: Any, shift: float) -> None:
        """Raise PolicyError where the policy cannot serve these segments or this shift."""
        ...


class PolicyHead(Protocol):
    """The module that replaces the teacher's final projection; its forward maps tokens (B, N, D) to the new tokens."""

    def init_from_teacher(self, projection: nn.Linear, *, generator: torch.Generator) -> None:
        """Initialise so that the policy's velocity at the source is the teacher's."""
        ...

    def extra(self, embedding: Tensor) -> Tensor | None:
        """What the head reads from the time and condition embedding (B, D), or None."""
        ...


class Backbone(Protocol):
    """How to call a diffusers module of one family, whatever its final projection is."""

    latent_channels: int
    layout: PatchLayout
    projection_name: str
    """Name of the final projection inside the module."""
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
        """Put a head in the place of the final projection."""
        ...

    def retie(self, module: nn.Module) -> None:
        """Make shared parameters one again after weights were assigned by name."""
        ...

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Full names of the linear layers that get LoRA by the published recipe; none: all weights are trained."""
        ...


class DataSource(Protocol):
    """What a run is trained on: conditions, and latents where there are pictures."""

    has_images: bool
    skipped: Sequence[str] = ()
    """Names of what was left out so far, such as pictures that do not decode."""

    def draw(
        self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None
    ) -> tuple[Tensor | None, Condition]:
        """Latents (B, C, *S), None for data-free training, and what `Space.conditions` takes.

        Args:
            generator: source of all draws.
            size_px: width and height, as `draw_size` gave them.
        """
        ...

    def draw_size(self, generator: torch.Generator) -> tuple[int, int] | None:  # noqa: ARG002
        """Width and height in pixels of the next batch, None for the teacher's own size; so where not overridden."""
        return None

    def preview(self, count: int) -> Condition | None:  # noqa: ARG002
        """Conditions that show what is trained; None, where not overridden, leaves the choice to the space."""
        return None


class Space(Protocol):
    """The conditions and the latent space that a teacher and its students share."""

    latent_shape: tuple[int, ...]

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """The condition of a batch of prompts; for class models a prompt is a class name or index."""
        ...

    def conditions(self, drawn: Condition) -> Condition:
        """What a data source drew, as the network takes it."""
        ...

    def preview_conditions(self, count: int) -> Condition:
        """Conditions that show what the model can do."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 1 or 3, H, W) in [0, 1] of latents (B, C, *S)."""
        ...


class Teacher(Protocol):
    """A loaded teacher: a velocity field with its conditions and its latent space."""

    name: str
    module: nn.Module
    backbone: Backbone
    space: Space
    network: dict[str, Any]
    """What `TeacherFamily.rebuild` needs to make the module again without the teacher: JSON."""

    def velocity(
        self, x: Tensor, sigma: Tensor, condition: Condition, *, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Guided velocity (B, C, *S) in float32 at x (B, C, *S), sigma (B,).

        Args:
            network: (x, sigma, condition) -> output; evaluates the network in place of `module`, as a student that
                shares the teacher's weights does.
        """
        ...


class TeacherFamily(Protocol):
    """The settings of one kind of teacher: they load it, or describe it without its weights."""

    type: str
    source: str
    students_need_base: ClassVar[bool]
    """Whether a student needs parts of the teacher to be sampled: text encoders, an autoencoder, frozen weights."""

    def load(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, encoders: bool = True
    ) -> Teacher:
        """The frozen teacher; without its text encoders where `encoders` is False."""
        ...

    def check_base(self, network: dict[str, Any], teacher: Teacher) -> None:
        """Raise ModelError unless an adapter trained on a module of this description fits a loaded teacher."""
        ...

    def check_source(self) -> None:
        """Raise ModelError where it can be said without reading weights that loading will fail."""
        ...

    def describe(self) -> tuple[nn.Module, Backbone]:
        """The module on the meta device and its backbone."""
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
