# The small classifier behind "digits-cnn", the embedded stand-in for Inception on 8x8 grey images.
# B images, D features, K classes.

from torch import Tensor, nn

FEATURE_DIM = 64
NUM_CLASSES = 10
SIZE_PX = 8


class DigitsNet(nn.Module):
    """Three 3x3 convolutions, a hidden layer of D = 64 features, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * (SIZE_PX // 2) ** 2, FEATURE_DIM),
        )
        self.classifier = nn.Linear(FEATURE_DIM, NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and class logits.

        Args:
            images: (B, 1, 8, 8) in [0, 1].

        Returns:
            features (B, 64), the classifier's input, and logits (B, 10).
        """
        features = self.trunk(images * 2 - 1)  # (B, D)
        return features, self.classifier(features)  # (B, K)
