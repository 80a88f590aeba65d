"""Text-to-image students from distillation to reloading, on FLUX and Qwen-Image pipelines of random weights.

Shapes: B batch, C latent channels, H, W latent size.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import assert_same, stop_at
from safetensors.torch import load_file
from tiny_models import tiny_flux, tiny_qwen
from tiny_runs import SMALL_TEXT

from piflow_cli.core.imitation import ImitationSettings, data_free_losses
from piflow_cli.engine.convert import convert
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.build import build_student
from piflow_cli.engine.distill.embeddings import cache_embeddings
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.distill.network import TrainedNetwork
from piflow_cli.engine.processes.precision import Precision
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import open_student
from piflow_cli.engine.students.load import load_student
from piflow_cli.errors import DataError, PresetError
from piflow_cli.io.tensors.distributed import read_tensors
from piflow_cli.preset import Preset, load_preset

TEACHERS = {"flux": tiny_flux, "qwen": tiny_qwen}
PROMPTS = ("a red cat", "blue dog on the house", "the cat", "a photo of a house")
SIZE = {"flux": {"max_sequence_length": 12}, "qwen": {"guidance_scale": 2.0}}


def tiny(family: str, folder: Path, *overrides: str, steps: int = 4, images: bool = False) -> Preset:
    """The published recipe of a family at the size of a random pipeline."""
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    settings = TEACHERS[family]()
    data = (
        f"data={{type='captioned', path='{folder / 'pictures'}'}}"
        if images
        else (f"data={{type='prompts', path='{folder / 'prompts.txt'}'}}")
    )
    changes = {"source": settings.source, "width": 48, "height": 64, "offload_encoders": False} | SIZE[family]
    table = [f"teacher.{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_preset(f"{family}-4nfe", [*table, *SMALL_TEXT, f"training.steps={steps}", data, *overrides])


def save_pictures(folder: Path) -> None:
    """Four pictures of noise with captions, and one file that is none."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i, prompt in enumerate(PROMPTS):
        Image.fromarray(draw.integers(0, 255, (80, 70, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(prompt)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "broken.txt").write_text("a house")


def validation_of(run: Path) -> dict[str, float]:
    """The last row of a validation."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" not in row][-1]


def own_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "student.safetensors")


@pytest.mark.parametrize("family", TEACHERS)
@pytest.mark.parametrize("images", [False, True], ids=["data-free", "pictures"])
def test_distil_resume_sample_and_reload(tmp_path: Path, family: str, images: bool) -> None:
    if images:
        save_pictures(tmp_path / "pictures")
    preset = tiny(family, tmp_path, "training.gradient_checkpointing=true", images=images)
    events: list[DistillEvent] = []
    whole = distill(preset, out=tmp_path / "whole", device="cpu", on_event=events.append)
    assert (whole.step, whole.skipped) == (4, 0)
    told = [event.message for event in events if event.kind == "left out"]
    assert len(told) == (1 if images else 0)
    assert all("broken.png" in message for message in told)

    first = distill(preset, out=tmp_path / "parts", device="cpu", on_event=stop_at(2))
    assert (first.step, first.interrupted) == (2, True)
    assert distill(preset, out=tmp_path / "parts", device="cpu").step == 4
    assert_same(own_weights(tmp_path / "whole"), own_weights(tmp_path / "parts"))

    names = own_weights(tmp_path / "whole")
    assert {name.split(".")[0] for name in names if "lora" not in name} == {"norm_out", "proj_out"}
    checkpoint = read_tensors(tmp_path / "whole" / "checkpoints" / "step-0000004")
    assert {name.removeprefix("weights.") for name in checkpoint if name.startswith("weights.")} == names.keys()
    assert {name.removeprefix("average.") for name in checkpoint if name.startswith("average.")} == names.keys()
    parts = {name.split(".")[0] for name in checkpoint}
    assert parts == {"weights", "average", "optimizer"}  # nothing of the base

    result = sample(["a red cat", "blue dog"], model=str(tmp_path / "whole"), device="cpu")
    assert [image.size for image in result.images] == [(48, 64)] * 2
    again = sample(["blue dog"], model=str(tmp_path / "whole"), device="cpu")
    torch.testing.assert_close(again.latents[0], result.latents[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", TEACHERS)
def test_training_lowers_the_loss_of_the_untrained_student(tmp_path: Path, family: str) -> None:
    changes = ("optimizer.learning_rate=5e-3", "objective.teacher_mixing_steps=0", "training.batch_size=8")
    preset = tiny(family, tmp_path, *changes, "training.micro_batch_size=8", steps=40)
    distill(preset, out=tmp_path / "run", device="cpu")
    before, after = held_out_loss(preset, None), held_out_loss(preset, tmp_path / "run")
    assert after < 0.8 * before


def held_out_loss(preset: Preset, run: Path | None) -> float:
    """Imitation loss of the untrained, or the trained, student on noise that training never drew."""
    teacher = preset.teacher.load()
    if run is None:
        student = build_student(preset, teacher, generator=torch.Generator().manual_seed(0)).eval()
    else:
        loaded = load_student(str(run))
        teacher, student = loaded.teacher, loaded.network
    network = TrainedNetwork(student, student, Precision("no", torch.device("cpu")), sharded=False).evaluate_teacher
    generator = torch.Generator().manual_seed(99)
    condition = teacher.space.conditions(list(PROMPTS))
    noise = torch.randn((len(PROMPTS), *teacher.space.latent_shape), generator=generator)
    settings = ImitationSettings(shift=preset.sampling.time_shift, num_intermediates=4, total_substeps=16)
    with torch.no_grad():
        losses = data_free_losses(
            lambda x, sigma: student.policy(x, sigma, condition),
            lambda x, sigma: teacher.velocity(x, sigma, condition, network=network),
            noise,
            segments=preset.sampling.segments,
            settings=settings,
            generator=generator,
        )
        return float(sum(losses))


@pytest.mark.parametrize("family", TEACHERS)
def test_teacher_and_student_share_every_frozen_byte(tmp_path: Path, family: str) -> None:
    preset = tiny(family, tmp_path)
    teacher = preset.teacher.load()
    base = storages(teacher.module.parameters())
    student = build_student(preset, teacher, generator=torch.Generator().manual_seed(0))
    own = storages(student.own_parameters().values())
    both = storages([*student.parameters(), *teacher.module.parameters()])
    assert sum(both.values()) == sum(base.values()) + sum(own.values())
    assert not base.keys() & own.keys()
    trainable = {name for name, p in student.named_parameters() if p.requires_grad}
    assert len(trainable) == len(student.own_parameters())


def storages(parameters) -> dict[int, int]:
    """Bytes of each storage that the parameters lie in, each counted once."""
    found = {}
    for parameter in parameters:
        storage = parameter.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    return found


@pytest.mark.parametrize("family", TEACHERS)
def test_switching_to_the_teacher_and_back_changes_nothing(tmp_path: Path, family: str) -> None:
    preset = tiny(family, tmp_path)
    teacher = preset.teacher.load()
    condition = teacher.space.encode_prompts(PROMPTS[:2])
    x, sigma = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0.9, 0.4])
    u = teacher.velocity(x, sigma, condition)
    student = build_student(preset, teacher, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for parameter in student.own_parameters().values():
            parameter.add_(0.1)
    network = TrainedNetwork(student, student, Precision("no", torch.device("cpu")), sharded=False).evaluate_teacher
    output, _ = student(x, sigma, condition)
    assert torch.equal(teacher.velocity(x, sigma, condition, network=network), u)
    assert torch.equal(student(x, sigma, condition)[0], output)

    def gradients(visit_teacher: bool) -> dict[str, torch.Tensor]:
        student.zero_grad()
        out, extra = student(x, sigma, condition)
        if visit_teacher:
            teacher.velocity(x, sigma, condition, network=network)
        (out.square().mean() + extra.sum()).backward()
        return {name: p.grad.clone() for name, p in student.own_parameters().items() if p.grad is not None}

    assert_same(gradients(True), gradients(False))


@pytest.mark.parametrize("family", TEACHERS)
def test_cached_embeddings_train_without_a_text_encoder(tmp_path: Path, family: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(TEACHERS[family]().source, base)
    cache = (f"data.cache='{tmp_path / 'cache'}'", "data.cache_storage='bf16'", f"teacher.source='{base}'")
    asked = ("validation.every=2", "validation.prompts=['a blue house', 'dog']", "training.preview_every=2")
    preset = tiny(family, tmp_path, *cache, *asked, "training.preview_images=2", steps=2)
    report = cache_embeddings(preset, device="cpu")
    assert (report.num_prompts, report.built, report.kept) == (4, 1, 0)
    assert cache_embeddings(preset, device="cpu").kept == 1

    for weights in base.glob("text_encoder*/*.safetensors"):
        weights.unlink()  # what is not there cannot be loaded
    distill(preset, out=tmp_path / "run", device="cpu")
    plain = tiny(family, tmp_path, *asked, steps=2)
    distill(plain, out=tmp_path / "plain", device="cpu")
    errors = [validation_of(tmp_path / run)["validation/paired_error_4nfe"] for run in ("run", "plain")]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)  # bfloat16 embeddings
    cached, direct = own_weights(tmp_path / "run"), own_weights(tmp_path / "plain")
    name = "proj_out.means.bias"
    torch.testing.assert_close(cached[name], direct[name], rtol=1e-2, atol=1e-3)


def test_cache_of_another_encoder_or_of_none_is_refused(tmp_path: Path) -> None:
    preset = tiny("flux", tmp_path, f"data.cache='{tmp_path / 'cache'}'")
    cache_embeddings(preset, device="cpu")
    longer = tiny("flux", tmp_path, f"data.cache='{tmp_path / 'cache'}'", "teacher.max_sequence_length=9")
    with pytest.raises(DataError, match=r"text encoder .* there"):
        distill(longer, out=tmp_path / "run", device="cpu")
    with pytest.raises(PresetError, match=r"data\.cache names no folder"):
        cache_embeddings(tiny("flux", tmp_path), device="cpu")


def test_aspect_buckets_change_the_size_of_a_batch(tmp_path: Path) -> None:
    changes = ("data.resolutions=['48x64', '64x32']", "training.preview_every=4", "training.preview_images=2")
    preset = tiny("flux", tmp_path, *changes)
    result = distill(preset, out=tmp_path / "run", device="cpu")
    assert result.step == 4
    assert Image.open(tmp_path / "run" / "previews" / "step-0000004.png").size[0] > 96


def test_classes_and_prompts_are_not_mixed_up(tmp_path: Path) -> None:
    preset = tiny("flux", tmp_path, "data={type='noise'}")
    with pytest.raises(PresetError, match=r"data\.type: the teacher takes prompts, and this data has the other kind"):
        distill(preset, out=tmp_path / "run", device="cpu")
    (tmp_path / "p.txt").write_text("a cat\n")
    classes = load_preset("digits-1nfe", [f"data={{type='prompts', path='{tmp_path / 'p.txt'}'}}", "training.steps=1"])
    with pytest.raises(PresetError, match=r"data\.type: the teacher takes class labels, .* noise, images or latents"):
        distill(classes, out=tmp_path / "run2", device="cpu")
    with pytest.raises(PresetError, match=r"training\.mixed_precision"):
        tiny("flux", tmp_path, "training.teacher_dtype='bfloat16'")
    with pytest.raises(PresetError, match="both auto or both named"):
        tiny("flux", tmp_path, "training.teacher_dtype='auto'")
    assert tiny("flux", tmp_path, "training.teacher_dtype='auto'", "training.mixed_precision='auto'")


def test_what_is_wrong_is_said_before_anything_is_spent(tmp_path: Path) -> None:
    missing = tiny("flux", tmp_path, f"data.path='{tmp_path / 'none.txt'}'")
    with pytest.raises(DataError, match=r"none\.txt"):
        distill(missing, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    odd = tiny("flux", tmp_path, f"data.cache='{tmp_path / 'cache'}'", "teacher.width=50")
    with pytest.raises(
        PresetError, match=r"teacher\.width, teacher\.height 50x64: width 50 is not a positive multiple of"
    ):
        distill(odd, out=tmp_path / "run", device="cpu")
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    assert distill(tiny("flux", tmp_path, steps=2), out=tmp_path / "run", device="cpu").step == 2  # nothing was lost


def test_run_is_converted_proved_and_reloaded(tmp_path: Path) -> None:
    preset = tiny("qwen", tmp_path, steps=2)
    distill(preset, out=tmp_path / "run", device="cpu")

    def drawn(folder: Path) -> torch.Tensor:
        return sample(["a red cat"], model=open_student(str(folder), device="cpu", dtype="float32")).latents

    before = drawn(tmp_path / "run")
    for name, target in (("lakonlab", "released"), ("comfyui", "adapter.safetensors"), ("merged", "merged")):
        result = convert(tmp_path / "run", tmp_path / target, to=name, verify=True)
        assert result.proof == "outputs"
        assert result.max_difference < (1e-4 if name == "merged" else 1e-9)
        torch.testing.assert_close(drawn(tmp_path / target), before, rtol=1e-4, atol=1e-4)
