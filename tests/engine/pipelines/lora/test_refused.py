"""Files of styles: what of them fits, what is left out and said, and what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from styles import distance, layers_of, load_both, own_lora_acts
from tiny_pipelines import STYLES, latents, style
from torch import Tensor

from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.errors import ModelError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*was trained on"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute"),
]


def test_failed_load_leaves_the_student(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    with pytest.raises(ValueError, match=r"nothing of this LoRA fits: 1 .*transformer\.nothing, not found in the base"):
        pipe.load_lora_weights({f"transformer.nothing.lora_{side}.weight": torch.zeros(2, 2) for side in "AB"})
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        pipe.load_lora_weights({"something.else": torch.zeros(2)})
    assert own_lora_acts(pipe)
    assert torch.equal(latents(pipe, family), plain)


def test_lora_that_no_student_can_carry_is_refused(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    name = "transformer.transformer_blocks.0.attn"
    lora = style(pipe, STYLES[family]["beside"], seed=0)
    with pytest.raises(ValueError, match="control LoRA"):
        pipe.load_lora_weights(lora | {f"{name}.norm_q.weight": torch.zeros(16)})
    with pytest.raises(ValueError, match="LoKr"):
        pipe.load_lora_weights({f"{name}.to_q.lokr_w1.lora": torch.zeros(2, 2)})
    head = {
        "transformer.proj_out.lora_A.weight": torch.zeros(2, 32),
        "transformer.proj_out.lora_B.weight": torch.zeros(16, 2),
    }
    with pytest.raises(ValueError, match="for proj_out alone, which the student's head replaces"):
        pipe.load_lora_weights(head)
    if family == "flux":
        wide = {
            "transformer.x_embedder.lora_A.weight": torch.zeros(2, 32),
            "transformer.x_embedder.lora_B.weight": torch.zeros(32, 2),
        }
        with pytest.raises(ValueError, match="takes 32 inputs at x_embedder, which has 16"):
            pipe.load_lora_weights(lora | wide)
    with pytest.warns(UserWarning, match="weights for proj_out are left out"):
        pipe.load_lora_weights(lora | head)
    pipe.unload_lora_weights()
    assert torch.equal(latents(pipe, family), plain)


def test_lora_file_with_metadata_keeps_its_strength(pipe: StudentPipeline, family: str, tmp_path: Path) -> None:
    """Written by diffusers' own method, with another alpha than rank and a layer of another rank."""
    names = STYLES[family]["beside"]
    weights = style(pipe, names, seed=0) | style(pipe, ["norm_out.student.linear"], seed=1, rank=4)
    plain_names = {k.removeprefix("transformer.").replace(".student.", "."): v for k, v in weights.items()}
    metadata = {
        "r": 2,
        "lora_alpha": 1,
        "target_modules": [*names, "norm_out.linear"],
        "rank_pattern": {"norm_out.linear": 4},
        "alpha_pattern": {"norm_out.linear": 2},
    }
    type(pipe).save_lora_weights(tmp_path, plain_names, transformer_lora_adapter_metadata=metadata)
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    scales = {layer.scaling["style"] for layer in pipe.transformer.modules() if "style" in getattr(layer, "lora_A", ())}
    assert scales == {0.5}
    found = latents(pipe, family)
    pipe.unload_lora_weights()
    bare = {f"transformer.{k}": v for k, v in plain_names.items()}
    save_file(bare, tmp_path / "bare.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="bare.safetensors", adapter_name="style")
    pipe.set_adapters("style", 0.5)
    torch.testing.assert_close(latents(pipe, family), found, rtol=0, atol=1e-5)


def test_weights_of_what_is_not_there_are_refused(pipe: StudentPipeline, family: str) -> None:
    load_both(pipe, family)
    whole = latents(pipe, family)
    layer = STYLES[family]["shared"][0]
    with pytest.raises(ValueError, match=r"adapter_weights of 'shared' names transformr; it is in transformer"):
        pipe.set_adapters("shared", {"transformr": 0.5})
    with pytest.raises(ValueError, match=r"adapter_weights names blocks\.77, but 'shared' has no such layer; it has "):
        pipe.set_adapters("shared", {"transformer": {"blocks.77": 0.5}})
    with pytest.raises(ValueError, match="no LoRA is called shred; there are beside, piflow, shared"):
        pipe.set_adapters("shred")
    assert torch.equal(latents(pipe, family), whole)
    pipe.set_adapters("shared", {"transformer": {layer: 0.0}})
    half = latents(pipe, family)
    assert distance(half, whole) > 1e-3
    pipe.unload_lora_weights()
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"][1:], seed=0), adapter_name="rest")
    assert len([1 for _, part in layers_of(pipe) if "rest" in part.lora_A]) == 1


def test_what_is_left_out_is_named_with_counts(pipe: StudentPipeline, family: str) -> None:
    good = style(pipe, STYLES[family]["beside"], seed=0)
    pipe.load_lora_weights(good, adapter_name="good")
    wanted = latents(pipe, family)
    pipe.unload_lora_weights()
    foreign = {
        f"transformer.transformer_blocks.{i}.attn.to_q.lora_{side}.weight": tensor
        for i in (55, 56)
        for side, tensor in zip("AB", list(good.values())[:2], strict=True)
    }
    match = r"2 of 4 layers of this LoRA are left out, such as transformer\.transformer_blocks\.55\.attn\.to_q, "
    with pytest.warns(UserWarning, match=match) as warned:
        pipe.load_lora_weights(good | foreign, adapter_name="style")
    assert not [warning for warning in warned if "peft_config" in str(warning.message)]
    assert torch.equal(latents(pipe, family), wanted)
    with pytest.warns(UserWarning, match=r"2 of 6 weights of this LoRA are left out, such as unet\.a\.lora_A"):
        pipe.load_lora_weights(good | {f"unet.a.lora_{side}.weight": torch.zeros(2, 2) for side in "AB"})
    half = {key: tensor for i, (key, tensor) in enumerate(good.items()) if i != 3}
    with pytest.warns(UserWarning, match="1 of 2 layers of this LoRA are left out.*or in half"):
        pipe.load_lora_weights(half)
    before = pipe.get_list_adapters()
    with pytest.raises(ValueError, match=r"nothing of this LoRA fits: 2 layers or weights, such as .*another model"):
        pipe.load_lora_weights(foreign)
    wide = {key: tensor.repeat(1, 2) if "lora_A" in key else tensor for key, tensor in good.items()}
    with pytest.raises(ValueError, match=r"this LoRA takes \d+ inputs at .*, which has \d+"):
        pipe.load_lora_weights(wide)
    narrow = {key: tensor[: len(tensor) // 2] if "lora_B" in key else tensor for key, tensor in good.items()}
    with pytest.raises(ValueError, match=r"this LoRA gives \d+ outputs at .*, which has \d+"):
        pipe.load_lora_weights(narrow)
    assert pipe.get_list_adapters() == before


def test_magnitudes_of_a_dora_are_named(pipe: StudentPipeline, family: str) -> None:
    good = style(pipe, STYLES[family]["beside"], seed=0)
    pipe.load_lora_weights(good, adapter_name="plain")
    wanted = latents(pipe, family)
    pipe.unload_lora_weights()
    scale = {f"transformer.{name}.dora_scale": torch.ones(1, 4) for name in STYLES[family]["beside"]}
    with pytest.warns(UserWarning, match=r"this is a DoRA: 2 magnitudes \(dora_scale\), such as transformer\."):
        pipe.load_lora_weights(good | scale, adapter_name="dora")
    assert torch.equal(latents(pipe, family), wanted)


def test_files_that_are_missing_or_damaged(pipe: StudentPipeline, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'no-such-file\.safetensors' does not exist here and is no hub id"):
        pipe.load_lora_weights("no-such-file.safetensors")
    with pytest.raises(ModelError, match=r"somewhere/style\.safetensors' does not exist here"):
        pipe.load_lora_weights("somewhere/style.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(SafetensorError, match="header"):
        pipe.load_lora_weights(tmp_path / "cut.safetensors")
