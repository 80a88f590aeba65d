"""Tests of the attention kernel of training: plain for short sequences on CPUs, with equal results."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from piflow_cli.engine.distill.attention import training_attention

CPU = torch.device("cpu")


def gradients(latent_shape: tuple[int, ...]) -> tuple[str, list[torch.Tensor]]:
    """What attention's backward pass is called under the kernel of these latents, and its gradients."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 16, 8, generator=generator).requires_grad_() for _ in range(3)]
    with training_attention(CPU, latent_shape):
        out = scaled_dot_product_attention(*inputs)
        name = type(out.grad_fn).__name__
        out.square().sum().backward()
    return name, [tensor.grad for tensor in inputs]


def test_short_sequences_take_plain_products_with_the_same_gradients() -> None:
    short, plain = gradients((16, 8, 8))
    long, fused = gradients((16, 64, 64))
    assert "Flash" in long
    assert "Flash" not in short
    for a, b in zip(plain, fused, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("device", "latent_shape"), [("cuda", (16, 8, 8)), ("cpu", (16, 33, 32)), ("mps", (4, 32, 32))]
)
def test_other_devices_and_long_sequences_keep_pytorchs_choice(device: str, latent_shape: tuple[int, ...]) -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    with training_attention(torch.device(device), latent_shape):
        assert torch.backends.cuda.flash_sdp_enabled() is before


def test_pytorchs_choice_is_back_afterwards() -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    with training_attention(CPU, (16, 8, 8)):
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() is before
