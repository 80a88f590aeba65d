"""Sources that are no DiT: said before weights are read, with what can be passed."""

import json
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils
import pytest
from tiny_models import save_teacher, tiny_vae

from piflow_cli.errors import ModelError
from piflow_cli.teachers.dit.family import DiT


def test_a_folder_of_another_family_is_refused(folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(ModelError, match=r"holds a FluxTransformer2DModel, not a DiTTransformer2DModel"):
        DiT(source=str(folder)).check_source()


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read as JSON"), ("[1]", "holds list, not a JSON object")]
)
def test_a_damaged_config_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "transformer" / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        DiT(source=str(folder)).check_source()


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json; is it a model folder"):
        DiT(source=str(tmp_path)).check_source()


@pytest.mark.parametrize("source", ["nowhere", "./missing/folder", "missing/teacher.pth", "owner/name/part"])
def test_a_missing_source_says_what_can_be_passed(source: str) -> None:
    with pytest.raises(ModelError, match="Pass a diffusers folder"):
        DiT(source=source).check_source()


def test_an_unknown_embedded_teacher_names_the_known_ones() -> None:
    with pytest.raises(ModelError, match="Embedded: zoo:digits"):
        DiT(source="zoo:letters").check_source()


def test_a_hub_id_without_network_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"hf download nobody/no-such-teacher --local-dir FOLDER"):
        DiT(source="nobody/no-such-teacher").check_source()
    with pytest.raises(ModelError, match=r"hf download nobody/no-such-vae"):
        DiT(source=str(save_teacher(tmp_path / "t")), vae="nobody/no-such-vae").load()


def test_a_damaged_autoencoder_is_refused(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", vae=True)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="holds no autoencoder that can be read"):
        DiT(source=str(folder)).load()
    tiny_vae().save_pretrained(tmp_path / "vae")
    config = tmp_path / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "AutoencoderDC"}))
    with pytest.raises(ModelError, match="holds AutoencoderDC, not AutoencoderKL"):
        DiT(source=str(save_teacher(tmp_path / "other")), vae=str(tmp_path / "vae")).load()
