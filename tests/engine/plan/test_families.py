"""What planning asks of families: none is named, a local folder is believed, and no stranger's class runs."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from quantized_on_cpu import QUANTIZATIONS, bitsandbytes_on_cpu  # noqa: F401
from tiny_bases import tiny_wan
from tiny_models import TEACHERS, save_teacher, tiny_flux

from piflow_cli import registry
from piflow_cli.core.interfaces import Conditioning
from piflow_cli.engine.plan.plan import plan
from piflow_cli.engine.students.stored import stored_bytes
from piflow_cli.errors import ModelError
from piflow_cli.io.tensors.exact import stays_float32
from piflow_cli.preset import load_preset

ROOM = Path(__file__).parents[3] / "piflow_cli" / "engine" / "plan"


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_planning_names_no_family_and_asks_no_attribute_by_name(path: Path) -> None:
    families = {name for kind in ("teacher", "policy") for name in registry.names(kind)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant):
            assert node.value not in families, f"line {node.lineno}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("type", "architecture"), f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("getattr", "hasattr"), f"line {node.lineno}"


@pytest.mark.parametrize("family", TEACHERS)
def test_a_family_says_what_its_loaded_teacher_has(family: str, tmp_path: Path) -> None:
    settings = TEACHERS[family](tmp_path / "teacher")
    teacher, (module, _) = settings.load(), settings.describe()
    takes, size = settings.conditioning(module), settings.latent_size(module, None)
    assert teacher.space.latent_shape[1:] == size
    assert (teacher.space.max_tokens or 0) <= takes.text_tokens  # of several encoders in a row one is cut
    assert teacher.space.embedded_guidance == takes.embeds_guidance
    condition = teacher.space.preview_conditions(2)
    dummy = settings.dummy_condition(module, 2)
    if takes == Conditioning():
        assert dummy.shape == condition.shape
        return
    assert dummy.embeds.shape == (2, takes.text_tokens, condition.embeds.shape[2])
    assert condition.embeds.shape[1] == takes.text_tokens or not takes.padded
    assert (dummy.pooled is None, dummy.guidance is None) == (condition.pooled is None, condition.guidance is None)
    if dummy.pooled is not None:
        assert dummy.pooled.shape == condition.pooled.shape


@pytest.mark.parametrize("family", TEACHERS)
def test_a_base_takes_the_bytes_that_are_planned(family: str, tmp_path: Path) -> None:
    """In bfloat16, with what its class keeps in float32."""
    settings = TEACHERS[family](tmp_path / "teacher")
    loaded = settings.load(dtype=torch.bfloat16).module
    assert settings.frozen_bytes(settings.describe()[0], 2) == sum(p.nbytes for p in loaded.parameters())


@pytest.mark.usefixtures("bitsandbytes_on_cpu")
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_what_stays_float32_is_not_counted_as_quantised(quantization: str, tmp_path: Path) -> None:
    settings = tiny_wan(tmp_path / "teacher", quantization=quantization)
    loaded = settings.load(dtype=torch.bfloat16).module
    kept = {name: p.dtype for name, p in loaded.named_parameters() if stays_float32(loaded, name)}
    assert set(kept.values()) == {torch.float32}
    zeros = sum(p.zero_point.nbytes for p in loaded.parameters() if hasattr(p, "zero_point"))
    planned = settings.frozen_bytes(settings.describe()[0], 2)
    assert stored_bytes(loaded) - zeros == planned


def test_a_local_folder_is_believed_before_the_architecture_that_is_named(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher")
    named = load_preset("dit-1nfe", [f"teacher.source={folder}", "teacher.architecture=DiT-XL/2"])
    assert named.teacher.architecture == "DiT-XL/2"
    weights = named.teacher.load().module.parameters()
    assert plan(named, gpus=(1,)).facts.frozen == sum(p.numel() for p in weights) < 50_000
    flux = load_preset("flux-4nfe", [f"teacher.source={tiny_flux().source}", "teacher.width=48", "teacher.height=64"])
    assert flux.teacher.architecture == "FLUX.1-dev"
    assert plan(flux, gpus=(1,)).facts.frozen == sum(p.numel() for p in tiny_flux().load().module.parameters())
    assert plan(flux, gpus=(1,)).published == ()


def test_a_zoo_teacher_is_read_though_an_architecture_is_named() -> None:
    preset = load_preset("emoji-4nfe", ["teacher.architecture=FLUX.1-dev"])
    assert plan(preset, gpus=(1,)).facts == plan(load_preset("emoji-4nfe"), gpus=(1,)).facts


@pytest.mark.parametrize(
    "entry",
    [["os", "system"], ["mine", "Model"], ["diffusers", "load_image"], ["torch.nn", "Linear"], "x"],
)
def test_only_models_of_the_two_libraries_are_resolved(
    entry: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(tiny_flux().source, tmp_path / "pipeline")
    index = json.loads((tmp_path / "pipeline" / "model_index.json").read_text())
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps(index | {"vae": entry}))
    preset = load_preset("flux-4nfe", [f"teacher.source={tmp_path / 'pipeline'}"])
    with pytest.raises(ModelError, match=r"model_index\.json says that vae is"):
        plan(preset, gpus=(1,))
    assert not (tmp_path / "ran").exists()
