"""The change of the latents' basis leaves pictures as they are and makes the decoder's metric the identity."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from piflow_cli.zoo.emoji.build.training.latent_metric import pixel_metric, use_pixel_metric
from piflow_cli.zoo.emoji.build.vae import build_vae


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_metric_of_a_linear_decoder_is_its_own_product() -> None:
    torch.manual_seed(0)
    decoder = nn.Conv2d(3, 5, 1)
    weight = decoder.weight[:, :, 0, 0].detach().double()
    vae = SimpleNamespace(decoder=decoder, device=torch.device("cpu"))
    latents = torch.zeros(4096, 3, 4, 4)
    metric = pixel_metric(vae, latents, seeded())
    torch.testing.assert_close(metric, weight.T @ weight, rtol=0.03, atol=0.03)
    torch.testing.assert_close(metric, metric.T)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_pictures_stay_and_the_metric_becomes_plain(strength: float) -> None:
    torch.manual_seed(1)
    vae = build_vae((8, 16), latent_channels=4).eval()
    images = torch.rand(512, 3, 8, 8, generator=seeded()) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        mean, std, before = posterior.mean, posterior.std, vae.decode(posterior.mean).sample
        old = pixel_metric(vae, mean, seeded(1))
        use_pixel_metric(vae, mean, std, seed=1, strength=strength)
        changed = vae.encode(images).latent_dist
        torch.testing.assert_close(vae.decode(changed.mean).sample, before, rtol=1e-4, atol=1e-5)
        new = pixel_metric(vae, changed.mean, seeded(2))
    wanted = torch.linalg.eigvalsh(old) ** (1 - strength)
    torch.testing.assert_close(torch.linalg.eigvalsh(new), wanted, rtol=0.15, atol=0)


def test_posterior_has_one_standard_deviation_a_channel_and_as_much_noise_in_pixels() -> None:
    torch.manual_seed(1)
    vae = build_vae((8, 16), latent_channels=4).eval()
    images = torch.rand(256, 3, 8, 8, generator=seeded()) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        metric = pixel_metric(vae, posterior.mean, seeded(1))
        use_pixel_metric(vae, posterior.mean, posterior.std, seed=1)
        changed = vae.encode(images).latent_dist
    assert changed.std.std(dim=(0, 2, 3)).max() == 0
    # tr(R S R) = tr(S M): in the new basis the summed variance is the noise that the pictures had.
    expected = (metric.diagonal() * posterior.std.double().square().mean(dim=(0, 2, 3))).sum()
    torch.testing.assert_close(changed.std.double().square()[0, :, 0, 0].sum(), expected, rtol=1e-4, atol=0)
