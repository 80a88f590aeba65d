"""Train the autoencoder of the embedded text-to-image teacher: an ordinary diffusers AutoencoderKL on 64x64 emoji.

Eight times smaller with 16 channels, as FLUX.1's. The loss is the negative log-likelihood of a Gaussian with the best
variance for each picture, log RMSE, so that every decibel of every picture counts alike, plus the KL term.
"""
# B batch, N pictures, C latent channels, h, w latent height and width (an eighth of the pixels').

import copy
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from piflow_cli.io.files import atomic_folder, write_atomic
from piflow_cli.io.pictures import grid_picture, to_pictures
from piflow_cli.zoo.emoji.build.data.pictures import Pictures, sampling_weights
from piflow_cli.zoo.emoji.build.training.latent_metric import use_pixel_metric
from piflow_cli.zoo.emoji.build.training.loop import Habits, Run
from piflow_cli.zoo.emoji.build.training.schedule import Budget, Recipe

CHANNELS = (16, 32, 64, 96)
LATENT_CHANNELS = 16
RECIPE = Recipe(muon_lr=3e-3, adam_lr=1.5e-3, seed=0, batch_size=16)
KL_WEIGHT = 1.0
"""1 is the bound on the likelihood; 0.3 gives 1.3 dB more for latents that carry twice the nats."""
MSE_FLOOR = 1e-5
"""Added to a picture's squared error on the scale of [-1, 1]: 56 dB, so that flat pictures do not rule the loss."""
FLIP_SHARE = 0.5
RECOLOUR_SHARE = 0.25
JUDGED_BATCH = 64
DRAWN = 16
MEASURED = 1024
"""Pictures at which the decoder's metric is measured."""


def build_vae(channels: tuple[int, ...] = CHANNELS, latent_channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    """A fresh autoencoder, weights from torch's global generator.

    Few channels at full size, where nearly all the time goes, and many in the depth: of the layouts tried the best PSNR
    for the time.
    """
    depth = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def to_signed(images: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) uint8 as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def psnr_of(images: Tensor, rebuilt: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, (N,).

    Args:
        images: (N, 3, H, W) in [-1, 1].
        rebuilt: likewise; clamped and rounded to 256 levels as a file would be.
    """
    rounded = ((rebuilt.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    mse = ((rounded - images) / 2).square().mean(dim=(1, 2, 3))  # (N,)
    return -10 * mse.clamp_min(1e-10).log10()


class VaeTask:
    """Drawing, rebuilding and judging pictures.

    Args:
        vae: to train, on its device.
        pictures: all; those held out are judged.
        batch_size: pictures a step.
    """

    def __init__(self, vae: AutoencoderKL, pictures: Pictures, *, batch_size: int) -> None:
        self.network, self.batch_size = vae, batch_size
        self.images, self.held_out = pictures.images, pictures.images[pictures.held_out]
        self.weights = sampling_weights(pictures.emoji, pictures.style).masked_fill(pictures.held_out, 0)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    def batch(self, generator: torch.Generator) -> Tensor:
        """Pictures to train on, (B, 3, H, W) in [-1, 1]; half the batches mirrored, a quarter with colours swapped."""
        index = torch.multinomial(self.weights, self.batch_size, replacement=True, generator=generator)
        x = to_signed(self.images[index])
        if torch.rand((), generator=generator) < FLIP_SHARE:
            x = x.flip(3)
        if torch.rand((), generator=generator) < RECOLOUR_SHARE:
            x = x[:, torch.randperm(3, generator=generator)]
        return x.contiguous()

    def loss(self, generator: torch.Generator) -> Tensor:
        """Negative evidence bound per pixel value, in nats, without its constants.

        Source: the Gaussian of best variance, arXiv 2006.13202 (here for each picture); KL weight, beta-VAE.
        """
        x = self.batch(generator).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            posterior = self.network.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
            rebuilt = self.network.decode(posterior.mean + posterior.std * noise).sample
        mse = (rebuilt.float() - x).square().mean(dim=(1, 2, 3))  # (B,)
        kl = posterior.kl().float() / x[0].numel()  # (B,)
        return (0.5 * (mse + MSE_FLOOR).log() + KL_WEIGHT * kl).mean()

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """Mean PSNR of held-out pictures rebuilt from the posterior's mean, and the nats a latent value carries."""
        psnr, nats = [], []
        for images in self.held_out.split(JUDGED_BATCH):
            x = to_signed(images).to(self.device)
            posterior = self.network.encode(x).latent_dist
            psnr.append(psnr_of(x, self.network.decode(posterior.mean).sample))
            nats.append(posterior.kl() / posterior.mean[0].numel())
        return {"psnr": torch.cat(psnr).mean().item(), "nats": torch.cat(nats).mean().item()}

    @torch.no_grad()
    def draw(self) -> Image.Image:
        """Held-out pictures above what becomes of them."""
        x = to_signed(self.held_out[:: max(1, len(self.held_out) // DRAWN)][:DRAWN]).to(self.device)
        rebuilt = self.network.decode(self.network.encode(x).latent_dist.mean).sample
        both = torch.cat([x, rebuilt]).float().cpu() / 2 + 0.5
        return grid_picture(to_pictures(both), columns=len(x))


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation of pictures (N, 3, H, W) uint8: two tensors (N, C, h, w) on the CPU."""
    mean, std = [], []
    for part in images.split(JUDGED_BATCH):
        posterior = vae.encode(to_signed(part).to(vae.device, vae.dtype)).latent_dist
        mean.append(posterior.mean.float().cpu())
        std.append(posterior.std.float().cpu())
    return torch.cat(mean), torch.cat(std)


def set_scale(vae: AutoencoderKL, images: Tensor) -> None:
    """Set `shift_factor` and `scaling_factor` so that latents of `images` have mean 0 and standard deviation 1."""
    mean, std = encode_all(vae, images)
    variance = mean.var() + std.square().mean()
    vae.register_to_config(shift_factor=mean.mean().item(), scaling_factor=1 / variance.sqrt().item())


def train_vae(
    pictures: Pictures,
    work: Path,
    *,
    budget: Budget,
    device: torch.device,
    recipe: Recipe = RECIPE,
    habits: Habits | None = None,
    channels: tuple[int, ...] = CHANNELS,
) -> Path | None:
    """Train in `work/vae`, going on where it stopped; gives the finished diffusers folder, or nothing if stopped early.

    Raises:
        StorageError: the folder cannot be written or holds a training by another recipe.
        TrainingError: the loss stays infinite.
    """
    torch.manual_seed(recipe.seed)  # diffusers initialises from the global generator
    vae = build_vae(channels).to(device)
    task = VaeTask(vae, pictures, batch_size=recipe.batch_size)
    run = Run(task, recipe, work / "vae")
    run.resume(budget)
    if not run.train(budget, habits or Habits()):
        return None
    figures = run.judge(budget)
    folder = run.folder / "model"
    with run.ema.applied():
        vae.eval()
        shown = pictures.images[~pictures.held_out]
        use_pixel_metric(vae, *encode_all(vae, shown[torch.randperm(len(shown))[:MEASURED]]))
        set_scale(vae, shown)
        stored = copy.deepcopy(vae)
    with atomic_folder(folder) as fresh:
        stored.half().save_pretrained(fresh)
    about = figures | {"step": run.progress.step, "pictures": run.progress.step * recipe.batch_size}
    write_atomic(run.folder / "result.json", json.dumps(about, indent=2) + "\n")
    return folder
