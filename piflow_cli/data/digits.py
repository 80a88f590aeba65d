"""scikit-learn's digits: 1,797 real scans of 8x8 pixels in 10 classes (UCI, Alpaydin and Kaynak)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from piflow_cli.core.interfaces import DataSource, Draw, Space
from piflow_cli.data.noise import ClassData, draw_rows
from piflow_cli.errors import MissingExtraError


@dataclass(frozen=True)
class TensorSource(DataSource):
    """Latents (M, C, *S) and labels (M,) held in memory."""

    latents: Tensor
    labels: Tensor

    has_images = True

    @property
    def contents(self) -> str:
        """How many scans."""
        return f"{len(self.latents):,} pictures"

    @property
    def reader(self) -> "TensorSource":
        """The source itself: all is in memory."""
        return self

    def plan(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        size_px: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> Draw:
        """Latents drawn with replacement."""
        return draw_rows(len(self.latents), batch_size, generator)

    def read(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Latents (B, C, *S) and labels (B,)."""
        return self.latents[list(draw.rows)], self.labels[list(draw.rows)]

    def encode(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Latents and labels, as they were read."""
        return batch


class Digits(ClassData):
    """The scans as pixels in [-1, 1]."""

    type: Literal["digits"] = "digits"
    latents: ClassVar[None] = None
    has_images: ClassVar[bool] = True

    def source_paths(self) -> dict[str, Path]:
        """None: nothing is read from files of the user's."""
        return {}

    def check_source(self) -> None:
        """Raise MissingExtraError where scikit-learn, which holds the scans, is not installed."""
        self.open()

    def open(self, _space: Space | None = None) -> TensorSource:
        """All scans, (1797, 1, 8, 8).

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise MissingExtraError(
                "the digits need scikit-learn: pip install 'piflow[digits]'. Without it train data-free: "
                "--set data.type=noise"
            ) from None
        digits = load_digits()
        pixels = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
        return TensorSource(latents=pixels, labels=torch.from_numpy(digits.target).long())
