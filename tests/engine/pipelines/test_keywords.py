"""diffusers' keywords of loading, saving and converting a pipeline, and the hub, whose client is watched here."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import huggingface_hub
import pytest
import torch
from tiny_models import dx, stored_student, tiny_vae
from tiny_pipelines import (
    FAMILIES,
    STYLES,
    aligned,
    base_folder,
    latents,
    merged_pipeline,
    pipeline,
    student_folder,
    style,
)

from piflow_cli import load_pipeline
from piflow_cli.engine.pipelines.dit import PiDiTPipeline
from piflow_cli.engine.pipelines.flux import PiFluxPipeline
from piflow_cli.engine.pipelines.qwen_image import PiQwenImagePipeline
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on", "ignore:Already found a `peft_config` attribute")

CLASSES = {"flux": PiFluxPipeline, "qwen": PiQwenImagePipeline}
BASES = {"flux": diffusers.FluxPipeline, "qwen": diffusers.QwenImagePipeline}
OTHERS = {
    "flux": (
        diffusers.FluxPipeline,
        diffusers.FluxImg2ImgPipeline,
        diffusers.FluxInpaintPipeline,
        diffusers.FluxControlNetPipeline,
        diffusers.FluxKontextPipeline,
        diffusers.AutoPipelineForText2Image,
        diffusers.AutoPipelineForImage2Image,
        diffusers.AutoPipelineForInpainting,
    ),
    "qwen": (
        diffusers.QwenImagePipeline,
        diffusers.QwenImageImg2ImgPipeline,
        diffusers.QwenImageInpaintPipeline,
        diffusers.QwenImageEditPipeline,
        diffusers.AutoPipelineForImage2Image,
    ),
}
"""Classes that `from_pipe` of diffusers would make of a base."""
PROMPT = {"prompt": "a red cat", "height": 64, "width": 48, "output_type": "pt"}


def picture(pipe: Any, **arguments: Any) -> torch.Tensor:
    return pipe(**PROMPT, generator=torch.Generator().manual_seed(0), **arguments).images


def dtypes(pipe: StudentPipeline) -> dict[str, torch.dtype]:
    return {name: part.dtype for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


@pytest.mark.parametrize("family", FAMILIES)
def test_components_bring_the_student_along(family: str) -> None:
    pipe = pipeline(family)
    plain = latents(pipe, family)
    for again in (CLASSES[family](**pipe.components), CLASSES[family].from_pipe(pipe)):
        assert torch.equal(latents(again, family), plain)
        assert again.student.card == pipe.student.card
        assert again.student.space.pipeline is again
    swapped = CLASSES[family](**(pipe.components | {"vae": None}))
    assert swapped.vae is None
    assert pipe.student.space.pipeline.vae is not None
    again = CLASSES[family].from_pipe(pipe, vae=None)
    assert again.vae is None
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0), adapter_name="style")
    pipe.fuse_lora()
    again = CLASSES[family].from_pipe(pipe)
    assert again.fused_loras == {"style"}  # one transformer, one state
    again.unfuse_lora()
    assert pipe.fused_loras == set()
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(again, family), plain, rtol=0, atol=1e-3)


def test_components_of_class_students_and_of_others() -> None:
    pipe = load_pipeline("digits-1nfe")
    again = PiDiTPipeline(**pipe.components)
    draws = [p([1], generator=torch.Generator().manual_seed(0), output_type="pt").images for p in (pipe, again)]
    assert torch.equal(*draws)
    flux = pipeline("flux")
    with pytest.raises(ValueError, match="the transformer for this PiDiTPipeline holds a student of flux; make the"):
        PiDiTPipeline(transformer=flux.transformer)
    parts = BASES["flux"].from_pretrained(base_folder("flux")).components
    with pytest.raises(ValueError, match="the transformer for this PiFluxPipeline holds no student"):
        PiFluxPipeline(**parts)
    with pytest.raises(ValueError, match="holds no student"):
        PiFluxPipeline.from_pipe(BASES["flux"](**parts))
    with pytest.raises(ValueError, match="PiQwenImagePipeline cannot be made of a PiFluxPipeline"):
        PiQwenImagePipeline.from_pipe(flux)


@pytest.mark.parametrize(("family", "other"), [(family, other) for family in OTHERS for other in OTHERS[family]])
def test_other_pipelines_are_not_made_of_students(family: str, other: type) -> None:
    extra = {"controlnet": None} if other is diffusers.FluxControlNetPipeline else {}
    name = CLASSES[family].__name__
    with pytest.raises(ValueError, match=f"{other.__name__} cannot be made of a {name}: .*[Ll]oad the base"):
        other.from_pipe(pipeline(family), **extra)


def test_parts_take_the_place_of_the_bases() -> None:
    base, student = base_folder("flux"), student_folder("flux")
    own = diffusers.AutoencoderKL.from_pretrained(base, subfolder="vae")
    pipe = load_pipeline(student, base=base, vae=own, text_encoder=None, tokenizer=None)
    assert pipe.vae is own
    assert pipe.student.space.pipeline.vae is own
    assert pipe.text_encoder is None
    assert torch.equal(latents(aligned(pipe), "flux"), latents(pipeline("flux"), "flux"))
    with pytest.raises(TypeError, match="transformer takes a folder or a file of the base's; a pipeline's transformer"):
        load_pipeline(student, base=base, transformer=pipe.transformer)
    with pytest.raises(TypeError, match="QwenImagePipeline has no text_encoder_2; it has"):
        load_pipeline(student_folder("qwen"), base=base_folder("qwen"), text_encoder_2=None)
    with pytest.raises(TypeError, match="students of dit teachers have no tokenizer"):
        load_pipeline("digits-1nfe", tokenizer=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_dtypes_by_part_and_as_stored(family: str, tmp_path: Path) -> None:
    half, full = torch.bfloat16, torch.float32
    by_part = pipeline(family, torch_dtype={"default": half, "vae": full})
    found = dtypes(by_part)
    assert found.pop("vae") == full
    assert set(found.values()) == {half}
    whole = pipeline(family)
    assert all(
        torch.equal(a, b) for a, b in zip(by_part.vae.parameters(), whole.vae.parameters(), strict=True)
    )  # read again, not widened
    assert set(dtypes(pipeline(family, torch_dtype="auto")).values()) == {full}
    BASES[family].from_pretrained(base_folder(family), torch_dtype=half).save_pretrained(tmp_path / "half")
    stored = load_pipeline(student_folder(family), base=tmp_path / "half", torch_dtype="auto")
    assert set(dtypes(stored).values()) == {half}
    with pytest.raises(TypeError, match="torch_dtype 'half' is none; pass a"):
        pipeline(family, torch_dtype="half")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("whole", [False, True], ids=["adapter", "all-weights"])
def test_saved_base_is_a_pipeline_of_diffusers(family: str, whole: bool, tmp_path: Path) -> None:
    pipe = merged_pipeline(family, tmp_path) if whole else pipeline(family)
    pipe.save_pretrained(tmp_path / "saved", variant="fp16", max_shard_size="50KB", save_base=True)
    assert any((tmp_path / "saved/base/vae").glob("*.fp16*.safetensors"))
    assert any((tmp_path / "saved/base/text_encoder").glob("*-of-*.safetensors"))  # more than 50 KB
    steps = {"num_inference_steps": 2}
    variant = {} if whole else {"variant": "fp16"}
    if whole:  # the transformer is the source's own file, whatever the variant of the rest
        for path in (tmp_path / "saved/base").rglob("*.fp16*"):
            assert path.parent.name != "transformer"
        pipe.save_pretrained(tmp_path / "saved", save_base=True)
    base = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved" / "base", **variant)
    base.set_progress_bar_config(disable=True)
    original = BASES[family].from_pretrained(base_folder(family))
    original.set_progress_bar_config(disable=True)
    torch.testing.assert_close(picture(base, **steps), picture(original, **steps), rtol=0, atol=1e-4)
    again = load_pipeline(tmp_path / "saved")  # the variant is noted
    torch.testing.assert_close(latents(aligned(again), family), latents(pipe, family), rtol=0, atol=1e-4)


def test_keywords_that_mean_nothing_to_a_student_are_warned_of(tmp_path: Path) -> None:
    pipe = pipeline("flux")
    with pytest.warns(UserWarning, match="students are saved as safetensors, whatever safe_serialization says"):
        pipe.save_pretrained(tmp_path / "a", safe_serialization=False)
    with pytest.warns(UserWarning, match="variant 'fp16' is of the base's files; without save_base there are none"):
        pipe.save_pretrained(tmp_path / "b", variant="fp16")
    for folder in ("a", "b"):
        assert (tmp_path / folder / "student.safetensors").is_file()
        assert torch.equal(latents(aligned(load_pipeline(tmp_path / folder)), "flux"), latents(pipe, "flux"))
    pipe.transformer.fuse_qkv_projections()
    with pytest.raises(ValueError, match=r"call pipe\.transformer\.unfuse_qkv_projections\(\) before saving"):
        pipe.save_pretrained(tmp_path / "c")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The hub's client with its calls noted and what would be uploaded kept under `root`."""
    seen = SimpleNamespace(calls=[], root=tmp_path / "hub", readme=False)

    def create_repo(_: Any, repo_id: str, **options: Any) -> SimpleNamespace:
        seen.calls.append(("create_repo", repo_id, options))
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def upload_folder(_: Any, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        seen.calls.append(("upload_folder", repo_id, options))
        ignored = shutil.ignore_patterns(*(options.get("ignore_patterns") or ()))
        shutil.copytree(folder_path, seen.root / repo_id / (options.get("path_in_repo") or ""), ignore=ignored)
        return f"https://huggingface.co/{repo_id}/commit/0"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub.HfApi, "file_exists", lambda *_, **__: seen.readme)
    return seen


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", FAMILIES)
def test_push_uploads_the_students_folder(family: str, hub: SimpleNamespace) -> None:
    pipe = pipeline(family)
    where = pipe.push_to_hub("me/student", "first", private=True, token="secret", create_pr=True)
    assert where == "https://huggingface.co/me/student/commit/0"
    assert files(hub.root / "me/student") == {
        "checksums.json",
        "student.json",
        "student.safetensors",
        "README.md",
    }  # no local path
    assert hub.calls[0] == ("create_repo", "me/student", {"private": True, "exist_ok": True, "token": "secret"})
    (_, _, options) = hub.calls[1]
    assert (options["commit_message"], options["create_pr"], options["token"]) == ("first", True, "secret")
    card = (hub.root / "me/student/README.md").read_text()
    assert 'load_pipeline("me/student")' in card
    assert f"base_model: {pipe.student.card.teacher.source}" in card
    assert str(base_folder(family)) not in card
    again = load_pipeline(hub.root / "me/student", base=base_folder(family))
    assert torch.equal(latents(aligned(again), family), latents(pipe, family))


def test_push_with_base_subfolder_and_from_saving(hub: SimpleNamespace, tmp_path: Path) -> None:
    pipe = pipeline("flux")
    hub.readme = True  # somebody's own stays
    pipe.push_to_hub("whole", subfolder="4nfe", save_base=True, variant="fp16")
    found = files(hub.root / "me/whole")
    assert {"4nfe/student.json", "4nfe/base/model_index.json", "4nfe/base/tokenizer_2/tokenizer.json"} <= found
    assert "4nfe/base/vae/diffusion_pytorch_model.fp16.safetensors" in found
    assert not [name for name in found if name.endswith("README.md")]
    assert json.loads((hub.root / "me/whole/4nfe/pipeline.json").read_text()) == {"base": "base", "variant": "fp16"}
    again = aligned(load_pipeline(hub.root / "me/whole/4nfe"))
    torch.testing.assert_close(latents(again, "flux"), latents(pipe, "flux"), rtol=0, atol=1e-4)
    hub.calls.clear()
    pipe.save_pretrained(tmp_path / "mine", push_to_hub=True, token="secret")
    assert [call[:2] for call in hub.calls] == [("create_repo", "mine"), ("upload_folder", "me/mine")]
    assert json.loads((tmp_path / "mine/pipeline.json").read_text()) == {"base": str(base_folder("flux"))}
    assert "pipeline.json" not in files(hub.root / "me/mine")


def test_push_of_a_class_student_and_what_is_not_pushed(
    hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_student(stored_student(dx()), tmp_path / "one", vae=tiny_vae())
    load_pipeline(tmp_path / "one").push_to_hub("me/dit")
    assert {"student.json", "student.safetensors", "README.md", "vae/config.json"} <= files(hub.root / "me/dit")
    pipe = pipeline("flux")
    pipe.load_lora_weights(style(pipe, STYLES["flux"]["shared"], seed=0), adapter_name="style")
    pipe.fuse_lora()
    hub.calls.clear()
    with pytest.raises(ValueError, match="style is fused"):
        pipe.push_to_hub("me/fused")
    assert hub.calls == []

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    pipe.unfuse_lora()
    with pytest.raises(ModelError, match="cannot upload to 'me/closed': PermissionError 403 Forbidden"):
        pipe.push_to_hub("me/closed")


def test_hub_keywords_reach_the_student_and_its_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, dict[str, Any]] = {}

    def snapshot(repository: str, **options: Any) -> str:
        asked[repository] = options
        return str(student_folder("flux"))

    def download(_: type, repository: str, **options: Any) -> str:
        asked[repository] = options
        return str(base_folder("flux"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", classmethod(download))
    pipe = load_pipeline(
        "me/student", base="me/base", token="secret", cache_dir=tmp_path, force_download=True, use_safetensors=True
    )
    assert set(asked) == {"me/student", "me/base"}
    for options in asked.values():
        assert (options["token"], options["cache_dir"], options["force_download"]) == ("secret", tmp_path, True)
    assert asked["me/base"]["use_safetensors"] is True
    assert pipe.student.space.settings.source == "me/base"
    assert torch.equal(latents(aligned(pipe), "flux"), latents(pipeline("flux"), "flux"))
    pipe.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/pipeline.json").read_text()) == {"base": "me/base"}
