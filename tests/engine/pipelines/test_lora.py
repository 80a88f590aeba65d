"""Style LoRA on top of a student: what they change, and that the student's own LoRA and head act whatever is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import save_file
from tiny_pipelines import FAMILIES, STYLES, latents, merged_pipeline, pipeline, style
from torch import Tensor

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.errors import ModelError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*was trained on"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute"),
]

KINDS = ("beside", "shared")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pipe(family: str) -> StudentPipeline:
    return pipeline(family)


@pytest.fixture(scope="module")
def plain_of() -> dict[str, Tensor]:
    return {family: latents(pipeline(family), family) for family in FAMILIES}


@pytest.fixture
def plain(plain_of: dict[str, Tensor], family: str) -> Tensor:
    return plain_of[family]


def load_both(pipe: StudentPipeline, family: str) -> None:
    for seed, kind in enumerate(KINDS):
        pipe.load_lora_weights(style(pipe, STYLES[family][kind], seed=seed), adapter_name=kind)


def own_lora_acts(pipe: StudentPipeline) -> bool:
    layers = [p for p in pipe.transformer.modules() if isinstance(p, LoraLayer) and ADAPTER in p.lora_A]
    return bool(layers) and all(
        ADAPTER in layer.active_adapters
        and layer.scaling[ADAPTER] == 1
        and not layer.disable_adapters
        and not layer.merged
        for layer in layers
    )


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_loading_changes_pictures_and_unloading_restores_them(
    pipe: StudentPipeline, family: str, plain: Tensor, kind: str
) -> None:
    names = list(pipe.transformer.state_dict())
    pipe.load_lora_weights(style(pipe, STYLES[family][kind], seed=0), adapter_name="style")
    assert pipe.get_active_adapters() == [ADAPTER, "style"]
    assert pipe.get_list_adapters() == {"transformer": [ADAPTER, "style"]}
    assert own_lora_acts(pipe)
    assert distance(latents(pipe, family), plain) > 0.1
    pipe.unload_lora_weights()
    assert pipe.get_active_adapters() == [ADAPTER]
    assert pipe.get_list_adapters() == {"transformer": [ADAPTER]}
    assert list(pipe.transformer.state_dict()) == names
    assert torch.equal(latents(pipe, family), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_style_is_what_the_base_class_adds_to_the_weights(pipe: StudentPipeline, family: str, kind: str) -> None:
    """The student with its style fused by hand: base weights plus B A."""
    weights = style(pipe, STYLES[family][kind], seed=0)
    pipe.load_lora_weights(weights, adapter_name="style")
    found = latents(pipe, family)
    by_hand = pipeline(family)
    with torch.no_grad():
        for name in STYLES[family][kind]:
            layer = by_hand.transformer.get_submodule(name)
            down, up = (weights[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
            getattr(layer, "base_layer", layer).weight += up @ down
    torch.testing.assert_close(found, latents(by_hand, family), rtol=0, atol=1e-3)


def test_weights_scale_the_style_alone(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    assert pipe.get_active_adapters() == [ADAPTER, "shared"]  # the last one, as in diffusers
    only_last = latents(pipe, family)
    pipe.set_adapters(list(KINDS), [0.0, 0.0])
    assert pipe.get_active_adapters() == [ADAPTER, *KINDS]
    assert torch.equal(latents(pipe, family), plain)
    pipe.set_adapters(list(KINDS), [0.0, 1.0])
    assert torch.equal(latents(pipe, family), only_last)
    pipe.set_adapters("shared", 0.5)
    half = latents(pipe, family)
    assert min(distance(half, plain), distance(half, only_last)) > 1e-3
    pipe.set_adapters(list(KINDS))
    assert distance(latents(pipe, family), only_last) > 1e-3
    pipe.set_adapters([])
    assert torch.equal(latents(pipe, family), plain)
    pipe.set_adapters([ADAPTER, "shared"], [1.0, {"transformer": 1.0}])
    assert torch.equal(latents(pipe, family), only_last)
    assert own_lora_acts(pipe)


def test_call_time_scale_is_of_the_style(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    name = "joint_attention_kwargs" if family == "flux" else "attention_kwargs"
    assert torch.equal(latents(pipe, family, **{name: {"scale": 0.25}}), plain)
    load_both(pipe, family)
    whole = latents(pipe, family)
    assert torch.equal(latents(pipe, family, **{name: {"scale": 0.0}}), plain)
    half = latents(pipe, family, **{name: {"scale": 0.5}})
    assert torch.equal(latents(pipe, family), whole)
    pipe.set_adapters("shared", 0.5)
    assert torch.equal(latents(pipe, family), half)


def test_style_rests_while_disabled(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    on = latents(pipe, family)
    pipe.disable_lora()
    pipe.disable_lora()
    assert pipe.get_active_adapters() == [ADAPTER]
    assert torch.equal(latents(pipe, family), plain)
    pipe.enable_lora()
    assert torch.equal(latents(pipe, family), on)
    pipe.disable_lora()
    pipe.set_adapters("beside")
    assert torch.equal(latents(pipe, family), plain)
    pipe.delete_adapters("shared")
    pipe.enable_lora()
    assert pipe.get_active_adapters() == [ADAPTER, "beside"]
    pipe.enable_lora()
    assert own_lora_acts(pipe)


def test_deleting_one_leaves_the_other(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    only_last = latents(pipe, family)
    pipe.set_adapters(list(KINDS))
    pipe.delete_adapters("beside")
    assert pipe.get_active_adapters() == [ADAPTER, "shared"]
    assert torch.equal(latents(pipe, family), only_last)
    pipe.delete_adapters(["shared"])
    assert torch.equal(latents(pipe, family), plain)


def test_fused_style_acts_beside_the_students_lora(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    pipe.set_adapters(list(KINDS), [1.0, 0.5])
    live = latents(pipe, family)
    pipe.fuse_lora()
    assert pipe.fused_loras == set(KINDS)
    assert pipe.get_active_adapters() == [ADAPTER]
    assert own_lora_acts(pipe)
    assert 0 < distance(latents(pipe, family), live) < 1e-3
    with pytest.raises(ValueError, match="beside is fused into the weights; call unfuse_lora first"):
        pipe.set_adapters("beside")
    with pytest.raises(ValueError, match="shared is fused already"):
        pipe.fuse_lora(adapter_names=["shared"])
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    torch.testing.assert_close(latents(pipe, family), live, rtol=0, atol=1e-3)
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=1e-3)


def test_fused_style_stays_when_its_lora_is_unloaded(pipe: StudentPipeline, family: str) -> None:
    load_both(pipe, family)
    pipe.set_adapters("shared", 0.5)
    half = latents(pipe, family)
    pipe.set_adapters("shared")
    pipe.fuse_lora(lora_scale=0.5, adapter_names=["shared"])
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe, family), half, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="shared was unloaded after it was fused"):
        pipe.unfuse_lora()


def test_the_students_own_lora_cannot_be_touched(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    weights = style(pipe, STYLES[family]["shared"], seed=0)
    for attempt in (
        lambda: pipe.load_lora_weights(weights, adapter_name=ADAPTER),
        lambda: pipe.load_lora_weights(weights, adapter_name=ADAPTER, hotswap=True),
        lambda: pipe.delete_adapters(ADAPTER),
        lambda: pipe.fuse_lora(adapter_names=[ADAPTER]),
    ):
        with pytest.raises(ValueError, match="'piflow' is the student's own LoRA"):
            attempt()
    with pytest.raises(ValueError, match="stays at weight 1"):
        pipe.set_adapters([ADAPTER], [0.5])
    with pytest.raises(ValueError, match="would pad the student's own LoRA"):
        pipe.enable_lora_hotswap(target_rank=8)
    assert torch.equal(latents(pipe, family), plain)


def test_own_lora_comes_back_from_the_transformers_methods(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    last = latents(pipe, family)
    pipe.transformer.set_adapters(["shared"])
    assert torch.equal(latents(pipe, family), last)
    pipe.transformer.set_adapters([ADAPTER, "shared"], [0.0, 1.0])
    assert torch.equal(latents(pipe, family), last)
    pipe.transformer.disable_lora()
    assert torch.equal(latents(pipe, family), plain)
    pipe.enable_lora()
    assert torch.equal(latents(pipe, family), last)
    pipe.transformer.fuse_lora(adapter_names=["shared"])
    with pytest.raises(ValueError, match=r"fused by the transformer's own method; call pipe\.fuse_lora"):
        latents(pipe, family)
    pipe.transformer.unfuse_lora()
    pipe.transformer.unload_lora()
    with pytest.raises(ModelError, match="own LoRA is gone from"):
        latents(pipe, family)


def test_lora_without_a_name_gets_a_free_one(pipe: StudentPipeline, family: str) -> None:
    for seed in range(3):
        pipe.load_lora_weights(style(pipe, STYLES[family]["beside"], seed=seed))
    assert pipe.get_list_adapters()["transformer"] == [ADAPTER, "default_0", "default_1", "default_2"]


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


def test_style_on_a_module_that_the_student_trained_acts(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    """`norm_out` exists twice, as the base's and as the student's; style LoRA know the base's name."""
    layer = pipe.transformer.norm_out.student.linear
    weights = {
        "transformer.norm_out.linear.lora_A.weight": torch.randn(2, layer.in_features),
        "transformer.norm_out.linear.lora_B.weight": torch.randn(layer.out_features, 2),
    }
    pipe.load_lora_weights(weights, adapter_name="style")
    assert distance(latents(pipe, family), plain) > 0.1
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


def test_hotswap_takes_the_place_of_a_style(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=1), adapter_name="style")
    wanted = latents(pipe, family)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0), adapter_name="style")
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=1), adapter_name="style", hotswap=True)
    assert torch.equal(latents(pipe, family), wanted)


def encoder_style(pipe: StudentPipeline, *, seed: int = 0) -> dict[str, Tensor]:
    """A made-up LoRA of FLUX's first text encoder, as diffusers stores one."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for name in ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.v_proj"):
        layer = pipe.text_encoder.get_submodule(name)
        for side, shape in (("A", (2, layer.in_features)), ("B", (layer.out_features, 2))):
            weights[f"text_encoder.text_model.{name}.lora_{side}.weight"] = torch.randn(shape, generator=generator)
    return weights


def draw(pipe: StudentPipeline) -> Tensor:
    """Latents of FLUX of a prompt that the text encoders read."""
    call: dict[str, Any] = {"height": 64, "width": 48, "max_sequence_length": 12, "output_type": "latent"}
    return pipe("a red cat", generator=torch.Generator().manual_seed(0), **call).images


def test_style_of_a_text_encoder_is_flux_alone() -> None:
    pipe = pipeline("flux")
    plain = draw(pipe)
    pipe.load_lora_weights(encoder_style(pipe) | style(pipe, STYLES["flux"]["beside"], seed=0), adapter_name="style")
    assert pipe.get_active_adapters() == [ADAPTER, "style"]
    both = draw(pipe)
    pipe.set_adapters("style", {"transformer": 0.0, "text_encoder": 1.0})
    text_alone = draw(pipe)
    assert min(distance(text_alone, plain), distance(text_alone, both)) > 1e-2
    pipe.set_adapters("style")
    pipe.fuse_lora(["transformer", "text_encoder"])
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.unfuse_lora()
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.disable_lora()
    torch.testing.assert_close(draw(pipe), plain, rtol=0, atol=1e-3)
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters() == {"transformer": [ADAPTER]}
    torch.testing.assert_close(draw(pipe), plain, rtol=0, atol=1e-3)


def test_fusing_the_transformer_leaves_the_text_encoders_half_acting() -> None:
    pipe = pipeline("flux")
    plain = draw(pipe)
    pipe.load_lora_weights(encoder_style(pipe) | style(pipe, STYLES["flux"]["beside"], seed=0), adapter_name="style")
    both = draw(pipe)
    pipe.fuse_lora()  # as in diffusers: the transformer
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.load_lora_weights(style(pipe, STYLES["flux"]["shared"], seed=1), adapter_name="other")
    more = draw(pipe)
    pipe.set_adapters("other", 0.0)
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.set_adapters("other")
    torch.testing.assert_close(draw(pipe), more, rtol=0, atol=1e-3)
    pipe.disable_lora()
    fused_alone = draw(pipe)
    assert min(distance(fused_alone, plain), distance(fused_alone, both)) > 1e-3
    pipe.enable_lora()
    torch.testing.assert_close(draw(pipe), more, rtol=0, atol=1e-3)
    pipe.delete_adapters("other")
    pipe.fuse_lora(["text_encoder"], adapter_names=["style"])
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.unfuse_lora(["transformer"])
    assert pipe.fused_loras == {"style"}
    pipe.unfuse_lora()
    assert pipe.fused_loras == set()
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="text_encoder_2 carries no LoRA; one of transformer, text_encoder"):
        pipe.fuse_lora(["text_encoder_2"])


def test_load_fuse_unload_goes_round(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    by_hand = pipeline(family)
    for seed in range(3):
        pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=seed))
        by_hand.load_lora_weights(style(by_hand, STYLES[family]["shared"], seed=seed), adapter_name=f"style{seed}")
        by_hand.set_adapters([f"style{i}" for i in range(seed + 1)])
        wanted = latents(by_hand, family)
        torch.testing.assert_close(latents(pipe, family), wanted, rtol=0, atol=1e-3)
        pipe.fuse_lora()
        pipe.unload_lora_weights()
        torch.testing.assert_close(latents(pipe, family), wanted, rtol=0, atol=1e-3)
    assert pipe.num_fused_loras == 3
    pipe.load_lora_weights(style(pipe, STYLES[family]["beside"], seed=0), adapter_name="last")
    pipe.fuse_lora()
    pipe.unfuse_lora()  # what can be taken out is
    pipe.set_adapters("last", 0.0)
    torch.testing.assert_close(latents(pipe, family), wanted, rtol=0, atol=1e-3)
    assert pipe.num_fused_loras == 3
    pipe.unload_lora_weights()
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0), adapter_name="default_0")  # a name used up
    pipe.set_adapters("default_0", 0.5)
    assert own_lora_acts(pipe)
    assert distance(latents(pipe, family), plain) > 0.1


def test_a_call_leaves_what_is_trained_and_active_as_it_was(pipe: StudentPipeline, family: str) -> None:
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0), adapter_name="style")
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "mine")
    trained = {name for name, p in pipe.transformer.named_parameters() if p.requires_grad}
    assert trained
    assert all(".mine." in name for name in trained)
    before = {name: (layer.active_adapters, layer.disable_adapters) for name, layer in layers_of(pipe)}
    latents(pipe, family)
    assert {name for name, p in pipe.transformer.named_parameters() if p.requires_grad} == trained
    assert {name: (layer.active_adapters, layer.disable_adapters) for name, layer in layers_of(pipe)} == before
    pipe.set_adapters(["style", "mine"], [0.5, 1.0])
    pipe.disable_lora()
    pipe.enable_lora()
    latents(pipe, family)
    assert {name for name, p in pipe.transformer.named_parameters() if p.requires_grad} == trained
    assert own_lora_acts(pipe)


def layers_of(pipe: StudentPipeline) -> list[tuple[str, LoraLayer]]:
    return [(name, part) for name, part in pipe.transformer.named_modules() if isinstance(part, LoraLayer)]


def test_the_transformers_switch_turns_the_style_off_and_on(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    on = latents(pipe, family)
    for enable in (pipe.transformer.enable_lora, pipe.enable_lora, pipe.transformer.enable_lora):
        pipe.transformer.disable_lora()
        assert torch.equal(latents(pipe, family), plain)
        enable()
        assert torch.equal(latents(pipe, family), on)
        assert own_lora_acts(pipe)


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


def test_fused_projections_keep_lora_or_are_refused(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    pipe.transformer.fuse_qkv_projections()
    torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=1e-3)
    pipe.load_lora_weights(style(pipe, STYLES[family]["beside"], seed=0), adapter_name="style")
    if family == "qwen":  # whose attention diffusers does not fuse
        assert distance(latents(pipe, family), plain) > 0.1
        return
    with pytest.raises(
        ValueError, match=r"fuse_qkv_projections leaves out \d layers with LoRA, such as transformer_bl"
    ):
        latents(pipe, family)
    pipe.transformer.unfuse_qkv_projections()
    styled = latents(pipe, family)
    assert distance(styled, plain) > 0.1
    pipe.fuse_lora()
    pipe.transformer.fuse_qkv_projections()
    torch.testing.assert_close(latents(pipe, family), styled, rtol=0, atol=1e-3)


def test_students_with_all_weights_carry_style_too(family: str, tmp_path: Path) -> None:
    pipe = merged_pipeline(family, tmp_path)
    plain = latents(pipe, family)
    load_both(pipe, family)
    assert pipe.get_active_adapters() == ["shared"]
    last = latents(pipe, family)
    assert distance(last, plain) > 0.1
    pipe.set_adapters(list(KINDS), [0.0, 0.0])
    assert torch.equal(latents(pipe, family), plain)
    pipe.set_adapters("shared")
    pipe.fuse_lora()
    torch.testing.assert_close(latents(pipe, family), last, rtol=0, atol=1e-3)
    pipe.unfuse_lora()
    pipe.disable_lora()
    torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=1e-3)
    pipe = merged_pipeline(family, tmp_path)
    load_both(pipe, family)
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters() == {}
    assert torch.equal(latents(pipe, family), plain)
