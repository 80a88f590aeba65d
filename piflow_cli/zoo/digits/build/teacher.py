"""Train the embedded teacher: a class-conditional flow-matching DiT on scikit-learn's 8x8 digits.

    python -m piflow_cli.zoo.digits.build.teacher [--out FOLDER] [--steps N] [--batch-size B] [--seed S]

The result is an ordinary diffusers folder (DiTTransformer2DModel + FlowMatchEulerDiscreteScheduler) without a VAE: the
"latents" are the pixels in [-1, 1]. Trained with x_t = (1 - sigma) x_0 + sigma noise towards u = noise - x_0; the
network is given 1000 sigma. One label in ten becomes the null class (10), so that classifier-free guidance works.
diffusers gives every block its own copy of the timestep and class embedder; here they are one module while training,
and the saved folder repeats it under every block's key. Weights are stored in float16 and load as float32.

1,500 steps take two to four minutes on two cores. Training longer brings the teacher closer to the scans (the figures
of a 6,000-step teacher stand beside the shipped one's in docs/zoo.md) and makes its students' scores, as a ratio to its
own, harder to reach in a few minutes.
"""
# B batch, N images.

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from piflow_cli.zoo.digits.build.data import CLASS_NAMES, NUM_CLASSES, SIZE_PX, load_digits_images
from piflow_cli.zoo.training import ProgressLine, exit_interrupted, replace_folder

TEACHER_FOLDER = Path(__file__).parents[1] / "teacher"
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
LABEL_DROPOUT = 0.1
EMA_GAMMA = 7.0


def build_transformer() -> DiTTransformer2DModel:
    """A 4-layer, 128-wide DiT with fresh weights from torch's global generator; blocks share one embedder."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=4,
        sample_size=SIZE_PX,
        patch_size=2,
        in_channels=1,
        num_embeds_ada_norm=NUM_CLASSES,
        norm_type="ada_norm_zero",
    )
    blocks = transformer.transformer_blocks
    for block in blocks:
        block.norm1.emb = blocks[0].norm1.emb
        nn.init.zeros_(block.norm1.linear.weight)  # adaLN-Zero: every block starts as the identity
        nn.init.zeros_(block.norm1.linear.bias)
    blocks[0].norm1.emb.class_embedder.dropout_prob = 0.0  # labels are dropped below, from a seeded generator
    nn.init.zeros_(transformer.proj_out_2.weight)
    nn.init.zeros_(transformer.proj_out_2.bias)
    return transformer


def draw_sigma(batch_size: int, generator: torch.Generator) -> Tensor:
    """Half logit-normal(0, 1), half uniform: most draws where the loss is hard, enough at both ends of the path.

    Returns:
        (B,) float32 in (0, 1).
    """
    logit_normal = torch.randn(batch_size, generator=generator).sigmoid()
    uniform = torch.rand(batch_size, generator=generator)
    return torch.where(torch.rand(batch_size, generator=generator) < 0.5, logit_normal, uniform)


def flow_matching_loss(
    transformer: DiTTransformer2DModel, x_0: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error between the network and u = noise - x_0 at random sigma.

    Args:
        transformer: takes (B, 1, 8, 8), timestep (B,) = 1000 sigma, labels (B,).
        x_0: (B, 1, 8, 8) in [-1, 1].
        labels: (B,) int64; one in ten is replaced by the null class.
        generator: source of sigma, noise and dropped labels.

    Returns:
        Scalar loss.

    Source: flow matching, arXiv 2210.02747; label dropout, arXiv 2207.12598.
    """
    sigma = draw_sigma(len(x_0), generator)  # (B,)
    noise = torch.randn(x_0.shape, generator=generator)
    dropped = torch.rand(len(x_0), generator=generator) < LABEL_DROPOUT
    x_t = torch.lerp(x_0, noise, sigma.view(-1, 1, 1, 1))  # (B, 1, 8, 8)
    u = transformer(x_t, 1000 * sigma, labels.masked_fill(dropped, NUM_CLASSES)).sample
    return nn.functional.mse_loss(u, noise - x_0)


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0 at `num_steps`."""
    warmup = min(WARMUP_STEPS, num_steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(num_steps - warmup, 1)))


@torch.no_grad()
def update_ema(ema: DiTTransformer2DModel, live: DiTTransformer2DModel, step: int) -> None:
    """Power-function EMA, beta = (1 - 1/t)^(gamma + 1) with t = step (1-based).

    Source: arXiv 2312.02696, eq. 121 (gamma = 7).
    """
    beta = (1 - 1 / step) ** (EMA_GAMMA + 1)
    torch._foreach_lerp_(list(ema.parameters()), list(live.parameters()), 1 - beta)


def train_teacher(*, num_steps: int, batch_size: int, seed: int) -> DiTTransformer2DModel:
    """Train on all the digits and give the EMA network in eval mode, blocks still sharing one embedder."""
    images, labels = load_digits_images()
    x_data = images * 2 - 1  # (N, 1, 8, 8) in [-1, 1]
    torch.manual_seed(seed)  # diffusers initialises from the global generator
    transformer, ema = build_transformer(), build_transformer()
    ema.load_state_dict(transformer.state_dict())
    ema.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_steps))
    progress = ProgressLine(num_steps)
    for step in range(1, num_steps + 1):
        index = torch.randint(len(x_data), (batch_size,), generator=generator)
        loss = flow_matching_loss(transformer, x_data[index], labels[index], generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        update_ema(ema, transformer, step)
        progress.update(step, loss.item())
    return ema


def save_teacher(transformer: DiTTransformer2DModel, folder: Path) -> None:
    """Write `transformer` as a plain diffusers pipeline folder, atomically.

    Args:
        transformer: the trained network; its blocks may share one embedder.
        folder: replaced as a whole.
    """
    plain = DiTTransformer2DModel.from_config(transformer.config)  # every block with an embedder of its own
    plain.load_state_dict(transformer.state_dict())
    index = {
        "_class_name": "DiTPipeline",
        "id2label": {str(label): name for label, name in enumerate(CLASS_NAMES)},
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": [None, None],
    }

    def write(fresh: Path) -> None:
        plain.half().save_pretrained(fresh / "transformer")
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0).save_pretrained(fresh / "scheduler")
        (fresh / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

    replace_folder(folder, write)


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m piflow_cli.zoo.digits.build.teacher", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=TEACHER_FOLDER, help="folder to write (default: the embedded one)")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.batch_size < 1:
        parser.error("--steps and --batch-size must be at least 1")
    try:
        transformer = train_teacher(num_steps=options.steps, batch_size=options.batch_size, seed=options.seed)
        save_teacher(transformer, options.out)
    except KeyboardInterrupt:
        return exit_interrupted(str(options.out))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
