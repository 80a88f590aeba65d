"""Files of tensors: what is written comes back, damage and full disks are known errors of the kind asked for."""

from pathlib import Path

import pytest
import torch

from piflow_cli.errors import DataError, ModelError, StorageError
from piflow_cli.io.tensors.files import open_tensors, write_tensors


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path, tensor = tmp_path / "a.safetensors", torch.arange(6.0).reshape(2, 3).t()  # no contiguous memory
    write_tensors(path, {"a": tensor}, metadata={"by": "hand"})
    with open_tensors(path) as file:
        assert torch.equal(file.get_tensor("a"), tensor)
        assert file.metadata() == {"format": "pt", "by": "hand"}


@pytest.mark.parametrize("error", [ModelError, DataError])
def test_damage_is_an_error_of_the_kind_asked_for(tmp_path: Path, error: type[Exception]) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(error, match=r"there is no file .*a\.safetensors of latents"):
        open_tensors(path, what="latents", error=error).__enter__()
    write_tensors(path, {"a": torch.ones(9)})
    with (
        pytest.raises(error, match="cannot be read as latents"),
        open_tensors(path, what="latents", error=error) as file,
    ):
        file.get_tensor("b")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(error, match="truncated or damaged"):
        open_tensors(path, what="latents", error=error).__enter__()
    with pytest.raises(error, match="cannot be read as latents"):
        open_tensors(tmp_path, what="latents", error=error).__enter__()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*none"):
        write_tensors(tmp_path / "none" / "a.safetensors", {"a": torch.ones(1)})
