"""Class-conditional DiT teachers (arXiv 2212.09748) in diffusers' DiTTransformer2DModel layout, flow or diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import Advice, BaseWalk, CacheCase, Conditioning, MemoryCase, Part
from piflow_cli.errors import DataError, ModelError
from piflow_cli.io.tensors.slices import SlicedWeights
from piflow_cli.teachers.dit import config as dit_config
from piflow_cli.teachers.dit.advice import advice
from piflow_cli.teachers.dit.backbone import DiTBackbone
from piflow_cli.teachers.dit.loading import source as dit_source
from piflow_cli.teachers.dit.loading import weights as dit_weights
from piflow_cli.teachers.dit.reference import base_walk
from piflow_cli.teachers.dit.settings import DiTSettings
from piflow_cli.teachers.dit.space import DiTSpace
from piflow_cli.teachers.dit.teacher import DiTTeacher
from piflow_cli.teachers.dit.vp import VariancePreserving
from piflow_cli.teachers.local_parts import counted_parts

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

AUTOENCODER = (Part("autoencoder", 83_653_863, False, "published"),)
"""Of the published DiTs."""


class DiT(DiTSettings):
    """A class-conditional DiT: a diffusers folder, a hub id, or a released weight file."""

    def load(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encoders: bool = True,  # noqa: ARG002
    ) -> DiTTeacher:
        """Load the frozen teacher in eval mode; it has no text encoders to leave out.

        Raises:
            ModelError: missing, of another family, damaged, or with settings that nothing gives.
        """
        parts = dit_weights.load(self, dtype=dtype)
        return self._teacher(parts, parts.module.to(device), device=device)

    def outline(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encoders: bool = True,  # noqa: ARG002
    ) -> tuple[DiTTeacher, SlicedWeights]:
        """The teacher with its module on the meta device, and the files of its weights; arguments as `load`.

        Raises:
            ModelError: as `load`.
        """
        parts, files = dit_weights.outline(self, dtype=dtype)
        return self._teacher(parts, parts.module, device=device), files

    def _teacher(self, parts: dit_weights.Parts, module: nn.Module, *, device: torch.device | str) -> DiTTeacher:
        """The teacher of a module that is where it works, or on the meta device."""
        module.requires_grad_(False).eval()
        if parts.vae is not None:
            parts.vae.requires_grad_(False).eval().to(device)
        said = parts.said
        backbone = self.backbone(said.config, said.scheduler)
        space = self.space(said.config, said.labels, parts.vae, device=device)
        space.warnings = parts.warnings
        labels = {str(i): name for i, name in said.labels.items()} if said.labels else None  # keys as in JSON
        network = {"config": said.config, "scheduler": said.scheduler, "labels": labels}
        return DiTTeacher(
            name=self.source, module=module, backbone=backbone, space=space, settings=self, network=network
        )

    def rebuild(
        self,
        network: dict[str, Any],
        *,
        folder: Path | None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,  # noqa: ARG002
    ) -> tuple[nn.Module, DiTBackbone, DiTSpace]:
        """The parts of a student from what `DiTTeacher.network` said: module (on meta), backbone and space.

        Args:
            network: the teacher's own description, as a student's card keeps it.
            folder: the student's folder, which holds the autoencoder as `vae` where there is one.
            device: where the space works.

        Raises:
            ModelError: the description is not one of this family, or the autoencoder is missing or damaged.
        """
        self.check_network(network, origin="this student's card")
        config, scheduler, labels = network["config"], network["scheduler"], self.class_names(network)
        vae = dit_weights.student_vae(self, folder)
        space = self.space(config, labels, vae.to(device) if vae is not None else None, device=device)
        return self.build(config, device="meta"), self.backbone(config, scheduler), space

    def to_released(self, weights: dict[str, Tensor], network: dict[str, Any]) -> dit_config.ReleasedNetwork:
        """A student's weights (its head aside) and description as the authors' files hold them."""
        diffusion = self.backbone(network["config"], network["scheduler"]).diffusion is not None
        return dit_config.released_network(weights, network, diffusion=diffusion)

    def from_released(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the authors' files by diffusers' names."""
        return dit_config.to_diffusers(weights)

    def describe_released(self, weights: dict[str, Tensor], config: dict[str, Any] | None) -> dict[str, Any]:
        """The description that `rebuild` takes, from the authors' files; without a config shapes and settings say it.

        Raises:
            ModelError: these are no DiT weights.
        """
        return dit_config.describe_released(self, weights, config)

    def check_prompts(self, network: dict[str, Any], prompts: Sequence[str]) -> None:
        """Raise DataError for what is no class of a student of this description."""
        self.space(network["config"], self.class_names(network), None, device="cpu").encode_prompts(prompts)

    def check_size(self, width: int, height: int, frames: int | None = None) -> None:
        """Raise DataError where the source draws pictures of another size."""
        size = self.describe()[0].config.sample_size * self.latent_factor()
        if (width, height) != (size, size) or frames not in (None, 1):
            what = "videos" if frames not in (None, 1) else f"{width}x{height}"
            raise DataError(f"{self.source} draws {size}x{size} pixels, not {what}")

    def check_network(self, network: dict[str, Any], *, origin: object) -> None:
        """Raise ModelError unless a student's description of its module is one of this family."""
        missing = [key for key in ("config", "scheduler", "labels") if key not in network]
        if missing:
            raise ModelError(f"{origin} says nothing of {missing[0]}; it is no DiT student")
        dit_config.checked_config(network["config"], origin)
        lost = [key for key in dit_config.CARD_KEYS if key not in network["config"]]
        if lost:
            raise ModelError(f"{origin} says nothing of {', '.join(lost)}; it is no DiT student")
        dit_config.check_scheduler(network["scheduler"], origin)
        labels = network["labels"] or {}
        if not isinstance(labels, dict) or not all(
            isinstance(name, str) and number.isascii() and number.isdigit() and len(number) < 10
            for number, name in labels.items()
        ):
            raise ModelError(f"{origin} has labels that are no names by number: {str(labels)[:80]}")

    def class_names(self, network: dict[str, Any]) -> dict[int, str]:
        """Names of classes in a student's description of the module."""
        return {int(i): name for i, name in (network["labels"] or {}).items()}

    def load_space(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encoders: bool = True,  # noqa: ARG002
    ) -> DiTSpace:
        """The labels and the autoencoder alone; arguments and errors as `load`."""
        said, vae, warnings = dit_weights.load_vae_alone(self, dtype=dtype)
        space = self.space(said.config, said.labels, vae.to(device) if vae is not None else None, device=device)
        space.warnings = warnings
        return space

    def autoencoder_fingerprint(self) -> str:
        """What decides the latents of a picture: the autoencoder's config, and its weights where they are here.

        Raises:
            ModelError: the source or the config cannot be had.
        """
        return dit_weights.autoencoder_fingerprint(self, kind=self.type)

    def base_walk(
        self,
        teacher: DiTTeacher,
        condition: Tensor,
        *,
        size_px: tuple[int, ...],  # noqa: ARG002
        seed: int,
        num_steps: int,
        scale: float,
        pictures: Sequence[Any] = (),  # noqa: ARG002
    ) -> BaseWalk:
        """The walk of DiTPipeline; arguments as `TeacherFamily.base_walk`, there is one size."""
        return base_walk(teacher, condition, seed=seed, num_steps=num_steps, scale=scale)

    def check_base(self, network: dict[str, Any], teacher: DiTTeacher) -> None:  # noqa: ARG002
        """Raise ModelError: no DiT student is an adapter."""
        raise ModelError("DiT students hold all their weights; they take no base")

    def check_source(self, *, pictures: bool = False) -> None:
        """Raise ModelError where it can be said without loading weights that `load` will fail.

        Args:
            pictures: whether pictures will be encoded or decoded, which takes an autoencoder.
        """
        dit_source.check(self, dit_source.describe(self), pictures=pictures)

    def describe(self) -> tuple[nn.Module, DiTBackbone]:
        """The module on the meta device and its backbone, for planning; reads a config at most."""
        if self.architecture is not None and not dit_source.is_here(self):
            config, scheduler = dit_config.named_config(self), None
        else:
            said = dit_weights.planned(self)
            config, scheduler = said.config, said.scheduler
        return self.build(config, device="meta"), self.backbone(config, scheduler)

    def advice(self) -> tuple[Advice, ...]:
        """What a preset for this source should say of its own, by configs alone.

        Raises:
            ModelError: as `check_source`.
        """
        return advice(self, dit_source.describe(self))

    def conditioning(self, module: nn.Module) -> Conditioning:  # noqa: ARG002
        """Class labels."""
        return Conditioning()

    def latent_size(self, module: nn.Module, size_px: tuple[int, int] | None) -> tuple[int, int]:  # noqa: ARG002
        """Height and width in latent positions: the one size of the module's config."""
        return module.config.sample_size, module.config.sample_size

    def latent_factor(self) -> int:
        """Pixels along the side of a latent position in the autoencoder of the published DiTs."""
        return 8

    def frozen_bytes(self, module: nn.Module, item_bytes: int) -> int:
        """Bytes of the weights; none are quantised."""
        return sum(parameter.numel() for parameter in module.parameters()) * item_bytes

    def pipeline_parts(self) -> tuple[Part, ...]:
        """The autoencoder: the source's own where it is on this machine, else as published where one is named."""
        counted = counted_parts(self.source)
        return (AUTOENCODER if self.vae is not None else ()) if counted is None else counted

    def measured(self, module: nn.Module) -> tuple[MemoryCase | CacheCase, ...]:  # noqa: ARG002
        """Nothing was published of memory."""
        return ()

    def dummy_condition(
        self,
        module: nn.Module,
        batch_size: int,
        *,
        references_px: Sequence[Any] = (),  # noqa: ARG002
    ) -> Tensor:
        """The first class, (B,)."""
        return torch.zeros(batch_size, dtype=torch.long, device=module.device)

    @staticmethod
    def build(config: dict[str, Any], *, device: str = "cpu") -> nn.Module:
        """An uninitialised module of a diffusers config; on "meta" it costs no memory."""
        return dit_weights.build(config, device=device)

    def backbone(self, config: dict[str, Any], scheduler: dict[str, Any] | None) -> DiTBackbone:
        """The backbone of a module's config and its scheduler's config."""
        dit_source.ask_for(self, dit_source.missing_settings(self, scheduler))
        prediction, scale = self.prediction or dit_config.prediction_of(scheduler), self.timestep_scale
        if scale is None and prediction == "flow":
            scale = float(scheduler["num_train_timesteps"])
        diffusion = VariancePreserving.from_config(scheduler or {}) if prediction == "epsilon" else None
        return DiTBackbone(
            latent_channels=config["in_channels"],
            patch_size=config["patch_size"],
            timestep_scale=scale or 1.0,
            diffusion=diffusion,
        )

    @staticmethod
    def space(
        config: dict[str, Any], labels: dict[int, str] | None, vae: AutoencoderKL | None, *, device: torch.device | str
    ) -> DiTSpace:
        """Labels and latent space of a module's config; classes without a name are called by their number.

        Raises:
            ModelError: names of classes that the network does not know, the null class behind the last one included.
        """
        count = config["num_embeds_ada_norm"]
        strange = [i for i in labels or () if not 0 <= i < count]
        if strange:
            raise ModelError(f"id2label names class {strange[0]}, but the network knows classes 0 to {count - 1} alone")
        labels = {i: str(i) for i in range(count)} | (labels or {})
        size = config["sample_size"]
        shape = (config["in_channels"], size, size)
        return DiTSpace(labels=labels, latent_shape=shape, vae=vae, device=torch.device(device))
