"""Latents come with their labels, and what would train on nonsense is refused by file and value."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from piflow_cli.data.latents import Latents, ShardSource
from piflow_cli.errors import DataError
from piflow_cli.teachers.dit.space import DiTSpace

SPACE = DiTSpace(labels={i: str(i) for i in range(10)}, latent_shape=(4, 2, 2))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(path: Path, labels: object, *, latents: torch.Tensor | None = None) -> None:
    labels = torch.as_tensor(labels)
    if latents is None:
        latents = labels.half().reshape(-1, 1, 1, 1).expand(-1, 4, 2, 2).contiguous()
    save_file({"latents": latents, "labels": labels}, path)


def opened(root: Path) -> ShardSource:
    return Latents(path=str(root)).open(SPACE)


def test_latents_belong_to_their_labels(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", [0, 3, 9])
    write(tmp_path / "b.SAFETENSORS", torch.tensor([5, 7], dtype=torch.int32))
    latents, labels = opened(tmp_path).draw(60, seeded())
    assert (latents.shape, latents.dtype, labels.dtype) == ((60, 4, 2, 2), torch.float32, torch.int64)
    assert latents[:, 0, 0, 0].tolist() == labels.tolist()
    assert set(labels.tolist()) == {0, 3, 5, 7, 9}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 10, 11], r"has the label 10 at latent 1, 2 in all that are no class: this teacher has the classes 0 to 9"),
        ([0, -1, 3], r"has the label -1 at latent 1, 1 in all"),
        ([0.0, 1.5, 3.0], r"has labels \[3\] of F32 for 3 latents; it needs \(3,\) integers"),
        ([0, 1], r"has labels \[2\] of I64 for 3 latents"),
        ([[0], [1], [2]], r"has labels \[3, 1\] of I64"),
    ],
)
def test_labels_that_are_no_classes_are_refused_by_file_and_value(tmp_path: Path, labels: object, message: str) -> None:
    write(tmp_path / "a.safetensors", [1, 2])
    write(tmp_path / "b.safetensors", labels, latents=torch.zeros(3, 4, 2, 2))
    with pytest.raises(DataError, match=f"b.safetensors {message}"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(3, 4, 4, 4), r"has latents \[3, 4, 4, 4\]; this teacher at its size needs \(N, 4, 2, 2\)"),
        (torch.zeros(3, 4, 2, 2, dtype=torch.uint8), "has latents of U8; they have to be floats"),
    ],
)
def test_latents_of_another_kind_are_refused(tmp_path: Path, latents: torch.Tensor, message: str) -> None:
    write(tmp_path / "a.safetensors", [1, 2, 3], latents=latents)
    with pytest.raises(DataError, match=f"a.safetensors {message}"):
        opened(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_latents_that_are_not_finite_are_refused_by_file_and_row(tmp_path: Path, value: float) -> None:
    latents = torch.zeros(3, 4, 2, 2, dtype=torch.bfloat16)
    latents[2, 1] = value
    write(tmp_path / "a.safetensors", [1, 2, 3], latents=latents)
    with pytest.raises(DataError, match=rf"a.safetensors latent 2 holds {value} \(4 of 16 values are not finite\)"):
        opened(tmp_path).draw(20, seeded())


def test_a_shard_that_vanishes_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", [1, 2])
    source = opened(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"another file")
    with pytest.raises(DataError, match=r"a.safetensors cannot be read as latents"):
        source.draw(2, seeded())
