"""Class-conditional DiT teachers (arXiv 2212.09748) in diffusers' DiTTransformer2DModel layout, flow or diffusion.

Shapes: B batch, C latent channels, H, W latent size, D network width.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.guidance import guide
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.core.settings import Settings
from piflow_cli.errors import DataError, ModelError
from piflow_cli.teachers import dit_weights
from piflow_cli.teachers.vp import VariancePreserving

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

MAX_LABELS_SHOWN = 12


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


@dataclass
class DiTSpace:
    """The conditions and the latent space of a DiT: class labels, and an autoencoder where it works on latents.

    Args:
        labels: class names by index.
        latent_shape: (C, H, W).
        vae: AutoencoderKL, or None where the network works on pixels in [-1, 1].
    """

    labels: dict[int, str]
    latent_shape: tuple[int, int, int]
    vae: AutoencoderKL | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def num_classes(self) -> int:
        """Classes without the null class, whose label is num_classes."""
        return len(self.labels)

    @property
    def image_size_px(self) -> int:
        """Height and width of a decoded picture."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae is not None else 1
        return self.latent_shape[-1] * factor

    @property
    def image_channels(self) -> int:
        """1 or 3."""
        return self.vae.config.out_channels if self.vae is not None else self.latent_shape[0]

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Labels (B,) of class names or indices.

        Raises:
            DataError: empty, out of range, or no class of this name.
        """
        return torch.tensor([self._label(prompt) for prompt in prompts], device=self.device)

    def _label(self, prompt: str) -> int:
        prompt = prompt.strip()
        if not prompt:
            raise DataError("the prompt is empty; for a class model give a class name or index, such as 3")
        if prompt.lstrip("+-").isdigit():
            if int(prompt) not in self.labels:
                raise DataError(f"class {prompt} is out of range; this model has classes 0 to {self.num_classes - 1}")
            return int(prompt)
        names = {name.strip().lower(): i for i, names in self.labels.items() for name in [names, *names.split(",")]}
        if prompt.lower() in names:
            return names[prompt.lower()]
        near = difflib.get_close_matches(prompt.lower(), names, n=3, cutoff=0.5)
        shown = ", ".join(list(self.labels.values())[:MAX_LABELS_SHOWN])
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Classes: {shown}{', ...' * (len(names) > 12)}"
        raise DataError(
            f"no class {prompt!r} in this model; give a name or an index 0 to {self.num_classes - 1}. {hint}"
        )

    def conditions(self, labels: Tensor) -> Tensor:
        """The condition of class indices (B,): themselves, on the model's device."""
        return labels.to(self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 1 or 3, H, W) in [0, 1] of latents (B, C, H, W)."""
        if self.vae is not None:
            scaled = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)
            latents = self.vae.decode(scaled.to(self.vae.dtype)).sample.float()
        return (latents / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, H, W) of pictures in [0, 1]; an autoencoder's posterior is sampled."""
        x = images.to(self.device) * 2 - 1
        if self.vae is None:
            return x
        posterior = self.vae.encode(x.to(self.vae.dtype)).latent_dist
        shift = self.vae.config.shift_factor or 0
        return (posterior.sample(generator).float() - shift) * self.vae.config.scaling_factor


@dataclass
class DiTTeacher:
    """A loaded DiT teacher: a guided velocity field."""

    name: str
    module: nn.Module
    backbone: DiTBackbone
    space: DiTSpace
    settings: DiT

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Guided velocity (B, C, H, W) in float32 at x (B, C, H, W), sigma (B,), labels (B,)."""
        scale, interval = self.settings.guidance_scale, self.settings.guidance_interval
        inside = (sigma >= interval[0]) & (sigma <= interval[1])
        if scale == 1 or not bool(inside.any()):
            return self._unguided(x, sigma, condition)
        null = torch.full_like(condition, self.space.num_classes)
        both = self._unguided(torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([condition, null]))
        u_cond, u_uncond = both.chunk(2)
        orthogonal = self.settings.orthogonal
        return guide(u_cond, u_uncond, sigma, scale=scale, interval=interval, orthogonal=orthogonal, x_t=x)

    def _unguided(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        output = self.backbone.predict(self.module, x, sigma, condition).float()
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
    sample_size: int = Field(32, ge=1, description="latent height and width, for weight files without a config")
    num_attention_heads: int = Field(16, ge=1, description="attention heads, for weight files without a config")
    revision: str | None = Field(None, description="hub revision")

    def load(self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> DiTTeacher:
        """Load the frozen teacher in eval mode.

        Raises:
            ModelError: missing, of another family, damaged, or with settings that nothing gives.
        """
        parts = dit_weights.load(self, dtype=dtype)
        module = parts.module.requires_grad_(False).eval().to(device)
        if parts.vae is not None:
            parts.vae.requires_grad_(False).eval().to(device)
        backbone = self.backbone(parts.config, parts.scheduler)
        space = self.space(parts.config, parts.labels, parts.vae, device=device)
        return DiTTeacher(name=self.source, module=module, backbone=backbone, space=space, settings=self)

    def check_source(self) -> None:
        """Raise ModelError where it can be said without loading weights that `load` will fail."""
        dit_weights.read_config(self)

    def describe(self) -> tuple[nn.Module, DiTBackbone]:
        """The module on the meta device and its backbone, for planning; reads the config only."""
        config, scheduler, _ = dit_weights.read_config(self)
        return self.build(config, device="meta"), self.backbone(config, scheduler)

    @staticmethod
    def build(config: dict[str, Any], *, device: str = "cpu") -> nn.Module:
        """An uninitialised module of a diffusers config; on "meta" it costs no memory."""
        return dit_weights.build(config, device=device)

    def backbone(self, config: dict[str, Any], scheduler: dict[str, Any] | None) -> DiTBackbone:
        """The backbone of a module's config and its scheduler's config."""
        prediction = self.prediction or dit_weights.prediction_of(scheduler)
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
