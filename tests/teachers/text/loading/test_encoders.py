"""A base whose encoders or autoencoder lack weights is refused by their names; nothing is drawn in their place."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_flux, tiny_qwen
from transformers import CLIPTextModel

from piflow_cli.errors import ModelError
from piflow_cli.teachers.text.loading.encoders import check_whole, load_whole

PARTS = [(tiny_flux, "text_encoder"), (tiny_flux, "text_encoder_2"), (tiny_flux, "vae"), (tiny_qwen, "text_encoder")]


def change(folder: Path, *, shape: bool = False) -> str:
    """Take a tensor from a folder's weights, or a row from it; returns the end of its name."""
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    name = sorted(name for name in weights if name.endswith(".weight"))[len(weights) // 4]
    tensor = weights.pop(name)
    if shape:
        weights[name] = torch.cat([tensor, tensor])
    save_file(weights, file, metadata={"format": "pt"})
    return ".".join(name.split(".")[-3:])


@pytest.mark.parametrize(("family", "part"), PARTS)
@pytest.mark.parametrize("encoders", [True, False])
def test_a_part_without_one_of_its_weights_is_refused(tmp_path: Path, family, part: str, encoders: bool) -> None:
    base = Path(shutil.copytree(family().source, tmp_path / "base"))
    settings = family(source=str(base))
    name = change(base / part)
    if encoders or part == "vae":
        with pytest.raises(ModelError, match=rf"base/{part} do not fit their config: missing \S*{name}"):
            settings.load(encoders=encoders)
    else:  # an encoder that is not loaded is not looked at
        settings.load(encoders=encoders)


@pytest.mark.parametrize(("family", "part"), PARTS)
def test_a_part_with_a_weight_of_another_shape_is_refused(tmp_path: Path, family, part: str) -> None:
    base = Path(shutil.copytree(family().source, tmp_path / "base"))
    change(base / part, shape=True)
    with pytest.raises(ModelError, match="base"):
        family(source=str(base)).load()


def test_a_whole_part_is_what_the_library_loads_and_keeps_its_dtype() -> None:
    folder = Path(tiny_flux().source) / "text_encoder"
    ours = load_whole(CLIPTextModel, folder, dtype=torch.bfloat16, variant="fp16")  # of which there are no files
    theirs = CLIPTextModel.from_pretrained(folder, dtype=torch.bfloat16)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert ours.dtype == torch.bfloat16


def test_what_a_map_of_devices_will_place_is_checked_before(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(tiny_flux().source) / "text_encoder", tmp_path / "text_encoder"))
    check_whole(CLIPTextModel, folder, variant=None)
    change(folder)
    with pytest.raises(ModelError, match="missing"):
        check_whole(CLIPTextModel, folder, variant=None)
