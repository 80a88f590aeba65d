"""Damage by degrees grows by degrees, and the yardstick that ships sees every one of them."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.metrics.frechet.fid import fid
from piflow_cli.zoo.emoji.build.agreement import rows
from piflow_cli.zoo.emoji.build.agreement.graded import GRADED, Pair, degrees, disorder, fade, hole, repeat
from piflow_cli.zoo.emoji.build.agreement.networks import features_of
from piflow_cli.zoo.emoji.build.agreement.rows import Drawn, draw_rows, read_row


def drawings(num: int) -> Tensor:
    """Coloured blocks of 8 pixels all over, (N, 3, 64, 64) uint8."""
    blocks = torch.randint(0, 256, (num, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return blocks.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def test_every_degree_is_farther_from_the_picture_than_the_one_before() -> None:
    images, before = drawings(20), dict.fromkeys(GRADED, 0.0)
    for name, _, changed in degrees(images):
        assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
        distance = (changed.float() - images.float()).square().mean().item()
        assert distance > before[name] or name == "repeated", name
        before[name] = distance


def test_changes_do_what_they_say() -> None:
    images = drawings(10).float() / 255
    assert torch.equal(repeat(images, 0.2), torch.cat([images[:2]] * 5))
    assert hole(images, 0.25)[:, :, 24:40, 24:40].eq(1).all()
    assert torch.equal(hole(images, 0.25)[:, :, :24], images[:, :, :24])
    assert torch.allclose(fade(images, 0.25).std(dim=(2, 3)), images.std(dim=(2, 3)) * 0.75, atol=1e-5)
    assert functional.mse_loss(fade(images, 0).mean(dim=(2, 3)), images.mean(dim=(2, 3))) < 1e-10


def test_disorder_counts_neighbours_and_begins_with_no_damage() -> None:
    scores = itertools.count()
    assert disorder(lambda _: float(next(scores)), drawings(2)) == ([], 54)
    falling = itertools.count()
    wrong, count = disorder(lambda _: -float(next(falling)), drawings(2))
    assert (len(wrong), wrong[0], str(wrong[1])) == (count, Pair("blur", 0.0, 0.4), "blur 0.4 above 0.6")


@pytest.mark.slow
def test_emoji_fid_sees_every_degree_of_every_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 500 pictures that a student draws. The features of the last layer alone had four of these wrong."""
    row = Drawn("emoji-4nfe", 4)
    monkeypatch.setattr(rows, "DRAWN", (row,))
    monkeypatch.setattr(rows, "NUM_PICTURES", 500)
    draw_rows(tmp_path, lambda _: None)
    detector = load_detector("emoji-cnn")
    reference = load_reference("emoji", detector=detector)

    def score(images: Tensor) -> float:
        return fid(features_of(detector, images), reference.mean, reference.cov)

    assert disorder(score, read_row(tmp_path, row.name)) == ([], 54)
