"""How a DiTTransformer2DModel is called, whatever its final projection is.

Shapes: B batch, C latent channels, H, W latent size, D network width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.teachers.dit.vp import VariancePreserving


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
    time_argument = "timestep"
    trained_modules = ()

    @property
    def layout(self) -> PatchLayout:
        """Tokens are (patch row, patch column, channel)."""
        return PatchLayout(sides=(self.patch_size, self.patch_size), channels_last=True)

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

    def lora_targets(self, module: nn.Module) -> list[str]:  # noqa: ARG002
        """None: DiT students are trained in full."""
        return []
