"""Which attention kernel training takes where PyTorch's own choice is slow."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT_POSITIONS = 1024
"""Largest number of latent positions called short: 256 tokens of 2x2 patches, where both kernels take equal time."""


def training_attention(device: torch.device, latent_shape: tuple[int, ...]) -> AbstractContextManager[None]:
    """What a training step runs under: unfused attention for short sequences on a CPU, else PyTorch's choice.

    PyTorch's fused kernel for CPUs keeps long sequences out of memory, and its backward pass is up to ten times slower
    than plain matrix products on short ones (32 tokens in bfloat16: 7.8 ms against 0.7).

    Args:
        device: of the student.
        latent_shape: (C, *S) of a latent.
    """
    if device.type != "cpu" or math.prod(latent_shape[1:]) > SHORT_POSITIONS:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
