"""What was encoded belongs to the weights that encoded it: other ones of the same config are refused."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_models import PARITY

from piflow_cli.engine.distill.embeddings import cache_embeddings, is_cached, open_with_cache
from piflow_cli.errors import DataError
from piflow_cli.preset import Preset, load_preset


def copied(folder: Path) -> Path:
    """A FLUX pipeline of random weights."""
    return Path(shutil.copytree(PARITY / "e2e_flux" / "pipeline", folder / "base"))


def scale(file: Path, factor: float) -> None:
    """Another training of the same network, as far as a config can say."""
    save_file({name: factor * tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def recipe(base: Path, folder: Path) -> Preset:
    (folder / "prompts.txt").write_text("a red cat\nblue dog on the house\n")
    teacher = [f"teacher.source={base}", "teacher.width=48", "teacher.height=64", "teacher.max_sequence_length=12"]
    data = [f"data={{type='prompts', path='{folder / 'prompts.txt'}', cache='{folder / 'cache'}'}}"]
    return load_preset("flux-4nfe", [*teacher, *data, "training.teacher_dtype=float32"])


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_a_scaled_text_encoder_does_not_take_over_its_cache(tmp_path: Path, part: str) -> None:
    base = copied(tmp_path)
    preset = recipe(base, tmp_path)
    assert cache_embeddings(preset, device="cpu").built == 1
    assert is_cached(preset)
    scale(base / part / "model.safetensors", 1.5)
    with pytest.raises(DataError, match=r"caches something else: text encoder flux-.* there, flux-.* wanted"):
        is_cached(preset)
    with pytest.raises(DataError, match="caches something else"):
        cache_embeddings(preset, device="cpu")


def test_a_cache_serves_where_the_encoders_weights_are_not(tmp_path: Path) -> None:
    base = copied(tmp_path)
    preset = recipe(base, tmp_path)
    cache_embeddings(preset, device="cpu")
    for part in ("text_encoder", "text_encoder_2"):
        (base / part / "model.safetensors").unlink()
    assert is_cached(preset)
    assert len(open_with_cache(preset, preset.teacher.load_space(encoders=False)).prompts) == 2


def test_fingerprints_change_with_weights_and_configs_alone(tmp_path: Path) -> None:
    base = copied(tmp_path)
    teacher = recipe(base, tmp_path).teacher
    before = (teacher.encoder_fingerprint(), teacher.autoencoder_fingerprint())
    scale(base / "transformer" / "diffusion_pytorch_model.safetensors", 2.0)
    assert (teacher.encoder_fingerprint(), teacher.autoencoder_fingerprint()) == before
    scale(base / "vae" / "diffusion_pytorch_model.safetensors", 2.0)
    assert teacher.encoder_fingerprint() == before[0]
    assert teacher.autoencoder_fingerprint() != before[1]
    longer = teacher.model_copy(update={"max_sequence_length": 9})
    assert longer.encoder_fingerprint().split("-")[1] != before[0].split("-")[1]
