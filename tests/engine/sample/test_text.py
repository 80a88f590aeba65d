"""Sampling text-to-image students: what may be asked of them, and what is refused or warned of."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from text_students import style_lora
from tiny_models import PARITY

from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import add_loras, open_student
from piflow_cli.engine.sample.save import save_samples
from piflow_cli.engine.students.device import resolve_dtype
from piflow_cli.engine.students.load import LoadedStudent, load_student
from piflow_cli.errors import DataError, DeviceError, MissingExtraError, ModelError, PolicyError
from piflow_cli.teachers.text.loading.configs import config_differences

FLUX, QWEN = PARITY / "e2e_flux", PARITY / "e2e_qwen"
SMALL = {"width": 48, "height": 64}


def flux() -> LoadedStudent:
    return open_student(str(FLUX / "adapter_gmflux"), base=str(FLUX / "pipeline"), device="cpu", dtype="float32")


def qwen() -> LoadedStudent:
    return open_student(str(QWEN / "adapter_gmqwen"), base=str(QWEN / "pipeline"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def student() -> LoadedStudent:
    return flux()


def test_automatic_precision_is_what_the_processor_has_instructions_for() -> None:
    student = open_student(str(FLUX / "adapter_gmflux"), base=str(FLUX / "pipeline"), device="cpu")
    assert student.dtype == resolve_dtype("auto", torch.device("cpu"))
    assert open_student("digits-1nfe", device="cpu").dtype == torch.float32


def test_size_seeds_and_batch(student: LoadedStudent) -> None:
    together = sample(["a red cat", "blue dog"], model=student, seeds=[3, 8], **SMALL)
    assert (together.prompts, together.seeds) == (["a red cat"] * 2 + ["blue dog"] * 2, [3, 8, 3, 8])
    assert together.images[0].size == (48, 64)
    alone = sample(["blue dog"], model=student, seeds=[8], **SMALL)
    torch.testing.assert_close(together.latents[3], alone.latents[0], rtol=1e-4, atol=1e-4)
    wide = sample(["blue dog"], model=student, width=80, height=32)
    far = "80x32 is far from 1024x1024, the size that was trained"
    assert any(far in warning for warning in wide.warnings)
    assert wide.latents.shape[-2:] == (4, 10)
    with pytest.raises(DataError, match="width 50 is not a positive multiple of 16; the nearest one is 48"):
        sample(["blue dog"], model=student, width=50, height=64)


def test_guidance_is_the_trained_one_unless_asked_for(student: LoadedStudent) -> None:
    plain = sample(["a red cat"], model=student, **SMALL)
    same = sample(["a red cat"], model=student, guidance_scale=3.5, **SMALL)
    assert torch.equal(plain.latents, same.latents)
    assert not any("guidance" in warning for warning in same.warnings)
    other = sample(["a red cat"], model=student, guidance_scale=1.5, **SMALL)
    assert any("trained with guidance 3.5; pictures at 1.5 are likely to be very noisy" in w for w in other.warnings)
    assert not torch.allclose(other.latents, plain.latents, atol=1e-3)
    with pytest.raises(PolicyError, match=r"was trained with 4\.0, which is part of its weights"):
        sample(["a cat"], model=qwen(), guidance_scale=2.0, **SMALL)


def test_negative_prompt_guides_between_two_policies() -> None:
    student = qwen()
    plain = sample(["the cat"], model=student, **SMALL).latents
    none = sample(["the cat"], model=student, negative_prompt="a house", negative_scale=1.0, **SMALL)
    torch.testing.assert_close(none.latents, plain, rtol=1e-4, atol=1e-4)
    assert any("doubles the network evaluations" in warning for warning in none.warnings)
    steered = sample(["the cat"], model=student, negative_prompt="a house", negative_scale=2.0, **SMALL).latents
    assert not torch.allclose(steered, plain, atol=1e-3)
    same = sample(["the cat"], model=student, negative_prompt="the cat", negative_scale=2.0, **SMALL).latents
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)


def test_dropped_tokens_are_counted() -> None:
    student = load_student(
        str(FLUX / "adapter_gmflux"), base=str(FLUX / "pipeline"), teacher_changes={"max_sequence_length": 6}
    )
    prompt = "a photo of a red cat on the house"
    tokens = len(student.space.pipeline.tokenizer_2([prompt]).input_ids[0])
    result = sample([prompt], model=student, **SMALL)
    assert any(f"{tokens - 6} tokens beyond 6 were dropped" in warning for warning in result.warnings)


@pytest.mark.parametrize(("sides", "far"), [((64, 64), 0), ((128, 64), 1), ((64, 32), 1), ((112, 48), 0)])
def test_sizes_far_from_the_trained_one_and_unknown_scripts_are_warned_of(sides: tuple[int, int], far: int) -> None:
    drawn = sample(["猫"], model="emoji-4nfe", width=sides[0], height=sides[1], device="cpu").warnings
    assert sum("is far from 64x64" in warning for warning in drawn) == far
    assert drawn[-1] == "1 token is of a script that the text encoder does not know, in the prompt '猫'"


def test_pictures_say_what_was_asked(student: LoadedStudent, tmp_path: Path) -> None:
    result = sample(["a red cat"], model=student, negative_prompt="dog", **SMALL)
    with Image.open(save_samples(result, tmp_path)[0]) as image:
        assert (image.text["width"], image.text["negative_prompt"], image.text["negative_scale"]) == (
            "48",
            "dog",
            "1.5",
        )


@pytest.mark.parametrize("layer", ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.net.2"])
def test_style_loras_add_to_the_students_own(tmp_path: Path, layer: str) -> None:
    shape = (32, 32) if "attn" in layer else (32, 128)
    folder = style_lora(tmp_path / "style", layer, *shape)
    plain = sample(["a red cat"], model=flux(), **SMALL).latents

    def styled(*weights: float) -> torch.Tensor:
        student = flux()
        add_loras(student, [(str(folder), weight) for weight in weights])
        return sample(["a red cat"], model=student, **SMALL).latents

    torch.testing.assert_close(styled(0.0), plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(styled(1.0), plain, atol=1e-2)
    torch.testing.assert_close(styled(0.5, 0.5), styled(1.0), rtol=1e-3, atol=1e-3)
    with pytest.raises(ModelError, match="cannot be added"):
        add_loras(flux(), [(str(tmp_path / "none"), 1.0)])


def test_students_that_take_no_text_refuse_what_is_for_text() -> None:
    digits = open_student("digits-1nfe", device="cpu")
    with pytest.raises(DataError, match="takes no width, negative_prompt"):
        sample(["3"], model=digits, width=64, negative_prompt="4")
    with pytest.raises(ModelError, match="quantization: digits-1nfe is no text-to-image student"):
        open_student("digits-1nfe", quantization="bnb-4bit", device="cpu")
    with pytest.raises(ModelError, match="no text-to-image student; it takes no LoRA"):
        add_loras(digits, [("style", 1.0)])
    with pytest.raises(ModelError, match="holds all it needs and takes no base"):
        open_student("digits-1nfe", base="elsewhere", device="cpu")


def test_bad_options_are_named() -> None:
    source, base = str(FLUX / "adapter_gmflux"), str(FLUX / "pipeline")
    with pytest.raises(ModelError, match="offload 'all' is none of none, encoders"):
        open_student(source, base=base, offload="all", device="cpu")
    with pytest.raises(DeviceError, match="there is none to move to"):
        open_student(source, base=base, offload="model", device="cpu")
    with pytest.raises(ModelError, match="quantization: Input should be"):
        open_student(source, base=base, quantization="int3", device="cpu")
    installed = find_spec("bitsandbytes") is not None
    refusal = (DeviceError, "bnb-4bit needs a GPU") if installed else (MissingExtraError, r"'piflow\[bitsandbytes\]'")
    with pytest.raises(refusal[0], match=refusal[1]):
        open_student(source, base=base, quantization="bnb-4bit", device="cpu")
    with pytest.raises(ModelError, match="holds a QwenImagePipeline, not a FluxPipeline"):
        open_student(source, base=str(QWEN / "pipeline"), device="cpu")
    with pytest.raises(ModelError, match=r"hf download black-forest-labs/FLUX\.1-dev .* gated models"):
        open_student(source, device="cpu")


def test_base_of_another_architecture_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter_4step"
    adapter.mkdir()
    config = json.loads((FLUX / "adapter_gmflux" / "config.json").read_text()) | {"num_single_layers": 3}
    (adapter / "config.json").write_text(json.dumps(config))
    name = "diffusion_pytorch_model.safetensors"
    weights = load_file(FLUX / "adapter_gmflux" / name)
    save_file(weights, adapter / name, metadata={"policy_config": '{"type": "GMFlow"}'})
    with pytest.raises(ModelError, match="num_single_layers is 3 in the student, 2 in the base"):
        open_student(str(adapter), base=str(FLUX / "pipeline"), device="cpu")
    assert config_differences({"a": 1, "_b": 2}, {"a": 1, "_b": 3}) == []


def test_students_of_one_repository_are_told_apart(tmp_path: Path) -> None:
    for name in ("gmflux_k8_piid_4step", "gmflux_k8_piid_8step"):
        (tmp_path / name).symlink_to(FLUX / "adapter_gmflux")
    with pytest.raises(ModelError, match="holds several students; add one to the name: gmflux_k8_piid_4step, gm"):
        open_student(str(tmp_path), base=str(FLUX / "pipeline"), device="cpu")
    for nfe in (4, 8):
        folder = tmp_path / f"gmflux_k8_piid_{nfe}step"
        assert open_student(str(folder), base=str(FLUX / "pipeline"), device="cpu").card.sampling.nfe == nfe
