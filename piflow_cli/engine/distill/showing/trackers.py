"""What a run gives to accelerate's trackers: a row of numbers a step, and pictures where the tracker takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL.Image import Image


class Trackers:
    """The trackers of a run; without any it does nothing.

    Args:
        accelerator: has them.
        names: of those that are asked for.
    """

    def __init__(self, accelerator: Accelerator, names: Sequence[str]) -> None:
        self.accelerator, self.names = accelerator, tuple(names)

    def begin(self, config: Mapping[str, str]) -> None:
        """Open them."""
        if self.names:
            self.accelerator.init_trackers("piflow", config=dict(config))

    def end(self) -> None:
        """Close them; accelerate's `end_training` would take the processes' group along, which a run still needs."""
        for tracker in self.accelerator.trackers if self.names else ():
            tracker.finish()

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        """Give numbers of a step."""
        if self.names:
            self.accelerator.log(dict(row), step=step)

    def show(self, name: str, picture: Image, *, step: int) -> None:
        """Give a picture of a step to TensorBoard, W&B and Trackio; other trackers get numbers alone.

        accelerate's trackers take pictures in forms of their own.
        """
        for kind in self.names:
            if kind == "tensorboard":
                import numpy

                pixels = numpy.asarray(picture.convert("RGB"))[None]  # (1, H, W, 3)
                self.accelerator.get_tracker(kind).log_images({name: pixels}, step=step, dataformats="NHWC")
            elif kind == "wandb":
                self.accelerator.get_tracker(kind).log_images({name: [picture]}, step=step)
            elif kind == "trackio":
                import trackio

                self.accelerator.get_tracker(kind).log({name: trackio.Image(picture)}, step=step)
