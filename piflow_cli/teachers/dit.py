"""Class-conditional DiT teachers (arXiv 2212.09748) in diffusers' DiTTransformer2DModel layout, flow or diffusion.

Shapes: B batch, C latent channels, H, W latent size, D network width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.guidance import guide
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.core.settings import Settings
from piflow_cli.errors import ModelError
from piflow_cli.teachers import dit_config, dit_weights
from piflow_cli.teachers.dit_space import DiTSpace
from piflow_cli.teachers.vp import VariancePreserving

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class DiTBackbone:
    """How to call a DiTTransformer2DModel, whatever its final projection is.

    Args:
        latent_channels: C.
        patch_size: side of a patch in latent positions.
        timestep_scale: the network's time is timestep_scale * sigma.
        diffusion: the noise schedule of an epsilon-predicting network, None for flow networks.
    """

    latent_channels: int
    patch_size: int
    timestep_scale: float
    diffusion: VariancePreserving | None = None

    projection_name = "proj_out_2"
    trained_modules = ()

    @property
    def layout(self) -> PatchLayout:
        """Tokens are (patch row, patch column, channel)."""
        return PatchLayout(positions=self.patch_size**2, channels_last=True)

    def network_time(self, sigma: Tensor) -> Tensor:
        """The time (B,) the network embeds at noise level sigma (B,)."""
        return self.diffusion.timestep(sigma) if self.diffusion else sigma * self.timestep_scale

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Network output (B, channels, H, W) at x (B, C, H, W), sigma (B,), labels (B,)."""
        if self.diffusion:
            x = self.diffusion.scale_input(x, sigma)
        x = x.to(module.pos_embed.proj.weight.dtype)
        return module(x, timestep=self.network_time(sigma), class_labels=condition, return_dict=False)[0]

    def embed_dim(self, module: nn.Module) -> int:
        """D."""
        return module.inner_dim

    def embed(self, module: nn.Module, sigma: Tensor, condition: Tensor) -> Tensor:
        """Time and class embedding (B, D)."""
        dtype = module.pos_embed.proj.weight.dtype
        return module.transformer_blocks[0].norm1.emb(self.network_time(sigma), condition, hidden_dtype=dtype)

    def projection(self, module: nn.Module) -> nn.Linear:
        """The final projection, of the velocity or noise channels only where the network predicts its variance too."""
        whole = module.proj_out_2
        predicted = whole.out_features // self.layout.positions
        if predicted == self.latent_channels:
            return whole
        weight = whole.weight.view(-1, predicted, whole.in_features)[:, : self.latent_channels]  # (P, C, D)
        bias = whole.bias.view(-1, predicted)[:, : self.latent_channels]
        part = nn.Linear(whole.in_features, bias.numel(), device=whole.weight.device, dtype=whole.weight.dtype)
        part.weight.data, part.bias.data = weight.flatten(0, 1).detach(), bias.flatten().detach()
        return part

    def replace_projection(self, module: nn.Module, head: nn.Module, *, output_channels: int) -> None:
        """Put a head in the place of the final projection."""
        module.proj_out_2 = head
        module.out_channels = output_channels

    def retie(self, module: nn.Module) -> None:
        """Make the blocks share their embedding again after weights were assigned."""
        dit_weights.share_embedding(module)

    def lora_targets(self, module: nn.Module) -> list[str]:  # noqa: ARG002
        """None: DiT students are trained in full."""
        return []


@dataclass
class DiTTeacher:
    """A loaded DiT teacher: a guided velocity field."""

    name: str
    module: nn.Module
    backbone: DiTBackbone
    space: DiTSpace
    settings: DiT
    network: dict[str, Any]

    @torch.no_grad()
    def velocity(
        self, x: Tensor, sigma: Tensor, condition: Tensor, *, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Guided velocity (B, C, H, W) in float32 at x (B, C, H, W), sigma (B,), labels (B,).

        Args:
            network: evaluates the teacher's network in place of its own module.
        """
        evaluate = network or self._evaluate
        scale, interval = self.settings.guidance_scale, self.settings.guidance_interval
        inside = (sigma >= interval[0]) & (sigma <= interval[1])
        if scale == 1 or not bool(inside.any()):
            return self._unguided(evaluate, x, sigma, condition)
        null = torch.full_like(condition, self.space.num_classes)
        both = self._unguided(evaluate, torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([condition, null]))
        u_cond, u_uncond = both.chunk(2)
        orthogonal = self.settings.orthogonal
        return guide(u_cond, u_uncond, sigma, scale=scale, interval=interval, orthogonal=orthogonal, x_t=x)

    def _evaluate(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return self.backbone.predict(self.module, x, sigma, condition)

    def _unguided(self, evaluate: Callable[..., Tensor], x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        output = evaluate(x, sigma, condition).float()
        output = output[:, : self.backbone.latent_channels]  # without a predicted variance
        return self.backbone.diffusion.velocity(output, x, sigma) if self.backbone.diffusion else output


class DiT(Settings):
    """A class-conditional DiT: a diffusers folder, a hub id, or a released weight file."""

    type: Literal["dit"] = "dit"
    source: str = Field(description="diffusers folder, hub id, .safetensors or .pth file, or zoo:NAME")
    prediction: Literal["flow", "epsilon"] | None = Field(
        None, description="what the network predicts; left out, the folder's scheduler says it"
    )
    timestep_scale: float | None = Field(
        None, gt=0, description="network time = scale * sigma; left out, the folder's scheduler says it"
    )
    guidance_scale: float = Field(1.0, ge=0, le=100, description="classifier-free guidance of the teacher")
    guidance_interval: tuple[float, float] = Field((0.0, 1.0), description="noise levels where guidance acts")
    orthogonal: float = Field(0.0, ge=0, le=1, description="part of the guidance parallel to x_0 that is removed")
    vae: str | None = Field(None, description="autoencoder's folder or hub id, where the source holds none")
    architecture: Literal["DiT-S/2", "DiT-B/2", "DiT-L/2", "DiT-XL/2"] | None = Field(
        None, description="what a weight file without a config holds; also lets --plan reckon before it is there"
    )
    sample_size: int = Field(32, ge=1, description="latent height and width, for weight files without a config")
    num_attention_heads: int = Field(16, ge=1, description="attention heads, for weight files without a config")
    revision: str | None = Field(None, description="hub revision")

    students_need_base: ClassVar[bool] = False

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
        module = parts.module.requires_grad_(False).eval().to(device)
        if parts.vae is not None:
            parts.vae.requires_grad_(False).eval().to(device)
        backbone = self.backbone(parts.config, parts.scheduler)
        space = self.space(parts.config, parts.labels, parts.vae, device=device)
        labels = {str(i): name for i, name in parts.labels.items()} if parts.labels else None  # keys as in JSON
        network = {"config": parts.config, "scheduler": parts.scheduler, "labels": labels}
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
            ModelError: the description is not one of this family.
        """
        try:
            config, scheduler, labels = network["config"], network["scheduler"], network["labels"]
        except KeyError as error:
            raise ModelError(f"this student's card says nothing of {error.args[0]}; it is no DiT student") from None
        labels = {int(i): name for i, name in labels.items()} if labels else None
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

    def check_base(self, network: dict[str, Any], teacher: DiTTeacher) -> None:  # noqa: ARG002
        """Raise ModelError: no DiT student is an adapter."""
        raise ModelError("DiT students hold all their weights; they take no base")

    def check_source(self) -> None:
        """Raise ModelError where it can be said without loading weights that `load` will fail."""
        dit_weights.read_config(self)

    def describe(self) -> tuple[nn.Module, DiTBackbone]:
        """The module on the meta device and its backbone, for planning; reads a config at most."""
        if self.architecture is not None:
            config, scheduler = dit_config.named_config(self), None
        else:
            config, scheduler, _ = dit_weights.read_config(self)
        return self.build(config, device="meta"), self.backbone(config, scheduler)

    @staticmethod
    def build(config: dict[str, Any], *, device: str = "cpu") -> nn.Module:
        """An uninitialised module of a diffusers config; on "meta" it costs no memory."""
        return dit_weights.build(config, device=device)

    def backbone(self, config: dict[str, Any], scheduler: dict[str, Any] | None) -> DiTBackbone:
        """The backbone of a module's config and its scheduler's config."""
        prediction = self.prediction or dit_config.prediction_of(scheduler)
        if prediction is None:
            raise ModelError(f"nothing says what {self.source} predicts; set teacher.prediction to flow or epsilon")
        scale = self.timestep_scale
        if scale is None and prediction == "flow":
            if scheduler is None or "num_train_timesteps" not in scheduler:
                raise ModelError(
                    f"nothing says what time the network of {self.source} takes; set teacher.timestep_scale "
                    "(1 where it takes sigma, 1000 where it takes 1000 sigma)"
                )
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
        """Labels and latent space of a module's config."""
        labels = labels or {i: str(i) for i in range(config["num_embeds_ada_norm"])}
        size = config["sample_size"]
        shape = (config["in_channels"], size, size)
        return DiTSpace(labels=labels, latent_shape=shape, vae=vae, device=torch.device(device))
