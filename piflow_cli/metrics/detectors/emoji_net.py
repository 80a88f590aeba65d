# The small classifier behind "emoji-cnn", the embedded stand-in for Inception on 64x64 emoji.
# B images, D features, K classes.

from torch import Tensor, nn

FEATURE_DIM = 128
SIZE_PX = 64
CHANNELS = (32, 64, 128, 128)
"""After each of the strided convolutions; the last leaves 4x4 places."""
NORM_GROUPS = 8


class EmojiNet(nn.Module):
    """Four strided convolutions, a layer of D = 128 features that sees where things are, a linear classifier.

    Args:
        num_classes: K, the base emoji.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *CHANNELS), CHANNELS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(NORM_GROUPS, after), nn.SiLU()]
        places = (SIZE_PX >> len(CHANNELS)) ** 2
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS[-1] * places, FEATURE_DIM))
        self.classifier = nn.Linear(FEATURE_DIM, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and class logits.

        Args:
            images: (B, 3, 64, 64) in [0, 1].

        Returns:
            features (B, 128), the classifier's input, and logits (B, K).
        """
        features = self.trunk(images * 2 - 1)  # (B, D)
        return features, self.classifier(features)  # (B, K)
