# A change of the latents' basis after which equal distances between latents are equal distances between pictures.
# N pictures, C latent channels, h, w latent height and width.

import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.func import jvp, vjp

PROBE_BATCH = 32
SMALLEST_GAIN = 1e-3
"""Directions to which the decoder is nearly blind keep this share of the greatest gain."""


def pixel_metric(vae: AutoencoderKL, latents: Tensor, generator: torch.Generator) -> Tensor:
    """How much pictures change with their latents: the mean over places of J^T J, J the decoder's Jacobian.

    Hutchinson's estimate, one random probe v a picture: E[(J^T J v) v^T] is J^T J.

    Args:
        vae: in float32.
        latents: (N, C, h, w) to measure at, as the decoder takes them.
        generator: of the probes.

    Returns:
        (C, C) float64, symmetric: squared distance of the pictures, in squared pixel values on the scale of [-1, 1],
        for a squared unit at one place.
    """
    total = torch.zeros(latents.shape[1], latents.shape[1], dtype=torch.float64)
    for part in latents.split(PROBE_BATCH):
        z = part.to(vae.device)
        probe = torch.randn(z.shape, generator=generator).to(vae.device)
        pushed, pull = jvp(vae.decoder, (z,), (probe,))[1], vjp(vae.decoder, z)[1]
        pulled = pull(pushed)[0]
        total += torch.einsum("nchw,ndhw->cd", pulled, probe).double().cpu()
    mean = total / (latents.numel() / latents.shape[1])
    return (mean + mean.T) / 2


@torch.no_grad()
def use_pixel_metric(vae: AutoencoderKL, mean: Tensor, std: Tensor, *, seed: int = 0, strength: float = 1.0) -> None:
    """Fold a change of basis into the last layer of the encoder and the first of the decoder: pictures stay the same.

    An autoencoder's KL term makes every channel nearly as loud as every other one, fine detail as loud as shape. A flow
    trained on such latents spends most of its loss on what can hardly be seen. In the new basis R z, with R the square
    root of the decoder's metric, the flow's squared error is that of the pictures, to first order. The posterior's
    standard deviations become one constant a channel, the mean over all pictures.

    Args:
        vae: changed in place; its convolutions next to the latents must be the encoder's and decoder's own (no
            `quant_conv`).
        mean: (N, C, h, w) posterior mean of some pictures.
        std: (N, C, h, w) posterior standard deviation.
        seed: of the probes.
        strength: 1 for the full change, 0 for none: R is the metric to the power of half of it.
    """
    metric = pixel_metric(vae, mean, torch.Generator().manual_seed(seed))
    gains, directions = torch.linalg.eigh(metric)
    gains = gains.clamp_min(gains.max() * SMALLEST_GAIN) ** (strength / 2)
    change = directions @ torch.diag(gains) @ directions.T  # R (C, C)
    back = directions @ torch.diag(1 / gains) @ directions.T
    channels = len(change)

    variance = change.square() @ std.double().square().mean(dim=(0, 2, 3))  # (C,) diagonal of R diag(std^2) R^T
    last, first = vae.encoder.conv_out, vae.decoder.conv_in
    change, back = change.to(last.weight.device), back.to(first.weight.device)
    last.weight[:channels] = torch.einsum("cd,dihw->cihw", change, last.weight[:channels].double()).float()
    last.bias[:channels] = (change @ last.bias[:channels].double()).float()
    last.weight[channels:] = 0
    last.bias[channels:] = variance.log().float()
    first.weight.copy_(torch.einsum("odhw,dc->ochw", first.weight.double(), back).float())
    assert math.isfinite(first.weight.sum().item()), "a metric without a root"
