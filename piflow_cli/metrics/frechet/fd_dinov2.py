"""FD-DINOv2 (arXiv 2306.04675): the Fréchet distance in features of DINOv2, which saw no labels of ImageNet."""

from piflow_cli.metrics.frechet.fid import frechet_metric
from piflow_cli.metrics.metric import Features

DINOV2 = "facebook/dinov2-large"
"""ViT-L/14, whose class token after the last norm the paper takes."""
METRIC = frechet_metric("fd-dinov2", reads=Features(model=DINOV2))
