# The finished emoji autoencoder, and the latents of all pictures, made once for it.
# N pictures, C latent channels, h, w latent height and width.

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.io.files import write_atomic
from piflow_cli.zoo.emoji.build.vae import encode_all


def load_vae(work: Path) -> tuple[AutoencoderKL, str]:
    """The finished autoencoder in the work folder, frozen, in float32, and the hash of its weights.

    Raises:
        DataError: there is none.
    """
    folder = work / "vae" / "model"
    if not (folder / "config.json").exists():
        raise DataError(f"no autoencoder in {folder}. Run `python -m piflow_cli.zoo.emoji.build vae` to its end first.")
    weights = (folder / "diffusion_pytorch_model.safetensors").read_bytes()
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    vae.register_to_config(_name_or_path="")  # a config that ships names no folder of this machine
    return vae.eval().requires_grad_(False), hashlib.sha256(weights).hexdigest()


def cached_latents(vae: AutoencoderKL, vae_hash: str, images: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation of all pictures, (N, C, h, w), made once for an autoencoder.

    Args:
        vae: the autoencoder, on its device.
        vae_hash: of its weights; a file made by others is replaced.
        images: (N, 3, H, W) uint8.
        path: of the file.
    """
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("vae") == vae_hash and file.get_slice("mean").get_shape()[0] == len(images):
                return file.get_tensor("mean"), file.get_tensor("std")
    mean, std = encode_all(vae, images)
    write_atomic(path, save({"mean": mean, "std": std}, metadata={"vae": vae_hash}))
    return mean, std
