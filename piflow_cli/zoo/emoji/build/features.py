"""Train the embedded feature network "emoji-cnn", with which emoji are scored in place of Inception.

    python -m piflow_cli.zoo.emoji.build features [--work DIR]

A small classifier of the base emoji, in all styles; skin tones count as their base. A linear decoder, thrown away
afterwards, must rebuild the picture at 16x16 from the last layer: a classifier alone forgets what differs between two
pictures of one class, and its FID would hardly see blur. One style of 15% of the emoji, 5% of the pictures, is held
out: the accuracy says whether an emoji is known in a style in which it was never seen.

The features are the first D principal components of what the trained network measures of the plain pictures, each
once, without skin tones: of every measured number scaled to a variance of 1, and scaled to it once more. A FID of D is
as bad as replacing every picture by one with the mean features. `reference.safetensors` holds the features of these
pictures in 8 bits; all features come from the stored float16 weights.
"""
# B batch, N pictures, M plain pictures, D features, E measured, H hidden, K classes.

import copy
import hashlib
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from piflow_cli.io.files import atomic_folder, write_atomic
from piflow_cli.io.pictures import grid_picture, to_pictures
from piflow_cli.metrics.detectors.emoji_net import FEATURE_DIM, HIDDEN_DIM, SIZE_PX, EmojiNet
from piflow_cli.metrics.detectors.features import FeatureSet, Reference, extract_features, mean_and_cov
from piflow_cli.metrics.detectors.load import EMOJI_NAME, EmojiDetector
from piflow_cli.metrics.detectors.reference import save_compact_reference
from piflow_cli.zoo.emoji.build.data.pictures import Emoji, Pictures, sampling_weights
from piflow_cli.zoo.emoji.build.training.loop import Habits, Run
from piflow_cli.zoo.emoji.build.training.schedule import Budget, Recipe

RECIPE = Recipe(muon_lr=5e-3, adam_lr=3e-3, seed=0, batch_size=64, weight_decay=0.05)
NOT_MATRICES = ("classifier", "decoder")
"""Last layers, which get AdamW."""
HELD_OUT_PERCENT = 15
"""Of the emoji; of each of these one style in two or three."""
LABEL_SMOOTHING = 0.1
DECODER_WEIGHT = 10.0
DECODED_PX = 16
VARIED_SHARE = 0.75
FAINTEST = 1e-7
"""Variance of a component, relative to the largest, below which it is taken for rounding and not raised to 1."""
SHIFT_PX = 3
SCALE_RANGE = 0.08
TINT_RANGE = 0.1
MEASURED_BATCH = 256
DRAWN = 16


def base_emoji(emoji: tuple[Emoji, ...]) -> tuple[Emoji, ...]:
    """The classes: every emoji without skin tone once, by key."""
    bases = {e.key: e for e in emoji if e.key == e.base}
    return tuple(bases[key] for key in sorted(bases))


def class_labels(emoji: tuple[Emoji, ...]) -> Tensor:
    """Index into `base_emoji` of what each of N pictures shows, (N,) int64."""
    index = {e.key: i for i, e in enumerate(base_emoji(emoji))}
    return torch.tensor([index[e.base] for e in emoji])


def plain_pictures(emoji: tuple[Emoji, ...]) -> Tensor:
    """Which of N pictures have no skin tone, (N,) bool."""
    return torch.tensor([e.key == e.base for e in emoji])


def held_out_styles(emoji: tuple[Emoji, ...], style: Tensor) -> Tensor:
    """Pictures kept from training: 15% of the emoji, by a hash of the key, in one of their styles with all skin tones.

    Args:
        emoji: what each picture shows, N of them.
        style: (N,) index of the style.

    Returns:
        (N,) bool. The other styles of each are trained on.
    """
    drawn: dict[str, set[int]] = {}
    for e, s in zip(emoji, style.tolist(), strict=True):
        drawn.setdefault(e.base, set()).add(s)
    chosen: dict[str, int] = {}
    for base, styles in drawn.items():
        number = int.from_bytes(hashlib.sha256(f"features {base}".encode()).digest()[:8], "big")
        if number % 100 < HELD_OUT_PERCENT and len(styles) > 1:
            chosen[base] = sorted(styles)[number // 100 % len(styles)]
    return torch.tensor([chosen.get(e.base) == s for e, s in zip(emoji, style.tolist(), strict=True)])


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each of (B, 3, H, W) pictures in [0, 1] by up to 3 pixels, scale it and each of its colours a little.

    White stays white, and fills what comes in at the edges.
    """
    num, size_px = len(images), images.shape[-1]
    draws = torch.rand((num, 6), generator=generator) * 2 - 1  # (B, 6) in [-1, 1)
    theta = torch.zeros(num, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + SCALE_RANGE * draws[:, 0]
    theta[:, :, 2] = draws[:, 1:3] * SHIFT_PX * 2 / size_px
    tint = 1 + TINT_RANGE * draws[:, 3:].view(num, 3, 1, 1)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample((1 - images) * tint, grid, padding_mode="zeros", align_corners=False)
    return (1 - moved).clamp(0, 1)


class FeaturesTask:
    """Classifying pictures and rebuilding them small.

    Args:
        pictures: all.
        batch_size: pictures a step; three in four are varied.
        device: where to train.
    """

    def __init__(self, pictures: Pictures, *, batch_size: int, device: torch.device) -> None:
        self.images, self.batch_size, self.device = pictures.images, batch_size, device
        self.labels = class_labels(pictures.emoji)
        held_out = held_out_styles(pictures.emoji, pictures.style)
        self.weights = sampling_weights(pictures.emoji, pictures.style).masked_fill(held_out, 0)
        self.judged = (held_out & plain_pictures(pictures.emoji)).nonzero().flatten()
        net = EmojiNet(len(base_emoji(pictures.emoji)))
        net.whitening.requires_grad_(False)
        self.network = nn.ModuleDict({"net": net, "decoder": nn.Linear(HIDDEN_DIM, 3 * DECODED_PX**2)}).to(device)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Cross-entropy with smoothed labels plus the decoder's squared error."""
        index = torch.multinomial(self.weights, self.batch_size, replacement=True, generator=generator)
        images = self.images[index].float() / 255  # (B, 3, H, W)
        kept = round(len(images) * (1 - VARIED_SHARE))
        images = torch.cat([images[:kept], vary(images[kept:], generator)]).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden = self._hidden(images)
            logits, decoded = self.network["net"].classifier(hidden), self.network["decoder"](hidden).float()
        small = nn.functional.adaptive_avg_pool2d(images, DECODED_PX).flatten(1)
        target = self.labels[index].to(self.device)
        loss = nn.functional.cross_entropy(logits.float(), target, label_smoothing=LABEL_SMOOTHING)
        return loss + DECODER_WEIGHT * nn.functional.mse_loss(decoded, small)

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """Accuracy on plain pictures in styles that were held out."""
        logits = features_of(EmojiDetector(copy.deepcopy(self.network["net"]), device=self.device), self._shown).logits
        assert logits is not None, "this detector gives them"
        return {"held_out_accuracy": (logits.argmax(dim=1) == self.labels[self.judged]).double().mean().item()}

    @torch.no_grad()
    def draw(self) -> Image.Image:
        """Held-out pictures above what the decoder makes of them."""
        images = self._shown[:: max(1, len(self.judged) // DRAWN)][:DRAWN].float() / 255
        hidden = self._hidden(images.to(self.device))
        small = self.network["decoder"](hidden).unflatten(1, (3, DECODED_PX, DECODED_PX)).cpu()
        rebuilt = nn.functional.interpolate(small, SIZE_PX)
        return grid_picture(to_pictures(torch.cat([images, rebuilt])), columns=len(images))

    def _hidden(self, images: Tensor) -> Tensor:
        """The last layer, (B, H): what is trained, without the surface, which no step needs."""
        return self.network["net"].depths(images)[-1]

    @property
    def _shown(self) -> Tensor:
        return self.images[self.judged]


def features_of(detector: EmojiDetector, images: Tensor) -> FeatureSet:
    """Features and logits of (N, 3, 64, 64) uint8 pictures."""
    return extract_features(detector, (part.float() / 255 for part in images.split(MEASURED_BATCH)))


@torch.no_grad()
def fit_whitening(net: EmojiNet, images: Tensor) -> None:
    """Make a network's features the first D principal components of what it measures, each of variance 1 and mean 0.

    The components are those of correlations: what is measured comes on scales that have nothing to do with each other.

    Args:
        net: to change; its whitening alone.
        images: (M, 3, 64, 64) uint8 that are so described.

    Raises:
        DataError: there are fewer than two pictures.
    """
    device = net.whitening.weight.device
    parts = images.split(MEASURED_BATCH)
    mean, cov = mean_and_cov(torch.cat([net.measure(part.to(device).float() / 255).cpu() for part in parts]))
    spread = cov.diag().sqrt()  # (E,)
    scale = torch.where(spread > 0, 1 / spread, 0)
    variances, basis = torch.linalg.eigh(cov * scale * scale[:, None])  # ascending; (E,), (E, E)
    variances, basis = variances.flip(0)[:FEATURE_DIM], basis.flip(1)[:, :FEATURE_DIM]
    weight = (basis / variances.clamp(min=FAINTEST * variances[0]).sqrt()).T * scale  # (D, E)
    net.whitening.weight.copy_(weight)
    net.whitening.bias.copy_(-weight @ mean)


def save_features(
    net: EmojiNet, pictures: Pictures, *, accuracy: float, num_judged: int, seed: int, folder: Path
) -> None:
    """Write weights in float16, configuration and the reference of the plain pictures, atomically."""
    config = {
        "detector": EMOJI_NAME,
        "feature_dim": FEATURE_DIM,
        "held_out_accuracy": round(accuracy, 4),
        "held_out_images": num_judged,
        "seed": seed,
        "size_px": SIZE_PX,
        "classes": [e.label for e in base_emoji(pictures.emoji)],
    }
    with atomic_folder(folder) as fresh:
        save_file({name: value.half().cpu() for name, value in net.state_dict().items()}, fresh / "model.safetensors")
        (fresh / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        plain = pictures.images[plain_pictures(pictures.emoji)]
        found = features_of(EmojiDetector.from_folder(fresh), plain)
        reference = Reference.of(found, name="emoji", detector=EMOJI_NAME)
        save_compact_reference(reference, fresh / "reference.safetensors")


def train_features(
    pictures: Pictures,
    work: Path,
    *,
    budget: Budget,
    device: torch.device,
    recipe: Recipe = RECIPE,
    habits: Habits | None = None,
) -> Path | None:
    """Train in `work/features`, going on where it stopped; gives the finished folder, or nothing if stopped early.

    Raises:
        StorageError: the folder cannot be written or holds a training by another recipe.
        TrainingError: the loss stays infinite.
    """
    torch.manual_seed(recipe.seed)  # torch initialises from the global generator
    task = FeaturesTask(pictures, batch_size=recipe.batch_size, device=device)
    run = Run(task, recipe, work / "features", excluded=NOT_MATRICES)
    run.resume(budget)
    if not run.train(budget, habits or Habits()):
        return None
    figures = run.judge(budget)
    with run.ema.applied():
        net = copy.deepcopy(task.network["net"])
    fit_whitening(net.eval(), pictures.images[plain_pictures(pictures.emoji)])
    folder = run.folder / "model"
    accuracy, num_judged = figures["held_out_accuracy"], len(task.judged)
    save_features(net, pictures, accuracy=accuracy, num_judged=num_judged, seed=recipe.seed, folder=folder)
    about = figures | {"step": run.progress.step, "pictures": run.progress.step * recipe.batch_size}
    write_atomic(run.folder / "result.json", json.dumps(about, indent=2) + "\n")
    return folder
