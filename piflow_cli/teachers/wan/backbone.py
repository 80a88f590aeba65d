"""How Wan's network is called.

Wan 2.2 TI2V-5B gives it a time a token, so that a picture may be the first frame. From text alone they are all the same
(`expand_timesteps` in its index), and one a video is what it is called with here: the same function.

Shapes: B batch, C latent channels, T, H, W latent size, L text tokens, D width of embeddings and of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.teachers.text.tokens import TextBackbone, block_targets

MLP_TARGETS = ("ffn.net.0.proj", "ffn.net.2")
EMBEDDER = "condition_embedder.time_embedder"
TIME_TARGETS = (f"{EMBEDDER}.linear_1", f"{EMBEDDER}.linear_2")
TIME_SCALE = 1000
"""The network embeds 1000 sigma."""


@dataclass(frozen=True)
class WanBackbone(TextBackbone):
    """How to call a WanTransformer3DModel, whatever its final projection is.

    Args:
        text_tokens: L that embeddings are filled up to, by zeros that the network attends to as to words.
    """

    text_tokens: int

    trained_modules = ()  # what modulates its end is one parameter of the whole module
    embedding_name = EMBEDDER
    layout = PatchLayout(sides=(1, 2, 2), channels_last=True)

    def embed_dim(self, module: nn.Module) -> int:
        """D."""
        return module.config.num_attention_heads * module.config.attention_head_dim

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, T, H, W) at x (B, C, T, H, W), sigma (B,)."""
        return module(
            hidden_states=x.to(module.dtype),
            timestep=sigma * TIME_SCALE,
            encoder_hidden_states=self.filled(condition.embeds).to(module.dtype),
            return_dict=False,
        )[0]

    def filled(self, embeds: Tensor) -> Tensor:
        """Embeddings (B, L, D) of (B, n, D); longer ones stay as they are."""
        return nn.functional.pad(embeds, (0, 0, 0, max(0, self.text_tokens - embeds.shape[1])))

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:  # noqa: ARG002
        """Time embedding (B, D)."""
        embedder = module.condition_embedder
        frequencies = embedder.timesteps_proj(sigma * TIME_SCALE)
        dtype = embedder.time_embedder.linear_1.weight.dtype  # float32 where the rest is not
        return embedder.time_embedder(frequencies.to(dtype)).to(module.dtype)

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Ours, after those of FLUX.1: all MLPs and the time embedding."""
        return [*block_targets(module, "blocks", MLP_TARGETS), *TIME_TARGETS]
