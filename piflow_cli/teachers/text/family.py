"""What families of text-to-image teachers share: how they are loaded, described and fitted to a student."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Backbone, CacheCase, Conditioning, MemoryCase, Part
from piflow_cli.errors import ModelError
from piflow_cli.io.tensors.slices import SlicedWeights
from piflow_cli.io.weights import read_json
from piflow_cli.teachers.local_parts import counted_parts, local_source
from piflow_cli.teachers.text.base import TRANSFORMER, check_base_files, encoder_parts, read_encoder_configs, read_index
from piflow_cli.teachers.text.outline import transformer_files
from piflow_cli.teachers.text.parts import (
    build_transformer,
    config_differences,
    config_hash,
    load_pipeline_parts,
    plain_config,
)
from piflow_cli.teachers.text.quantization import frozen_bytes
from piflow_cli.teachers.text.settings import TextSettings
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.teacher import TextTeacher

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


class TextFamily(TextSettings, ABC):
    """A diffusers text-to-image pipeline: its folder or hub id, and how it is used."""

    space_class: ClassVar[Callable[..., TextSpace]]
    architectures: ClassVar[dict[str, dict[str, Any]]]
    """Transformer configs by name, beyond diffusers' defaults."""
    published_parts: ClassVar[tuple[Part, ...]]
    """Of the pipeline, for sources that are not on this machine."""
    measured_cases: ClassVar[dict[str, tuple[MemoryCase | CacheCase, ...]]] = {}
    """By architecture, at `MEASURED_SIZE_PX`: 8-bit AdamW under DDP, AdamW in float32 under FSDP, embeddings cached."""

    @abstractmethod
    def backbone(self, config: dict[str, Any]) -> Backbone:
        """How to call a transformer of this config."""

    def build_space(
        self,
        pipeline: Any,
        config: dict[str, Any],
        *,
        device: torch.device,
        dtype: torch.dtype,
        warnings: Sequence[str] = (),
    ) -> TextSpace:
        """The space over a pipeline's encoders and autoencoder."""
        return self.space_class(
            pipeline=pipeline,
            settings=self,
            latent_channels=self.backbone(config).latent_channels,
            device=device,
            dtype=dtype,
            embedded_guidance=bool(config.get("guidance_embeds")),
            warnings=tuple(warnings),
        )

    def load(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, encoders: bool = True
    ) -> TextTeacher:
        """The frozen teacher.

        Args:
            device, dtype: of the transformer.
            encoders: False leaves tokenizers and text encoders out, for embeddings that were cached.

        Raises:
            ModelError: missing, unreachable, damaged, or of another family.
            MissingExtraError: the quantisation's library is not installed.
        """
        warnings: list[str] = []
        pipeline = load_pipeline_parts(
            self, device=device, dtype=dtype, transformer=True, encoders=encoders, on_warning=warnings.append
        )
        config = plain_config(dict(pipeline.transformer.config))
        config = self.base_config({key: list(v) if isinstance(v, tuple) else v for key, v in config.items()})
        return TextTeacher(
            name=self.source,
            module=pipeline.transformer,
            backbone=self.backbone(config),
            space=self.build_space(pipeline, config, device=torch.device(device), dtype=dtype, warnings=warnings),
            settings=self,
            network={"config": config, "config_hash": config_hash(config)},
        )

    def outline(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, encoders: bool = True
    ) -> tuple[TextTeacher, SlicedWeights]:
        """The teacher with its transformer on the meta device, and the files of its weights; arguments as `load`.

        Raises:
            ModelError: as `load`, and for a transformer of which no slices can be read.
        """
        files = transformer_files(self)
        pipeline = load_pipeline_parts(self, device=device, dtype=dtype, transformer=False, encoders=encoders)
        config = self.base_config(plain_config(read_index(self)[1]))
        module = self.build(config)
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)
        teacher = TextTeacher(
            name=self.source,
            module=module.requires_grad_(False).eval(),
            backbone=self.backbone(config),
            space=self.build_space(pipeline, config, device=torch.device(device), dtype=dtype),
            settings=self,
            network={"config": config, "config_hash": config_hash(config)},
        )
        return teacher, files

    def rebuild(
        self,
        network: dict[str, Any],
        *,
        folder: Path | None,  # noqa: ARG002
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> tuple[nn.Module, Backbone, TextSpace]:
        """The parts of a student that has every weight itself: module (on meta), backbone and space.

        Raises:
            ModelError: the base's encoders and autoencoder cannot be had, or the description is of another family.
        """
        if "config" not in network:
            raise ModelError("this student's card says nothing of config; it is no text-to-image student")
        warnings: list[str] = []
        pipeline = load_pipeline_parts(
            self, device=device, dtype=dtype, transformer=False, encoders=True, on_warning=warnings.append
        )
        config = network["config"]
        space = self.build_space(pipeline, config, device=torch.device(device), dtype=dtype, warnings=warnings)
        return self.build(config), self.backbone(config), space

    def load_space(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, encoders: bool = True
    ) -> TextSpace:
        """The encoders and the autoencoder alone, or the latter without the former.

        Raises:
            ModelError: they cannot be had.
        """
        warnings: list[str] = []
        pipeline = load_pipeline_parts(
            self, device=device, dtype=dtype, transformer=False, encoders=encoders, on_warning=warnings.append
        )
        config = self.base_config(plain_config(read_index(self)[1]))
        return self.build_space(pipeline, config, device=torch.device(device), dtype=dtype, warnings=warnings)

    def encoder_fingerprint(self) -> str:
        """What decides the embeddings of a prompt: the encoders' configs and the length, as one digest.

        Raises:
            ModelError: the configs cannot be had.
        """
        configs = [config_hash(config) for config in read_encoder_configs(self)]
        text = "|".join([self.type, *configs, str(self.max_sequence_length)])
        return f"{self.type}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def check_base(self, network: dict[str, Any], teacher: TextTeacher) -> None:
        """Raise ModelError unless a student of `network` fits this loaded teacher."""
        different = config_differences(network["config"], teacher.network["config"])
        if different:
            raise ModelError(
                f"{self.source} is no base for this student, which was trained on another architecture: "
                + "; ".join(different[:4])
                + (f"; and {len(different) - 4} more" if len(different) > 4 else "")
                + ". Pass the base it was trained on (--base)."
            )

    @abstractmethod
    def base_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A transformer's config with the output that the base has, whatever head it describes."""

    def to_released(self, weights: dict[str, Tensor], network: dict[str, Any]) -> ReleasedText:
        """A student's weights (its head aside) and description as the authors' files hold them: as they are."""
        return ReleasedText(weights=dict(weights), config=self.released_config(network["config"]))

    @abstractmethod
    def released_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A transformer's config as the authors' files give it beside a mixture's head."""

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

    def check_source(self, *, pictures: bool = False) -> None:  # noqa: ARG002
        """Raise ModelError where it can be said without loading weights that `load` will fail."""
        encoders = encoder_parts(self)  # not needed where their embeddings are cached
        wanted = [part for part in self.parts if part not in encoders]
        check_base_files(self, [part for part in wanted if part != TRANSFORMER or self.transformer is None])

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

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height that the settings name."""
        return self.width, self.height

    @abstractmethod
    def conditioning(self, module: nn.Module) -> Conditioning:
        """What a transformer of this family takes beside the latents."""

    def latent_size(self, module: nn.Module, size_px: tuple[int, int] | None) -> tuple[int, int]:  # noqa: ARG002
        """Width and height in latent positions of pictures of `size_px`; None is the size of the settings."""
        width, height = size_px or self.size_px
        return width // self.latent_factor(), height // self.latent_factor()

    def latent_factor(self) -> int:
        """Pixels along the side of a latent position: by the autoencoder's config where it is on this machine."""
        folder = local_source(self.source)
        config = folder / "vae" / "config.json" if folder is not None else None
        return 2 ** self.halvings(read_json(config)) if config is not None and config.is_file() else LATENT_FACTOR

    @abstractmethod
    def halvings(self, autoencoder: dict[str, Any]) -> int:
        """How many times an autoencoder of this config halves a picture's sides."""

    def frozen_bytes(self, module: nn.Module, item_bytes: int) -> int:
        """Bytes of the transformer's weights by the quantisation of the settings."""
        return frozen_bytes(module, self.quantization, item_bytes)

    def pipeline_parts(self) -> tuple[Part, ...]:
        """Text encoders and autoencoder: counted where the pipeline's folder is on this machine, else as published."""
        counted = counted_parts(self.source)
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

    def dummy_condition(self, module: nn.Module, batch_size: int) -> TextCondition:
        """A condition of the longest prompts on the module's device, its values of no meaning."""
        facts, place = self.conditioning(module), {"device": module.device, "dtype": module.dtype}
        return TextCondition(
            embeds=torch.zeros(batch_size, facts.text_tokens, facts.text_width, **place),
            pooled=torch.zeros(batch_size, facts.pooled_width, **place) if facts.pooled_width else None,
            guidance=torch.ones(batch_size, device=module.device) if facts.embeds_guidance else None,
        )

    def build(self, config: dict[str, Any]) -> nn.Module:
        """The transformer of a config on the meta device; its buffers are real."""
        return build_transformer(self, config)
