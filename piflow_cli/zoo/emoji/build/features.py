"""Train the embedded feature network "emoji-cnn", with which emoji are scored in place of Inception.

    python -m piflow_cli.zoo.emoji.build features [--work DIR]

A small classifier of the base emoji, in all styles; skin tones count as their base. A linear decoder, thrown away
afterwards, must rebuild the picture at 16x16 from the features: a classifier alone forgets what differs between two
pictures of one class, and its FID would hardly see blur. One style of 15% of the emoji, 5% of the pictures, is held
out: the accuracy says whether an emoji is known in a style in which it was never seen.

The features are scaled so that their total variance over all pictures, weighted as they are sampled, is 128, one a
dimension: a FID of 128 is as bad as replacing every picture by one with the mean features. `reference.safetensors`
holds features, mean and covariance of the plain pictures, each once, without skin tones; all features come from the
stored float16 weights.
"""
# B batch, N pictures, M plain pictures, D features, K classes.

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
from piflow_cli.metrics.detectors.emoji_net import FEATURE_DIM, SIZE_PX, EmojiNet
from piflow_cli.metrics.detectors.features import FeatureSet, Reference, extract_features, mean_and_cov
from piflow_cli.metrics.detectors.load import EMOJI_NAME, EmojiDetector
from piflow_cli.metrics.detectors.reference import save_reference
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
        self.network = nn.ModuleDict({"net": net, "decoder": nn.Linear(FEATURE_DIM, 3 * DECODED_PX**2)}).to(device)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Cross-entropy with smoothed labels plus the decoder's squared error."""
        index = torch.multinomial(self.weights, self.batch_size, replacement=True, generator=generator)
        images = self.images[index].float() / 255  # (B, 3, H, W)
        kept = round(len(images) * (1 - VARIED_SHARE))
        images = torch.cat([images[:kept], vary(images[kept:], generator)]).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            features, logits = self.network["net"](images)
            decoded = self.network["decoder"](features).float()
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
        """Held-out pictures above what the decoder makes of their features."""
        images = self._shown[:: max(1, len(self.judged) // DRAWN)][:DRAWN].float() / 255
        features, _ = self.network["net"](images.to(self.device))
        small = self.network["decoder"](features).unflatten(1, (3, DECODED_PX, DECODED_PX)).cpu()
        rebuilt = nn.functional.interpolate(small, SIZE_PX)
        return grid_picture(to_pictures(torch.cat([images, rebuilt])), columns=len(images))

    @property
    def _shown(self) -> Tensor:
        return self.images[self.judged]


def features_of(detector: EmojiDetector, images: Tensor) -> FeatureSet:
    """Features and logits of (N, 3, 64, 64) uint8 pictures."""
    return extract_features(detector, (part.float() / 255 for part in images.split(MEASURED_BATCH)))


@torch.no_grad()
def scale_features(net: EmojiNet, features: Tensor, weights: Tensor) -> None:
    """Scale a network's features to a total variance of D, and its classifier's weights back.

    Args:
        net: to change.
        features: (N, D) that it gives now.
        weights: (N,) of the pictures, summing to 1.
    """
    values, share = features.double(), weights[:, None]
    variance = (share * (values - (share * values).sum(dim=0)).square()).sum()
    scale = (FEATURE_DIM / variance).sqrt().float().to(net.classifier.weight.device)
    hidden = net.trunk[-1]
    hidden.weight.mul_(scale)
    hidden.bias.mul_(scale)
    net.classifier.weight.div_(scale)


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
        features = features_of(EmojiDetector.from_folder(fresh), plain).features.half()  # (M, D)
        mean, cov = mean_and_cov(features)
        save_reference(
            Reference("emoji", EMOJI_NAME, mean, cov, features, len(features)), fresh / "reference.safetensors"
        )


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
    features = features_of(EmojiDetector(net, device=device), pictures.images).features
    scale_features(net, features, sampling_weights(pictures.emoji, pictures.style))
    folder = run.folder / "model"
    accuracy, num_judged = figures["held_out_accuracy"], len(task.judged)
    save_features(net, pictures, accuracy=accuracy, num_judged=num_judged, seed=recipe.seed, folder=folder)
    about = figures | {"step": run.progress.step, "pictures": run.progress.step * recipe.batch_size}
    write_atomic(run.folder / "result.json", json.dumps(about, indent=2) + "\n")
    return folder
