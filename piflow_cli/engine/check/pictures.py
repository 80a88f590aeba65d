"""Pictures, or videos: what is decoded is what was encoded, and the base's own pipeline decodes the same.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from piflow_cli.engine.check.subject import SEED, Finding, Subject, largest, right, wrong

TOLERANCE = 1e-4


@torch.no_grad()
def check_pictures(subject: Subject) -> Finding:
    """A picture to latents and back."""
    space, pixels = subject.teacher.space, picture(subject).to(subject.teacher.space.device)
    if space.autoencoder is None:
        back = space.decode(space.encode_images(pixels))
        if largest(back - pixels) > TOLERANCE:
            return wrong("pictures", f"they come back {largest(back - pixels):.3g} beside what they were")
        return right("pictures", "latents are pixels, and come back as they were")
    with _between(space.autoencoder) as (encoded, decoded):
        latents = space.encode_images(pixels, generator=torch.Generator(space.device).manual_seed(SEED))
        back = space.decode(latents)
    given, taken = encoded[0].flatten().double(), decoded[0].flatten().double()
    if latents.shape[1:] != space.latent_shape_of(*subject.sizes_px[0]):
        wanted = space.latent_shape_of(*subject.sizes_px[0])
        return wrong(
            "pictures", f"latents of {subject.sizes_px[0]} pixels are {tuple(latents.shape[1:])}, not {wanted}"
        )
    if given.shape != taken.shape or largest(given - taken) > TOLERANCE * max(1.0, largest(given)):
        return wrong("pictures", f"decoding does not undo encoding: {_relation(given, taken)}")
    noise = 10 * math.log10(1 / max(1e-12, float((back - pixels).square().mean())))
    spread = f"mean {float(latents.mean()):.2f}, std {float(latents.std()):.2f}"
    return right("pictures", f"decoding undoes encoding; a picture comes back at {noise:.1f} dB; latents {spread}")


@torch.no_grad()
def check_decoding(subject: Subject) -> Finding:
    """Pictures of latents against those of the base's own pipeline."""
    walk = subject.walk(subject.sizes_px[0])
    if walk.pictures is None:
        return Finding("decoding", None, "the base's pipeline was asked for no pictures")
    difference = largest(subject.teacher.space.decode(walk.x_0) - walk.pictures)
    if difference > TOLERANCE:
        return wrong(
            "decoding", f"pictures are {difference:.3g} beside those of the base's pipeline: another scale or shift?"
        )
    return right("decoding", f"the base's pipeline makes the same pictures of the same latents, to {difference:.1e}")


def picture(subject: Subject) -> Tensor:
    """A smooth picture (1, 1 or 3, H, W) in [0, 1]: a disc on a ramp; in a video (1, 3, F, H, W) it falls."""
    width, height, *frames = subject.sizes_px[0]
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    pictures = []
    for fall in torch.linspace(0, 0.2, *frames) if frames else [0.0]:
        disc = ((rows - 0.5 - fall).square() + (columns - 0.4).square() < 0.08).float()
        pictures.append(torch.stack([rows * columns + disc / 2, columns + 0 * rows, 1 - rows * disc]).clamp(0, 1))
    still = torch.stack(pictures, dim=1) if frames else pictures[0]
    return still[None, : subject.teacher.space.image_channels]


@contextmanager
def _between(autoencoder: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Within the context: what the autoencoder made of pictures, drawn as spaces draw it, and what it was given."""
    encode, decode = autoencoder.encode, autoencoder.decode
    encoded: list[Tensor] = []
    decoded: list[Tensor] = []

    def note_encoded(pixels: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = encode(pixels, *args, **kwargs)
        encoded.append(result.latent_dist.sample(torch.Generator(pixels.device).manual_seed(SEED)))
        return result

    def note_decoded(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(latents)
        return decode(latents, *args, **kwargs)

    autoencoder.encode, autoencoder.decode = note_encoded, note_decoded
    try:
        yield encoded, decoded
    finally:
        del autoencoder.encode, autoencoder.decode


def _relation(given: Tensor, taken: Tensor) -> str:
    """What became of latents on the way."""
    if given.shape != taken.shape:
        return f"{given.numel()} numbers went out, {taken.numel()} came back"
    basis = torch.stack([given, torch.ones_like(given)], dim=1)
    scale, shift = torch.linalg.lstsq(basis, taken[:, None]).solution.flatten().tolist()
    if largest(basis @ basis.new_tensor([[scale], [shift]]) - taken[:, None]) < 1e-3 * max(1.0, largest(taken)):
        return f"latents come back times {scale:.4g}, plus {shift:.4g}"
    return f"latents come back up to {largest(given - taken):.3g} beside what they were, each channel in its way"
