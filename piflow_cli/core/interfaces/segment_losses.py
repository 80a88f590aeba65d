"""The loss of each segment by itself: what is backpropagated is their sum, and hides which of them is behind.

Shapes: B batch.
"""

import torch
from torch import Tensor


class SegmentLosses:
    """Mean loss of each segment since this was made, added up on the device without waiting for it.

    Args:
        num_segments: of the student.
        device: where losses are.
    """

    def __init__(self, num_segments: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(num_segments, device=device)
        self.counts = torch.zeros(num_segments, device=device)

    @torch.no_grad()
    def add(self, segment: Tensor, losses: Tensor) -> None:
        """Count the losses of a batch.

        Args:
            segment: of each, from 0 at noise, (B,).
            losses: 0.5 scale mean((u_teacher - u_policy)^2), not weighted by the segment's length, (B,).
        """
        segment, losses = segment.to(self.sums.device), losses.detach().to(self.sums)
        self.sums.index_add_(0, segment, losses)
        self.counts.index_add_(0, segment, torch.ones_like(losses))

    def packed(self) -> Tensor:
        """Sums and counts, (2 num_segments,): their mean over processes is as good as their sum."""
        return torch.cat([self.sums, self.counts])


def unpacked(values: list[float]) -> list[float | None]:
    """Mean loss of each segment of what `packed` gave; None where none was drawn."""
    half = len(values) // 2
    return [total / count if count else None for total, count in zip(values[:half], values[half:], strict=True)]
