"""Train the embedded text-to-image teacher: an ordinary diffusers FluxPipeline on the emoji's latents.

FluxTransformer2DModel and both text encoders learn together, with x_t = (1 - sigma) x_0 + sigma noise towards
u = noise - x_0. One caption in ten is empty, so that guidance by two passes works.
"""
# B batch, N pictures, C latent channels, h, w latent height and width.

import copy
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.guidance import guide
from piflow_cli.core.sampling import sample_euler
from piflow_cli.core.schedule import Shift
from piflow_cli.io.files import atomic_folder, write_atomic
from piflow_cli.io.pictures import grid_picture, to_pictures
from piflow_cli.teachers.flux import FluxBackbone
from piflow_cli.zoo.emoji.build.data.captions import Wording, draw_captions, wording_of
from piflow_cli.zoo.emoji.build.data.pictures import Pictures, sampling_weights
from piflow_cli.zoo.emoji.build.data.prompts import PROMPTS
from piflow_cli.zoo.emoji.build.data.text import (
    CLIP_WIDTH,
    T5_WIDTH,
    build_clip_encoder,
    build_clip_tokenizer,
    build_corpus,
    build_t5_encoder,
    build_t5_tokenizer,
    encode,
    tokenize,
)
from piflow_cli.zoo.emoji.build.latents import cached_latents, load_vae
from piflow_cli.zoo.emoji.build.training.loop import Habits, Run
from piflow_cli.zoo.emoji.build.training.schedule import Budget, Recipe

RECIPE = Recipe(muon_lr=5e-3, adam_lr=3e-3, seed=0, batch_size=64, warmup_steps=300)
NOT_MATRICES = (
    "transformer.x_embedder",
    "transformer.proj_out",
    "token_embedding",
    "position_embedding",
    "shared",
    "bias",
)
"""Parts of the names of tables, of the first and of the last layer."""
ZEROED = ("norm_out.linear", "proj_out")
HEADS, HEAD_DIM, ROPE_DIMS = 4, 48, (8, 20, 20)
DOUBLE_BLOCKS, SINGLE_BLOCKS = 2, 4
JUDGED_PICTURES, JUDGED_BATCH = 512, 128
GROUP_SHARES = {"animals-nature": 1.5, "food-drink": 1.5, "people-body": 0.4, "flags": 0.6, "symbols": 0.5}
"""How much oftener than `sampling_weights` says a group is drawn: what people ask for first; others 1."""
GUIDANCE_SCALE = 3.0
SHIFT = Shift(4.0)
"""Of training and of sampling."""
DRAWN_STEPS = 16
COLUMNS = 10


def build_transformer(latent_channels: int, *, double: int = DOUBLE_BLOCKS, single: int = SINGLE_BLOCKS) -> nn.Module:
    """A fresh FluxTransformer2DModel, 192 wide; modulations and output begin at zero (adaLN-Zero)."""
    transformer = FluxTransformer2DModel(
        in_channels=4 * latent_channels,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=ROPE_DIMS,
    )
    for name, module in transformer.named_modules():
        if name.endswith((".norm1.linear", ".norm1_context.linear", ".norm.linear")) or name in ZEROED:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def draw_sigma(batch_size: int, generator: torch.Generator) -> Tensor:
    """Half logit-normal(0, 1), half uniform in raw time, then shifted towards noise.

    What a picture shows is decided at high noise: its coarse shape, a few of the latents' dimensions, is several times
    louder than the rest.

    Returns:
        (B,) float32 in (0, 1).
    """
    logit_normal = torch.randn(batch_size, generator=generator).sigmoid()
    uniform = torch.rand(batch_size, generator=generator)
    tau = torch.where(torch.rand(batch_size, generator=generator) < 0.5, logit_normal, uniform)
    return SHIFT.sigma(tau)


def attention_for(device: torch.device) -> AbstractContextManager:
    """What to train with: for 32 tokens on a CPU the flash kernel takes twice as long as plain products."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class TeacherTask:
    """Learning latents from captions.

    Args:
        pictures: all; the teacher learns those that were held out from the autoencoder, too.
        wordings: what each may be called, N of them.
        vae: the finished autoencoder.
        latents: posterior mean and standard deviation of all pictures, (N, C, h, w), as the autoencoder gives them.
        batch_size: pictures a step.
        blocks: how many double and single blocks.
        device: where to train.
        compiled: whether steps go through torch.compile: 1.2 times as fast on a CPU, which needs a C++ compiler.
    """

    def __init__(
        self,
        pictures: Pictures,
        wordings: list[Wording],
        vae: AutoencoderKL,
        latents: tuple[Tensor, Tensor],
        *,
        batch_size: int,
        device: torch.device,
        blocks: tuple[int, int] = (DOUBLE_BLOCKS, SINGLE_BLOCKS),
        compiled: bool = False,
    ) -> None:
        corpus = build_corpus(wordings)
        self.clip_tokenizer, self.t5_tokenizer = build_clip_tokenizer(corpus), build_t5_tokenizer(corpus)
        self.wordings, self.style, self.vae, self.batch_size = wordings, pictures.style, vae.to(device), batch_size
        shares = torch.tensor([GROUP_SHARES.get(emoji.group, 1.0) for emoji in pictures.emoji])
        self.weights = sampling_weights(pictures.emoji, pictures.style) * shares
        self.mean = (latents[0] - vae.config.shift_factor) * vae.config.scaling_factor  # (N, C, h, w)
        self.std = latents[1] * vae.config.scaling_factor
        channels = vae.config.latent_channels
        self.backbone = FluxBackbone(latent_channels=channels)
        self.network = nn.ModuleDict(
            {
                "transformer": build_transformer(channels, double=blocks[0], single=blocks[1]),
                "text_encoder": build_clip_encoder(self.clip_tokenizer),
                "text_encoder_2": build_t5_encoder(self.t5_tokenizer),
            }
        ).to(device)
        self.device = device
        self.trained = torch.compile(self.network["transformer"]) if compiled else self.network["transformer"]

    def condition(self, texts: list[str]) -> TextCondition:
        """Encoded texts."""
        ids = (tokenize(t, texts).to(self.device) for t in (self.clip_tokenizer, self.t5_tokenizer))
        embeds, pooled = encode(self.network["text_encoder"], self.network["text_encoder_2"], *ids)
        return TextCondition(embeds=embeds, pooled=pooled)

    def velocity(self, x_t: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """u (B, C, h, w) as the network has it at x_t (B, C, h, w), sigma (B,)."""
        transformer = self.trained if torch.is_grad_enabled() else self.network["transformer"]
        return self.backbone.predict(transformer, x_t, sigma, condition).float()

    def loss(self, generator: torch.Generator) -> Tensor:
        """Mean squared error between the network and u at random sigma.

        Source: flow matching, arXiv 2210.02747; empty captions, arXiv 2207.12598.
        """
        index = torch.multinomial(self.weights, self.batch_size, replacement=True, generator=generator)
        return self.loss_of(index, generator)

    def loss_of(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of the pictures at `index` (B,) with captions, sigma and noise from `generator`."""
        texts = draw_captions(self.wordings, self.style, index, generator)
        mean, std = self.mean[index], self.std[index]  # (B, C, h, w)
        x_0 = mean + std * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        sigma = draw_sigma(len(index), generator)
        x_0, noise, sigma = x_0.to(self.device), noise.to(self.device), sigma.to(self.device)
        x_t = torch.lerp(x_0, noise, sigma.view(-1, 1, 1, 1))
        with torch.autocast(self.device.type, torch.bfloat16), attention_for(self.device):
            u = self.velocity(x_t, sigma, self.condition(texts))
        return nn.functional.mse_loss(u, noise - x_0)

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """The loss of a part of the pictures that is always the same, with draws that are always the same."""
        generator = torch.Generator().manual_seed(0)
        index = torch.multinomial(self.weights, JUDGED_PICTURES, replacement=True, generator=generator)
        parts = [self.loss_of(part, generator) for part in index.split(JUDGED_BATCH)]
        return {"fixed_loss": torch.stack(parts).mean().item()}

    @torch.no_grad()
    def sample(self, prompts: list[str], *, guidance_scale: float, num_steps: int, seed: int = 0) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] by guidance in two passes and Euler steps."""
        noise = torch.randn((len(prompts), *self.mean.shape[1:]), generator=torch.Generator().manual_seed(seed))
        with torch.autocast(self.device.type, torch.bfloat16):
            condition, empty = self.condition(prompts), self.condition([""] * len(prompts))

            def velocity(x: Tensor, sigma: Tensor) -> Tensor:
                pair = self.velocity(x, sigma, condition), self.velocity(x, sigma, empty)
                return guide(*pair, sigma, scale=guidance_scale)

            x_0 = sample_euler(velocity, noise.to(self.device), num_steps=num_steps, shift=SHIFT)
        config = self.vae.config
        return self.vae.decode(x_0 / config.scaling_factor + config.shift_factor).sample.cpu() / 2 + 0.5

    def draw(self) -> Image.Image:
        """A picture of every prompt in PROMPTS."""
        pictures = to_pictures(self.sample(list(PROMPTS), guidance_scale=GUIDANCE_SCALE, num_steps=DRAWN_STEPS))
        rows = [" | ".join(PROMPTS[i : i + COLUMNS]) for i in range(0, len(PROMPTS), COLUMNS)]
        return grid_picture(pictures, columns=COLUMNS, row_labels=rows)

    def save_pipeline(self, folder: Path) -> None:
        """Write an ordinary FluxPipeline folder in float16, atomically."""
        parts = {name: copy.deepcopy(part).half().cpu() for name, part in {"vae": self.vae, **self.network}.items()}
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT.m),
            tokenizer=self.clip_tokenizer,
            tokenizer_2=self.t5_tokenizer,
            **parts,
        )
        with atomic_folder(folder) as fresh:
            pipeline.save_pretrained(fresh)


def train_teacher(
    pictures: Pictures,
    work: Path,
    *,
    budget: Budget,
    device: torch.device,
    recipe: Recipe = RECIPE,
    habits: Habits | None = None,
    blocks: tuple[int, int] = (DOUBLE_BLOCKS, SINGLE_BLOCKS),
    compiled: bool = False,
) -> Path | None:
    """Train in `work/teacher`, going on where it stopped; gives the finished pipeline, or nothing if stopped early.

    Raises:
        DataError: the autoencoder is not there yet.
        StorageError: the folder cannot be written or holds a training by another recipe.
        TrainingError: the loss stays infinite.
    """
    vae, vae_hash = load_vae(work)
    latents = cached_latents(vae.to(device), vae_hash, pictures.images, work / "teacher" / "latents.safetensors")
    torch.manual_seed(recipe.seed)  # diffusers and transformers initialise from the global generator
    wordings = [wording_of(emoji) for emoji in pictures.emoji]
    task = TeacherTask(
        pictures,
        wordings,
        vae,
        latents,
        batch_size=recipe.batch_size,
        device=device,
        blocks=blocks,
        compiled=compiled,
    )
    run = Run(task, recipe, work / "teacher", excluded=NOT_MATRICES, origin=f"autoencoder {vae_hash}")
    run.resume(budget)
    if not run.train(budget, habits or Habits()):
        return None
    figures = run.judge(budget)
    folder = run.folder / "pipeline"
    with run.ema.applied():
        task.save_pipeline(folder)
    about = figures | {"step": run.progress.step, "pictures": run.progress.step * recipe.batch_size}
    write_atomic(run.folder / "result.json", json.dumps(about, indent=2) + "\n")
    return folder
