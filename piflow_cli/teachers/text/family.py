"""What families of text-to-image teachers share: how they are loaded and fitted to a student."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Backbone, BaseWalk
from piflow_cli.errors import ModelError
from piflow_cli.io.hub import local_path
from piflow_cli.io.tensors.digests import digest_models, fingerprint
from piflow_cli.io.tensors.exact import held_dtype
from piflow_cli.io.tensors.slices import SlicedWeights
from piflow_cli.io.weights import read_json
from piflow_cli.teachers.text.described import DescribedText
from piflow_cli.teachers.text.loading.base import (
    TRANSFORMER,
    base_file,
    check_base_files,
    encoder_parts,
    read_encoder_configs,
    read_index,
)
from piflow_cli.teachers.text.loading.configs import config_differences, config_hash, plain_config
from piflow_cli.teachers.text.loading.outline import transformer_files
from piflow_cli.teachers.text.loading.parts import load_pipeline_parts
from piflow_cli.teachers.text.reference import base_walk
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.teacher import TextTeacher

VAE = "vae"


class TextFamily(DescribedText, ABC):
    """A diffusers text-to-image pipeline: its folder or hub id, and how it is used."""

    space_class: ClassVar[Callable[..., TextSpace]]

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
            backbone=self.backbone(config),
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
        for name, tensor in module.state_dict(keep_vars=True).items():  # buffers too where they are in files
            tensor.data = tensor.data.to(held_dtype(module, name, dtype))
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

    def base_walk(
        self,
        teacher: TextTeacher,
        condition: TextCondition,
        *,
        size_px: tuple[int, ...],
        seed: int,
        num_steps: int,
        scale: float,
        pictures: Sequence[Any] = (),
    ) -> BaseWalk:
        """The walk of the base's own pipeline; arguments as `TeacherFamily.base_walk`."""
        asked = {"seed": seed, "num_steps": num_steps, "scale": scale, "pictures": pictures}
        return base_walk(teacher, condition, size_px=size_px, **asked)

    def encoder_fingerprint(self, *, pictures: bool = False) -> str:
        """What decides the embeddings of a prompt: length, the encoders' configs, and weights where they are here.

        Args:
            pictures: whether prompts are about reference pictures, which the autoencoder encodes.

        Raises:
            ModelError: the configs cannot be had.
        """
        configs = [config_hash(config) for config in read_encoder_configs(self)]
        parts = [part for part in self.parts if part.startswith("text_encoder")]
        if pictures:
            configs.append(config_hash(read_json(base_file(self, f"{VAE}/config.json"))))
            parts.append(VAE)
        weights = self._weights_digest(parts)
        return fingerprint(self.type, [*configs, self.max_sequence_length], weights)

    def autoencoder_fingerprint(self) -> str:
        """What decides the latents of a picture, as `encoder_fingerprint`.

        Raises:
            ModelError: the config cannot be had.
        """
        config = read_json(base_file(self, f"{VAE}/config.json"))
        return fingerprint(self.type, [config_hash(config)], self._weights_digest([VAE]))

    def _weights_digest(self, parts: Sequence[str]) -> str | None:
        """Of some parts of the pipeline, None where their weights are not on this machine."""
        folder = local_path(self.source, revision=self.revision)
        return digest_models([folder / part for part in parts], variant=self.variant) if folder is not None else None

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

    def check_source(self, *, pictures: bool = False) -> None:  # noqa: ARG002
        """Raise ModelError where it can be said without loading weights that `load` will fail."""
        encoders = encoder_parts(self)  # not needed where their embeddings are cached
        wanted = [part for part in self.parts if part not in encoders]
        check_base_files(self, [part for part in wanted if part != TRANSFORMER or self.transformer is None])
