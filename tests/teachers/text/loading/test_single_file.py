"""Transformers from one file: scales are applied, every tensor is used or refused, original names are diffusers'."""

from pathlib import Path

import pytest
import torch
from original_names import ORIGINAL
from safetensors.torch import load_file, save_file
from tiny_models import TEACHERS, tiny_flux, tiny_qwen
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.loading import single_file

FAMILIES = {"flux": tiny_flux, "qwen": tiny_qwen}
FLOAT8 = torch.float8_e4m3fn


def weights_of(settings: TextFamily) -> dict[str, Tensor]:
    return load_file(Path(settings.source) / "transformer" / "diffusion_pytorch_model.safetensors")


def loaded(
    family: str, weights: dict[str, Tensor], place: Path, **options
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, place)
    teacher = FAMILIES[family](transformer=str(place)).load(**options)
    return teacher.module.state_dict(), teacher.space.warnings


def scaled(weights: dict[str, Tensor], ending: str, *, rows: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file with its matrices in scaled float8, and what it holds."""
    file, meant = {}, {}
    for name, tensor in weights.items():
        if tensor.ndim != 2 or not name.startswith("transformer_blocks."):
            file[name] = meant[name] = tensor
            continue
        scale = (tensor.abs().amax(1, keepdim=True) if rows else tensor.abs().max()) / 448
        file[name] = (tensor / scale).to(FLOAT8)
        file[name.removesuffix("weight") + ending] = scale
        meant[name] = file[name].float() * scale
    return file, meant


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."])
@pytest.mark.parametrize(("ending", "rows"), [("scale_weight", False), ("weight_scale", False), ("weight_scale", True)])
def test_scales_are_applied(family: str, prefix: str, ending: str, rows: bool, tmp_path: Path) -> None:
    weights = weights_of(FAMILIES[family]())
    file, meant = scaled(weights, ending, rows=rows)
    assert len(file) > len(weights)
    file["scaled_fp8"] = torch.zeros(2).to(FLOAT8)
    found, warnings = loaded(family, {prefix + name: t for name, t in file.items()}, tmp_path / "f.safetensors")
    assert warnings == ()
    for name, tensor in meant.items():
        assert torch.equal(found[name], tensor), name
        assert (tensor - weights[name]).abs().max() <= weights[name].abs().max() / 16


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_file_is_bitwise_the_folder(family: str, tmp_path: Path) -> None:
    weights = weights_of(FAMILIES[family]())
    found, warnings = loaded(family, weights, tmp_path / "f.safetensors")
    assert warnings == ()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    half, _ = loaded(family, weights, tmp_path / "f.safetensors", dtype=torch.bfloat16)
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in weights.items())


def test_a_cast_to_float8_without_scales_is_warned_of(tmp_path: Path) -> None:
    weights = {name: t.to(FLOAT8) if t.ndim == 2 else t for name, t in weights_of(tiny_flux()).items()}
    found, warnings = loaded("flux", weights, tmp_path / "f.safetensors")
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in weights.items())
    assert len(warnings) == 1
    assert "float8 without scales" in warnings[0]


def test_what_nobody_would_use_is_refused_by_name(tmp_path: Path) -> None:
    weights = weights_of(tiny_flux())
    for extra in (
        "transformer_blocks.0.attn.to_q.lora_A",
        "x_embedder.smooth_factor",
        "transformer_blocks.9.norm.weight",
    ):
        with pytest.raises(ModelError, match=f"unknown {extra}"):
            loaded("flux", weights | {extra: torch.zeros(1)}, tmp_path / "f.safetensors")
    name = "transformer_blocks.0.attn.to_q.weight"
    with pytest.raises(ModelError, match=f"missing {name}"):
        loaded("flux", {key: t for key, t in weights.items() if key != name}, tmp_path / "f.safetensors")
    with pytest.raises(ModelError, match=f"{name} is .*needs"):
        loaded("flux", weights | {name: weights[name][:-1]}, tmp_path / "f.safetensors")
    broken = weights[name].clone()
    broken[0, 0] = float("inf")
    with pytest.raises(ModelError, match=f"not finite .* in {name}"):
        loaded("flux", weights | {name: broken}, tmp_path / "f.safetensors")


def test_the_other_parts_of_an_all_in_one_checkpoint_are_named(tmp_path: Path) -> None:
    weights = {f"model.diffusion_model.{name}": t for name, t in weights_of(tiny_flux()).items()}
    others = {"text_encoders.clip_l.weight": torch.zeros(2), "vae.encoder.weight": torch.zeros(2)}
    _, warnings = loaded("flux", weights | others, tmp_path / "f.safetensors")
    assert len(warnings) == 1
    assert "holds text_encoders and vae too" in warnings[0]


def original(prefix: str = "") -> dict[str, Tensor]:
    """The names and shapes of FLUX.1 as it was published, with one block of each kind; nothing takes memory."""
    d, mlp, tokens = 3072, 12288, {"time_in": 256, "vector_in": 768, "guidance_in": 256}
    shapes: dict[str, tuple[int, ...]] = {"img_in.weight": (d, 64), "img_in.bias": (d,)}
    shapes |= {"txt_in.weight": (d, 4096), "txt_in.bias": (d,)}
    for name, width in tokens.items():
        shapes |= {f"{name}.in_layer.weight": (d, width), f"{name}.in_layer.bias": (d,)}
        shapes |= {f"{name}.out_layer.weight": (d, d), f"{name}.out_layer.bias": (d,)}
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}"
        layers = {
            "mod.lin": (6 * d, d),
            "attn.qkv": (3 * d, d),
            "attn.proj": (d, d),
            "mlp.0": (mlp, d),
            "mlp.2": (d, mlp),
        }
        for name, shape in layers.items():
            shapes |= {f"{block}_{name}.weight": shape, f"{block}_{name}.bias": shape[:1]}
        shapes |= {f"{block}_attn.norm.{kind}_norm.scale": (128,) for kind in ("query", "key")}
    single = {"linear1": (3 * d + mlp, d), "linear2": (d, d + mlp), "modulation.lin": (3 * d, d)}
    for name, shape in single.items():
        shapes |= {f"single_blocks.0.{name}.weight": shape, f"single_blocks.0.{name}.bias": shape[:1]}
    shapes |= {f"single_blocks.0.norm.{kind}_norm.scale": (128,) for kind in ("query", "key")}
    shapes |= {"final_layer.linear.weight": (64, d), "final_layer.linear.bias": (64,)}
    shapes |= {"final_layer.adaLN_modulation.1.weight": (2 * d, d), "final_layer.adaLN_modulation.1.bias": (2 * d,)}
    return {prefix + name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def load_original(
    weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, *, guidance: bool = True
) -> dict[str, Tensor]:
    monkeypatch.setattr(single_file, "read_weights", lambda _: weights)
    config = {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": guidance}
    module = tiny_flux().build(config)
    return single_file.load_single_file(module, Path("flux"), config=config, dtype=torch.bfloat16)[0].state_dict()


def test_original_names_are_read_at_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = original("model.diffusion_model.")
    name = "model.diffusion_model.double_blocks.0.img_attn.qkv"
    weights[f"{name}.weight"] = weights[f"{name}.weight"].to(FLOAT8)
    weights[f"{name}.scale_weight"] = torch.tensor(0.5)
    found = load_original(weights, monkeypatch)
    assert sum(t.numel() for t in found.values()) == sum(t.numel() for t in original().values())
    assert {t.dtype for t in found.values()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ORIGINAL)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_original_names_of_which_some_are_those_of_diffusers_are_read(family: str, prefix: str, tmp_path: Path) -> None:
    settings, file = TEACHERS[family](tmp_path / "base"), tmp_path / "f.safetensors"
    weights = weights_of(settings)
    published = ORIGINAL[family](weights)
    assert published.keys() & weights.keys()
    assert len(published.keys() - weights.keys()) > 5
    save_file({prefix + name: tensor.contiguous() for name, tensor in published.items()}, file)
    found = settings.model_copy(update={"transformer": str(file)}).load(encoders=False).module.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    lacking = next(name for name in published if name not in weights and name.endswith(".bias"))
    save_file({name: t.contiguous() for name, t in published.items() if name != lacking}, file)
    with pytest.raises(ModelError, match=r"missing|is not there"):
        settings.model_copy(update={"transformer": str(file)}).load(encoders=False)


def test_original_names_that_are_left_over_or_missing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"unknown double_blocks\.0\.img_attn\.extra"):
        load_original(original() | {"double_blocks.0.img_attn.extra": torch.zeros(1)}, monkeypatch)
    with pytest.raises(ModelError, match=r"unknown time_text_embed\.guidance_embedder"):
        load_original(original(), monkeypatch, guidance=False)
    lacking = original()
    del lacking["final_layer.linear.weight"]
    with pytest.raises(ModelError, match=r"final_layer\.linear\.weight is not there"):
        load_original(lacking, monkeypatch)
    with pytest.raises(ModelError, match="are no FluxTransformer2DModel"):
        load_original({"blocks.0.weight": torch.zeros(1)}, monkeypatch)


def test_quantising_a_file_while_it_loads_is_refused(tmp_path: Path) -> None:
    save_file(weights_of(tiny_flux()), tmp_path / "f.safetensors")
    settings = tiny_flux(transformer=str(tmp_path / "f.safetensors"), quantization="bnb-4bit")
    with pytest.raises(ModelError, match="quantization bnb-4bit is for transformers in folders"):
        settings.load()
