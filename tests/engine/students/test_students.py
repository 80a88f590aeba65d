"""Finding, loading and saving students, and choosing the device."""

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import dx, gmflow, save_teacher, stored_student, tiny_vae

from piflow_cli import __version__
from piflow_cli.engine.students import find
from piflow_cli.engine.students.device import resolve_device, resolve_dtype, resolve_precision
from piflow_cli.engine.students.find import default_student, default_students, embedded_students, find_student
from piflow_cli.engine.students.load import load_student, read_student
from piflow_cli.engine.students.save import card_of, save_student
from piflow_cli.errors import DeviceError, ModelError, StorageError
from piflow_cli.io.checksums import MANIFEST
from piflow_cli.io.hub import locate
from piflow_cli.teachers.dit.family import DiT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_student(stored_student(gmflow()), tmp_path / "student")
    return tmp_path / "student"


def test_saved_student_loads_ready_to_sample(folder: Path) -> None:
    student = load_student(str(folder))
    assert student.name == str(folder)
    assert student.card.preset == "tiny"
    assert not student.network.training
    assert not any(p.requires_grad for p in student.network.parameters())
    assert student.space.encode_prompts(["three"]).tolist() == [3]
    blocks = student.network.module.transformer_blocks
    assert blocks[0].norm1.emb is blocks[1].norm1.emb
    assert not any(p.is_meta for p in student.network.parameters())


def test_network_can_be_half_precision_while_the_policy_is_not(folder: Path) -> None:
    exact, half = (load_student(str(folder), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert {p.dtype for p in half.network.parameters()} == {torch.bfloat16}
    x, sigma, labels = torch.randn(2, 4, 8, 8), torch.ones(2), torch.tensor([0, 1])
    policies = [student.network.policy(x, sigma, labels) for student in (exact, half)]
    assert policies[1].offsets.dtype == torch.float32
    torch.testing.assert_close(policies[1].offsets, policies[0].offsets, rtol=0.1, atol=0.1)


def test_run_folder_gives_its_student(folder: Path) -> None:
    assert find_student(str(folder.parent)) == folder
    assert load_student(str(folder.parent)).card.steps == 7


@pytest.mark.parametrize("source", [".", "../student", ".."])
def test_places_can_be_relative(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(folder)
    assert load_student(source).card.steps == 7


def test_saving_replaces_the_old_student_whole(folder: Path) -> None:
    (folder / "stray").write_text("")
    save_student(stored_student(dx()), folder)
    assert load_student(str(folder)).card.policy == dx()
    assert not (folder / "stray").exists()


def test_autoencoder_is_saved_once_and_found_again(tmp_path: Path) -> None:
    save_student(stored_student(gmflow()), tmp_path / "one", vae=tiny_vae())
    one = load_student(str(tmp_path / "one"))
    latents = torch.randn(1, 4, 8, 8)
    pictures = one.space.decode(latents)
    assert pictures.shape == (1, 3, 16, 16)
    stored, _ = read_student(tmp_path / "one")
    save_student(stored, tmp_path / "two", vae=tiny_vae(latent_channels=2))  # the folder's own counts
    assert torch.equal(load_student(str(tmp_path / "two")).space.decode(latents), pictures)


def test_failed_save_leaves_nothing(tmp_path: Path) -> None:
    stored = stored_student(gmflow())
    stored.vae_folder = tmp_path / "missing"
    with pytest.raises(StorageError):
        save_student(stored, tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


def test_card_is_made_of_recipe_and_teacher(tmp_path: Path) -> None:
    teacher = DiT(source=str(save_teacher(tmp_path / "teacher"))).load()
    student = stored_student(gmflow())

    class Recipe:
        name = "mine"
        teacher, policy, sampling = student.card.teacher, student.card.policy, student.card.sampling
        adapter = None

    card = card_of(Recipe(), teacher, steps=3)
    assert (card.preset, card.steps, card.piflow_version) == ("mine", 3, __version__)
    assert card.network == teacher.network


def test_embedded_students_load() -> None:
    for name in embedded_students():
        student = load_student(name)
        assert student.space.latent_shape == ((1, 8, 8) if name.startswith("digits") else (16, 8, 8))


@pytest.mark.parametrize("source", ["digits-3nfe", "no such student"])
def test_missing_student_says_what_can_be_passed(source: str) -> None:
    with pytest.raises(ModelError, match=r"unknown student .* Or pass a student folder or hub id"):
        load_student(source)


@pytest.mark.parametrize("source", ["runs/mine", "./mine", "../mine", "/no/mine", "~/no/mine", "models/mine"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match=f"there is no student at {source}.*embedded student: digits-1nfe"):
        load_student(source)
    with pytest.raises(ModelError, match="does not exist here"):
        locate(source)


def test_a_run_that_does_not_exist_names_those_that_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("flux-4nfe", "flux-8nfe"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    with pytest.raises(ModelError, match=r"no student at runs/flux-3nfe\. In runs there is flux-4nfe, flux-8nfe\."):
        load_student("runs/flux-3nfe")


def test_hub_id_without_network_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hf download nobody/no-such-student --local-dir FOLDER"):
        load_student("nobody/no-such-student")


def test_run_without_a_student_says_so(tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text("{}")
    with pytest.raises(ModelError, match="is a run that has no student yet"):
        load_student(str(tmp_path))


def test_folder_that_is_no_student_names_the_formats(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no student in any known format"):
        load_student("/")
    with pytest.raises(ModelError, match=r"no student in any known format \(native, lakonlab, comfyui, merged\)"):
        load_student(str(tmp_path))
    teacher = save_teacher(tmp_path / "teacher")
    with pytest.raises(ModelError, match="no student in any known format"):
        load_student(str(teacher))


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    file = folder / "student.safetensors"
    weights = load_file(file)
    weights["proj_out_2.means.weight"] = torch.zeros(3, 3)
    del weights["proj_out_2.means.bias"]
    save_file(weights, file)
    (folder / MANIFEST).unlink()
    with pytest.raises(ModelError) as error:
        load_student(str(folder))
    assert "missing proj_out_2.means.bias" in str(error.value)
    assert "proj_out_2.means.weight is [3, 3], needs [48, 16]" in str(error.value)


def test_card_of_another_network_is_refused(folder: Path) -> None:
    card = json.loads((folder / "student.json").read_text())
    card["network"] = {"something": "else"}
    (folder / "student.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"student\.json says nothing of config; it is no DiT student"):
        load_student(str(folder))


def test_auto_takes_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "finds no CUDA device; use --device auto"),
        ("cuda:1", "finds no CUDA device"),
        ("mps", "this machine has none"),
        ("gpu", "unknown device 'gpu'; use auto, cpu, cuda, cuda:N or mps"),
        ("", "unknown device ''"),
        ("meta", "unknown device 'meta'"),
        ("xpu", "unknown device 'xpu'"),
        ("cpu:3", "unknown device 'cpu:3'"),
        ("cuda:-1", "unknown device 'cuda:-1'"),
    ],
)
def test_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=message):
        resolve_device(device)


def test_cuda_index_beyond_the_devices_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="has 2 CUDA devices, counted from cuda:0"):
        resolve_device("cuda:2")


def test_auto_precision_of_student_and_teacher_agree() -> None:
    device = torch.device("cpu")
    both = {(torch.bfloat16, "bf16"), (torch.float32, "no")}
    assert (resolve_dtype("auto", device), resolve_precision("auto", device)) in both
    assert [resolve_precision(name, device) for name in ("no", "bf16", "fp16")] == ["no", "bf16", "fp16"]


def test_default_students_are_of_one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = {"digits-1nfe": Path("zoo/digits/students/digits-1nfe"), "digits-2nfe": Path("zoo/digits/students/b")}
    emoji = {"emoji-4nfe": Path("zoo/emoji/students/emoji-4nfe")}
    for found, expected in ((digits, list(digits)), (digits | emoji, list(emoji))):
        monkeypatch.setattr(find, "embedded_students", lambda found=found: found)
        assert default_students() == expected
    monkeypatch.setattr(find, "embedded_students", dict)
    with pytest.raises(ModelError, match="pass --model"):
        default_students()


@pytest.mark.parametrize(("nfe", "expected"), [(None, "s4"), (1, "s1"), (2, "s2"), (3, "s4"), (4, "s4"), (50, "s4")])
def test_default_student_is_the_one_trained_for_the_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nfe: int | None, expected: str
) -> None:
    found = {}
    for name, trained in (("s1", 1), ("s2", 2), ("s4", 4), ("s4-other", 4)):
        stored = stored_student(gmflow())
        sampling = stored.card.sampling.model_copy(update={"nfe": trained})
        stored = replace(stored, card=stored.card.model_copy(update={"sampling": sampling}))
        found[name] = tmp_path / "emoji" / "students" / name
        save_student(stored, found[name])
    monkeypatch.setattr(find, "embedded_students", lambda: found)
    assert default_student(nfe) == expected
