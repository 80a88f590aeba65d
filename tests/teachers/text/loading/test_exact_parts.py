"""One file of a transformer gives what diffusers makes of its folder: what a class keeps in float32 is not rounded."""

from dataclasses import replace
from pathlib import Path

import original_names
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from safetensors.torch import load_file, save_file
from tiny_bases import tiny_wan
from tiny_models import TEACHERS
from torch import Tensor, nn

from piflow_cli.io.tensors.exact import stays_float32
from piflow_cli.teachers.text.family import TextFamily

FLOAT8, HALVES = torch.float8_e4m3fn, (torch.bfloat16, torch.float16)
TEXT = {name: build for name, build in TEACHERS.items() if name != "dit"}


def weights_of(settings: TextFamily) -> dict[str, Tensor]:
    return load_file(Path(settings.source) / "transformer" / "diffusion_pytorch_model.safetensors")


def of_file(settings: TextFamily, weights: dict[str, Tensor], place: Path, *, dtype: torch.dtype) -> nn.Module:
    """The transformer of a file with these weights, beside the settings' other parts."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, place)
    return settings.model_copy(update={"transformer": str(place)}).load(dtype=dtype, encoders=False).module


def of_folder(settings: TextFamily, weights: dict[str, Tensor], place: Path, *, dtype: torch.dtype) -> nn.Module:
    """diffusers' own transformer of a folder with these weights."""
    described = type(settings.load(encoders=False).module)
    module = described.from_pretrained(settings.source, subfolder="transformer")
    module.load_state_dict(weights)
    module.save_pretrained(place)
    return described.from_pretrained(place, torch_dtype=dtype)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those too that are in no file."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = tensors_of(found), tensors_of(expected)
    assert {name: t.dtype for name, t in ours.items()} == {name: t.dtype for name, t in theirs.items()}
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def output(settings: TextFamily, module: nn.Module) -> Tensor:
    """Of two random latents at two noise levels."""
    backbone, generator = settings.backbone(dict(module.config)), torch.Generator().manual_seed(0)
    shape = (settings.latent_channels(dict(module.config)), *settings.latent_size(module, None))
    sizes = [settings.size_px] if settings.num_pictures[0] else []
    condition = settings.dummy_condition(module, 2, references_px=sizes)
    embeds = torch.randn(condition.embeds.shape, generator=generator).to(condition.embeds.dtype)
    x = torch.randn((2, *shape), generator=generator)
    with torch.no_grad():
        return backbone.predict(module, x, torch.tensor([0.9, 0.4]), replace(condition, embeds=embeds))


def scaled(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every matrix in scaled float8, the time embedding's too, and what the file means, in float32."""
    file, meant = dict(weights), dict(weights)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            scale = tensor.abs().amax(1) / 448
            file[name] = (tensor / scale[:, None]).to(FLOAT8)
            file[name.removesuffix("weight") + "scale_weight"] = scale
            meant[name] = file[name].float() * scale[:, None]
    return file, meant


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", TEXT)
def test_a_file_is_bitwise_what_diffusers_makes_of_the_folder(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    settings = TEXT[family](tmp_path / "base")
    weights = weights_of(settings)
    found = of_file(settings, weights, tmp_path / "f.safetensors", dtype=dtype)
    expected = of_folder(settings, weights, tmp_path / "folder", dtype=dtype)
    assert_same(found, expected)
    assert_same(found, settings.load(dtype=dtype, encoders=False).module)
    assert torch.equal(output(settings, found), output(settings, expected))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("named", ["diffusers", "published"])
@pytest.mark.parametrize("stored", ["plain", "scaled"])
def test_wan_draws_from_a_file_what_it_draws_from_the_folder(
    stored: str, named: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    settings = tiny_wan(tmp_path / "base")
    weights = weights_of(settings)
    file, meant = (weights, weights) if stored == "plain" else scaled(weights)
    if named == "published":
        file = {f"model.diffusion_model.{name}": tensor for name, tensor in original_names.wan(file).items()}
        assert "model.diffusion_model.blocks.0.modulation" in file
    found = of_file(settings, file, tmp_path / "f.safetensors", dtype=dtype)
    expected = of_folder(settings, meant, tmp_path / "folder", dtype=dtype)
    assert isinstance(expected, WanTransformer3DModel)
    kept = {name: t.dtype for name, t in found.named_parameters() if stays_float32(found, name)}
    assert len(kept) == 4 + 1 + 3 * len(found.blocks)  # time embedding, the end's table, a table and norm2 a block
    assert set(kept.values()) == {torch.float32}
    assert_same(found, expected)
    drawn = output(settings, expected)
    assert drawn.abs().max() > 0
    assert torch.equal(output(settings, found), drawn)


def test_what_is_made_of_several_tensors_of_the_file_is_not_rounded_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No class of today's families has such weights among those that it keeps."""
    settings, name = tiny_wan(tmp_path / "base"), "condition_embedder.time_embedder.linear_1.weight"
    weights = weights_of(settings)
    file = {f"net.{key}": tensor for key, tensor in weights.items()}
    file["net.halves.0"], file["net.halves.1"] = file.pop(f"net.{name}").chunk(2)

    def joined(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {key.removeprefix("net."): checkpoint.pop(key) for key in list(checkpoint)}
        return found | {name: torch.cat([found.pop("halves.0"), found.pop("halves.1")])}

    monkeypatch.setitem(SINGLE_FILE_LOADABLE_CLASSES, "WanTransformer3DModel", {"checkpoint_mapping_fn": joined})
    found = of_file(settings, file, tmp_path / "f.safetensors", dtype=torch.bfloat16)
    assert_same(found, settings.load(dtype=torch.bfloat16, encoders=False).module)
