"""How a metric of pictures takes a video: by a few stills of it. A video stays one sample, whatever is seen of it."""
# B videos, F frames, S stills, D features, C, H, W picture.

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from piflow_cli.io.sheets.videos import STRIP_FRAMES, strip_frames
from piflow_cli.metrics.detectors.features import FeatureSet

SEEN = f"up to {STRIP_FRAMES} stills: the first frame, the last one, and others evenly between"
"""What metrics of pictures see of videos, in words."""


def look_at_stills(
    videos: Tensor,
    prompts: Sequence[str] | None,
    look: Callable[[Tensor, Sequence[str] | None], FeatureSet],
    *,
    mean: bool,
) -> FeatureSet:
    """What is said of the stills of videos, as one row a video.

    Args:
        videos: (B, C, F, H, W) in [0, 1].
        prompts: B, or none.
        look: says (B S, D) of pictures (B S, C, H, W) and their prompts.
        mean: whether a video's row is the mean over its stills (B, D), as of scores; else theirs side by side (B, S D),
            so that two videos are as far apart as their stills, each from the one at the same time.

    Source: ours. VBench (arXiv 2311.17982) asks networks of pictures for every frame and takes the mean.
    """
    chosen = strip_frames(videos.shape[2])
    pictures = videos[:, :, chosen].transpose(1, 2).flatten(0, 1)  # (B S, C, H, W)
    repeated = None if prompts is None else [prompt for prompt in prompts for _ in chosen]
    said = look(pictures, repeated).features.unflatten(0, (len(videos), len(chosen)))  # (B, S, D)
    return FeatureSet(said.mean(dim=1) if mean else torch.flatten(said, 1))
