"""The conditions and the latent space of DiT models: class labels, and an autoencoder where they work on latents.

Shapes: B batch, C latent channels, H, W latent size.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from piflow_cli.errors import DataError, ModelError
from piflow_cli.teachers.dit.config import PICTURE_CHANNELS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

MAX_LABELS_SHOWN = 12


@dataclass
class DiTSpace:
    """The conditions and the latent space of a DiT: class labels, and an autoencoder where it works on latents.

    Args:
        labels: class names by index, one for every class that the network knows.
        latent_shape: (C, H, W).
        vae: AutoencoderKL, or None where the network works on pixels in [-1, 1].
        warnings: what a user should know of how it was loaded.
    """

    labels: dict[int, str]
    latent_shape: tuple[int, int, int]
    vae: AutoencoderKL | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    warnings: tuple[str, ...] = field(default=(), compare=False)

    frames = fps = 1
    max_tokens = None
    num_pictures = (0, 0)
    embedded_guidance = False

    @property
    def own_vae(self) -> AutoencoderKL | None:
        """The autoencoder: a student's folder holds it too."""
        return self.vae

    @property
    def autoencoder(self) -> AutoencoderKL | None:
        """The same."""
        return self.vae

    def latent_shape_of(self, width: int, height: int, frames: int | None = None) -> tuple[int, int, int]:
        """(C, H, W): there is one size.

        Raises:
            DataError: another size, or a video's.
        """
        if (width, height) != (self.image_size_px, self.image_size_px) or frames not in (None, 1):
            what = "videos" if frames not in (None, 1) else f"{width}x{height}"
            raise DataError(f"this model draws {self.image_size_px}x{self.image_size_px} pixels, not {what}")
        return self.latent_shape

    def identity(self) -> tuple[str, tuple[object, ...]]:
        """Latents, classes and picture size."""
        return "latents, classes and picture size", (tuple(self.latent_shape), self.num_classes, self.image_size_px)

    def dropped_tokens(self, prompts: Sequence[str]) -> list[int]:
        """None of a class name."""
        return [0] * len(prompts)

    def unknown_tokens(self, prompts: Sequence[str]) -> list[int]:
        """None of a class name."""
        return [0] * len(prompts)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of its pictures."""
        return (self.image_size_px, self.image_size_px)

    @property
    def num_classes(self) -> int:
        """Classes without the null class."""
        return len(self.labels)

    @property
    def null_class(self) -> int:
        """The label that the network was trained on where there was none: the one after its last class."""
        return self.num_classes

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

    @property
    def classes_are_named(self) -> bool:
        """Whether any class has a name beside its number."""
        return any(name != str(i) for i, name in self.labels.items())

    def find_class(self, name: str) -> int | None:
        """The class of a name or a number; None where there is none. Case, `_` and `-` make no difference."""
        if name.strip().isdecimal():
            return int(name) if int(name) in self.labels else None
        return self._by_name().get(_plain(name))

    def _by_name(self) -> dict[str, int]:
        """Classes by each of their names, which commas part."""
        return {_plain(name): i for i, names in self.labels.items() for name in [names, *names.split(",")]}

    def examples(self, count: int) -> list[str]:
        """The first name of up to `count` classes, spread evenly over all."""
        chosen = dict.fromkeys(self.preview_conditions(count).tolist())
        return [self.labels[i].split(",")[0].strip() for i in chosen]

    def _label(self, prompt: str) -> int:
        prompt = prompt.strip()
        if not prompt:
            raise DataError("the prompt is empty; for a class model give a class name or index, such as 3")
        found = self.find_class(prompt)
        if found is not None:
            return found
        if prompt.lstrip("+-").isdigit():
            raise DataError(f"class {prompt} is out of range; this model has classes 0 to {self.num_classes - 1}")
        near = difflib.get_close_matches(_plain(prompt), self._by_name(), n=3, cutoff=0.5)
        shown = ", ".join(list(self.labels.values())[:MAX_LABELS_SHOWN])
        shown += ", ..." if self.num_classes > MAX_LABELS_SHOWN else ""
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Classes: {shown}"
        raise DataError(
            f"no class {prompt!r} in this model; give a name or an index 0 to {self.num_classes - 1}. {hint}"
        )

    def conditions(self, labels: Tensor) -> Tensor:
        """The condition of class indices (B,): themselves, on the model's device."""
        return labels.to(self.device)

    def encoded(self, drawn: Sequence[Tensor]) -> list[Tensor]:
        """Class indices (B,) of several batches: themselves."""
        return list(drawn)

    def preview_conditions(self, count: int) -> Tensor:
        """Classes (count,) spread evenly over all of them."""
        stride = max(1, self.num_classes // count)
        return (torch.arange(count, device=self.device) * stride) % self.num_classes

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 1 or 3, H, W) in [0, 1] of latents (B, C, H, W).

        Raises:
            ModelError: these are no pixels, and there is no autoencoder.
        """
        if self.vae is None and self.image_channels not in PICTURE_CHANNELS:
            raise ModelError(
                f"this DiT works on latents of {self.image_channels} channels and no autoencoder is known that decodes "
                "them; set teacher.vae to one's folder or hub id, such as stabilityai/sd-vae-ft-ema"
            )
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


def _plain(name: str) -> str:
    """A name as it is compared: folders have `_` for spaces."""
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))
