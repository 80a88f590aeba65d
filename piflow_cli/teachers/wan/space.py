"""Prompts and videos of Wan: its text encoder and its causal autoencoder.

Shapes: B batch, C latent channels, T, H, W latent size, F frames, n text tokens, D width of embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import check_sides
from piflow_cli.teachers.wan.frames import check_frames, latent_frames


class WanSpace(TextSpace):
    """Embeddings of UMT5, and the latents of a causal autoencoder of videos."""

    @property
    def frames(self) -> int:
        """Of the settings."""
        return self.settings.frames

    @property
    def fps(self) -> int:
        """Of the settings."""
        return self.settings.fps

    @property
    def factor(self) -> int:
        """Pixels along the side of a latent position."""
        return self.pipeline.vae_scale_factor_spatial

    def latent_shape_of(self, width: int, height: int, frames: int | None = None) -> tuple[int, ...]:
        """(C, T, H, W) of videos of width x height pixels; a video of one frame is a picture.

        Raises:
            DataError: a side that latents and patches cannot make up, or frames that latents cannot.
        """
        frames = self.frames if frames is None else frames
        check_sides(width, height, factor=self.factor, steps=self.backbone.side_steps())
        check_frames(frames)
        return (
            self.backbone.latent_channels,
            latent_frames(frames),
            height // self.factor,
            width // self.factor,
        )

    def embed(
        self,
        prompts: list[str],
        *,
        length: int,
        others: Mapping[str, list[str]] = MappingProxyType({}),  # noqa: ARG002
    ) -> TextCondition:
        """Embeddings (B, n, D) up to the longest prompt's end, with their mask (B, n)."""
        embeds, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        mask = embeds.abs().amax(-1) > 0  # the pipeline has put zeros behind each prompt
        longest = int(mask.sum(1).max())
        return TextCondition(embeds=embeds[:, :longest], mask=mask[:, :longest])

    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """Embeddings, with the zeros behind each prompt."""
        return {"prompt_embeds": self.backbone.filled(condition.embeds)}

    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """Of the same."""
        return TextCondition(arguments["prompt_embeds"])

    def base_size(self, width: int, height: int, frames: int | None = None) -> dict[str, Any]:
        """Width, height and frames."""
        return {"width": width, "height": height, "num_frames": self.frames if frames is None else frames}

    def base_output(self, pictures: Any) -> Any:
        """Frames."""
        from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

        return WanPipelineOutput(frames=pictures)

    def from_base_pictures(self, given: Tensor) -> Tensor:
        """Videos (B, 3, F, H, W), or pictures, of (B, F, 3, H, W)."""
        return _picture_where_one(given.float().transpose(1, 2))

    def decode(self, latents: Tensor) -> Tensor:
        """Videos (B, 3, F, H, W) in [0, 1], or of one frame pictures (B, 3, H, W), of latents (B, C, T, H, W)."""
        return _picture_where_one(super().decode(latents))

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Videos (B, 3, F, H, W) in [-1, 1] of latents (B, C, T, H, W)."""
        vae = self.pipeline.vae
        mean, deviation = self._statistics(latents)
        return vae.decode((latents * deviation + mean).to(vae.dtype), return_dict=False)[0]

    def to_latents(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Latents (B, C, T, H, W) of videos (B, 3, F, H, W) or pictures (B, 3, H, W) in [-1, 1]."""
        videos = pixels if pixels.ndim == 5 else pixels.unsqueeze(2)
        drawn = self.pipeline.vae.encode(videos).latent_dist.sample(generator).float()
        mean, deviation = self._statistics(drawn)
        return (drawn - mean) / deviation

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel of the autoencoder's latents, (C, 1, 1, 1) both."""
        config = self.pipeline.vae.config
        mean, deviation = (latents.new_tensor(values) for values in (config.latents_mean, config.latents_std))
        return mean.view(-1, 1, 1, 1), deviation.view(-1, 1, 1, 1)


def _picture_where_one(videos: Tensor) -> Tensor:
    """Videos (B, 3, F, H, W) as they are; pictures (B, 3, H, W) where they have one frame."""
    return videos.squeeze(2) if videos.shape[2] == 1 else videos
