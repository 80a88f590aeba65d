"""What a family of text-to-image teachers says of itself without weights: for planning, and for the formats.

Shapes: B batch.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from piflow_cli.core.conditions import References, TextCondition
from piflow_cli.core.interfaces import Advice, Backbone, CacheCase, Conditioning, MemoryCase, Part
from piflow_cli.errors import ModelError
from piflow_cli.io.weights import read_json
from piflow_cli.teachers.local_parts import counted_parts, local_source
from piflow_cli.teachers.text.advice import advice
from piflow_cli.teachers.text.loading.base import read_index
from piflow_cli.teachers.text.loading.configs import (
    build_transformer,
    check_transformer_config,
    config_differences,
    config_hash,
    plain_config,
)
from piflow_cli.teachers.text.loading.quantization import frozen_bytes
from piflow_cli.teachers.text.settings import TextSettings
from piflow_cli.teachers.text.tokens import TextBackbone, check_no_video, check_sides

MEASURED_SIZE_PX = (1024, 1024)
"""Of the authors' memory figures."""
LATENT_FACTOR = 8
"""Pixels along the side of a latent position in the published autoencoders."""


@dataclass(frozen=True)
class ReleasedText:
    """A student without its head as the authors' files hold it."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    caveats: tuple[str, ...] = ()


class DescribedText(TextSettings, ABC):
    """A diffusers text-to-image pipeline as its configs describe it."""

    architectures: ClassVar[dict[str, dict[str, Any]]]
    """Transformer configs by name, beyond diffusers' defaults."""
    published_parts: ClassVar[tuple[Part, ...]]
    """Of the pipeline, for sources that are not on this machine."""
    published_factor: ClassVar[int] = LATENT_FACTOR
    """Pixels along the side of a latent position, for sources that are not on this machine."""
    measured_cases: ClassVar[dict[str, tuple[MemoryCase | CacheCase, ...]]] = {}
    """By architecture, at `MEASURED_SIZE_PX`: 8-bit AdamW under DDP, AdamW in float32 under FSDP, embeddings cached."""

    def backbone(self, config: dict[str, Any]) -> TextBackbone:
        """How to call a transformer of this config."""
        return self.backbone_class(latent_channels=self.latent_channels(config))

    def check_network(self, network: dict[str, Any], *, origin: object) -> None:
        """Raise ModelError unless a student's description of its module is one of this family."""
        if not isinstance(network.get("config"), dict):
            raise ModelError(f"{origin} says nothing of config; it is no text-to-image student")
        check_transformer_config(self, network["config"], origin=origin)

    @abstractmethod
    def latent_channels(self, config: dict[str, Any]) -> int:
        """C of a transformer of this config."""

    def build(self, config: dict[str, Any]) -> nn.Module:
        """The transformer of a config on the meta device; its buffers are real."""
        return build_transformer(self, config)

    def describe(self) -> tuple[nn.Module, Backbone]:
        """The transformer on the meta device and its backbone, for planning; reads a config at most."""
        if self.architecture is not None and local_source(self.source) is None:
            if self.architecture not in self.architectures:
                raise ModelError(
                    f"teacher.architecture {self.architecture!r} is not known; one of {', '.join(self.architectures)}"
                )
            config = self.architectures[self.architecture]
        else:
            config = read_index(self)[1]
        module = self.build(config)
        return module, self.backbone(dict(module.config))

    @abstractmethod
    def conditioning(self, module: nn.Module) -> Conditioning:
        """What a transformer of this family takes beside the latents."""

    def advice(self) -> tuple[Advice, ...]:
        """What a preset for this pipeline should say of its own, by configs alone.

        Raises:
            ModelError: missing, unreachable, or of another family.
        """
        usual = self.architectures.get(self.architecture or "", {})
        embeds = self.conditioning(self.describe()[0]).embeds_guidance
        return advice(self, halvings=self.halvings, embeds=embeds, usual=bool(usual.get("guidance_embeds")))

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height that the settings name."""
        return self.width, self.height

    @property
    def num_frames(self) -> int:
        """1: pictures."""
        return 1

    @property
    def frame_rate(self) -> int:
        """1: of no meaning."""
        return 1

    @property
    def frame_factor(self) -> int | None:
        """None: pictures alone."""
        return None

    def latent_size(self, module: nn.Module, size_px: tuple[int, int] | None) -> tuple[int, ...]:  # noqa: ARG002
        """S, in latent positions, of pictures of `size_px` (width, height); None is the size of the settings."""
        width, height = size_px or self.size_px
        return height // self.latent_factor(), width // self.latent_factor()

    def reference_size(self, module: nn.Module, size_px: tuple[int, int] | None) -> tuple[int, ...]:
        """S of a reference picture of `size_px` as it is encoded; None is the size of the settings."""
        return self.latent_size(module, size_px)

    def check_size(self, width: int, height: int, frames: int | None = None) -> None:
        """Raise DataError for a size that latents and patches cannot make up, by the autoencoder's config."""
        check_no_video(frames)
        check_sides(width, height, factor=self.latent_factor(), steps=self.backbone_class.side_steps())

    def latent_factor(self) -> int:
        """Pixels along the side of a latent position: by the autoencoder's config where it is on this machine."""
        folder = local_source(self.source)
        config = folder / "vae" / "config.json" if folder is not None else None
        here = config is not None and config.is_file()
        return 2 ** self.halvings(read_json(config)) if here else self.published_factor

    def halvings(self, autoencoder: dict[str, Any]) -> int:
        """How many times an autoencoder of this config halves a picture's sides: between two of its levels each."""
        return len(autoencoder["block_out_channels"]) - 1

    def frozen_bytes(self, module: nn.Module, item_bytes: int) -> int:
        """Bytes of the transformer's weights, quantised as the settings say or not, or kept in float32."""
        return frozen_bytes(module, self, item_bytes)

    def pipeline_parts(self) -> tuple[Part, ...]:
        """Text encoders and autoencoder: counted where the pipeline's folder is on this machine, else as published."""
        counted = counted_parts(self.source, encoders=self.encoders)
        return self.published_parts if counted is None else counted

    def measured(self, module: nn.Module) -> tuple[MemoryCase | CacheCase, ...]:
        """What was measured of the architecture that the settings name, if the module is of it and the size is that."""
        if self.architecture not in self.architectures or self.size_px != MEASURED_SIZE_PX:
            return ()
        defaults = inspect.signature(type(module).__init__).parameters
        expected = {key: value.default for key, value in defaults.items() if key != "self"}
        expected |= self.architectures[self.architecture]
        same = not config_differences(expected, dict(module.config))
        return self.measured_cases.get(self.architecture, ()) if same else ()

    def dummy_condition(
        self, module: nn.Module, batch_size: int, *, references_px: Sequence[tuple[int, int] | None] = ()
    ) -> TextCondition:
        """A condition of the longest prompts on the module's device, its values of no meaning."""
        facts, place = self.conditioning(module), {"device": module.device, "dtype": module.dtype}
        return TextCondition(
            embeds=torch.zeros(batch_size, facts.text_tokens, facts.text_width, **place),
            pooled=torch.zeros(batch_size, facts.pooled_width, **place) if facts.pooled_width else None,
            guidance=torch.ones(batch_size, device=module.device) if facts.embeds_guidance else None,
            references=self._dummy_references(module, batch_size, references_px) if references_px else None,
        )

    def _dummy_references(
        self, module: nn.Module, batch_size: int, sizes_px: Sequence[tuple[int, int] | None]
    ) -> References:
        """Reference pictures of some sizes."""
        layout, backbone = self.backbone_class.layout, self.backbone(dict(module.config))
        down, across = layout.sides
        latents = [self.reference_size(module, size) for size in sizes_px]
        sizes = tuple((height // down, width // across) for height, width in latents)
        tokens, values = sum(rows * columns for rows, columns in sizes), backbone.latent_channels * layout.positions
        place = {"device": module.device, "dtype": module.dtype}
        return References(torch.zeros(batch_size, tokens, values, **place), (sizes,) * batch_size)

    def base_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A transformer's config with the output that the base has, whatever head it describes."""
        return dict(config)

    def to_released(self, weights: dict[str, Tensor], network: dict[str, Any]) -> ReleasedText:
        """A student's weights (its head aside) and description as the authors' files hold them: as they are."""
        return ReleasedText(weights=dict(weights), config=self.released_config(network["config"]))

    def released_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A transformer's config as the authors' files give it beside a mixture's head."""
        return dict(config)

    def from_released(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights by diffusers' names: the same ones."""
        return dict(weights)

    def describe_released(self, weights: dict[str, Tensor], config: dict[str, Any] | None) -> dict[str, Any]:  # noqa: ARG002
        """The description of the base from an adapter's config, or from the architecture where there is none.

        Raises:
            ModelError: nothing says what the base is.
        """
        if config is None:
            if self.architecture is None:
                raise ModelError("this weight file has no config.json beside it, and nothing says what its base is")
            config = dict(self.describe()[0].config)
        config = self.base_config(plain_config(config))
        return {"config": config, "config_hash": config_hash(config)}
