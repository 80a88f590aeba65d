"""Opening a DiT from every place it can be in, and refusing weights that are damaged, unsafe or something else."""

import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    CONFIG,
    released_weights,
    save_released,
    save_stock_teacher,
    save_teacher,
    tiny_module,
)
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.teachers.dit.config import FREQ_SHIFT, to_diffusers, to_released
from piflow_cli.teachers.dit.family import DiT

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
RELEASED = {"prediction": "flow", "timestep_scale": 1000.0, "sample_size": 8, "num_attention_heads": 2}
"""What the settings must say of a weight file without a config."""


def velocity(source: object, **settings: object) -> Tensor:
    teacher = DiT(source=str(source), **settings).load()
    x = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    return teacher.velocity(x, torch.tensor([0.3, 0.8]), torch.tensor([1, 9]))


def test_the_embedded_teacher_loads() -> None:
    teacher = DiT(source="zoo:digits").load()
    assert teacher.space.latent_shape == (1, 8, 8)
    assert teacher.space.num_classes == 10
    assert teacher.backbone.timestep_scale == 1000


def test_diffusers_folder_and_its_transformer_alone_are_the_same(folder: Path) -> None:
    whole = velocity(folder)
    alone = velocity(folder / "transformer", prediction="flow", timestep_scale=1000.0)
    assert torch.equal(whole, alone)
    labels = DiT(source=str(folder)).load().space.labels
    assert labels[9] == "nine"
    assert DiT(source=str(folder / "transformer"), **RELEASED).load().space.labels[9] == "9"


def test_sharded_weights_load(folder: Path, tmp_path: Path) -> None:
    whole = velocity(folder)
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    half = len(weights) // 2
    for part, names in enumerate((list(weights)[:half], list(weights)[half:]), start=1):
        file = folder / "transformer" / f"diffusion_pytorch_model-0000{part}-of-00002.safetensors"
        save_file({name: weights[name] for name in names}, file)
    assert torch.equal(velocity(folder), whole)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("config_beside", [True, False])
def test_released_file_loads_with_and_without_a_config(tmp_path: Path, suffix: str, config_beside: bool) -> None:
    module = tiny_module(**{FREQ_SHIFT: 0})
    file = save_released(tmp_path / "released" / f"teacher{suffix}", released_weights(module))
    settings = RELEASED
    if config_beside:
        config = CONFIG | {"_class_name": "DiTTransformer2DModelMod"}
        (file.parent / "config.json").write_text(json.dumps(config))
        settings = {key: RELEASED[key] for key in ("prediction", "timestep_scale")}
    x = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        times, labels = 1000 * torch.tensor([0.3, 0.8]), torch.tensor([1, 9])
        expected = module(x, timestep=times, class_labels=labels, return_dict=False)[0]
    assert torch.equal(velocity(file, **settings), expected)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "ema"])
def test_wrapped_state_dict_loads(tmp_path: Path, wrapper: str) -> None:
    weights = released_weights(tiny_module())
    plain = save_released(tmp_path / "plain.pth", weights)
    torch.save({wrapper: weights, "step": 3}, tmp_path / "wrapped.pth")
    assert torch.equal(velocity(tmp_path / "wrapped.pth", **RELEASED), velocity(plain, **RELEASED))


def test_released_names_there_and_back() -> None:
    weights = released_weights(tiny_module())
    assert not any("norm1.emb" in name for name in weights)
    assert {name.split(".")[0] for name in weights} >= {"emb", "proj_out_2", "pos_embed"}
    assert to_released(to_diffusers(weights)).keys() == weights.keys()


def test_frequencies_of_time_follow_the_source(tmp_path: Path) -> None:
    weights = released_weights(tiny_module())
    file = save_released(tmp_path / "released.safetensors", weights)
    released = DiT(source=str(file), **RELEASED).load()
    diffusers = DiT(source=str(save_teacher(tmp_path / "teacher"))).load()
    shifts = [
        teacher.module.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift
        for teacher in (released, diffusers)
    ]
    assert shifts == [0, 1]


def test_published_diffusion_checkpoints_go_by_an_older_class_name(folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "Transformer2DModel"}))
    assert DiT(source=str(folder)).load().network["config"]["_class_name"] == "DiTTransformer2DModel"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"norm_type": "ada_norm_single"}))
    with pytest.raises(ModelError, match="teacher of another family"):
        DiT(source=str(folder)).load()


def test_checking_a_source_reads_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")
    settings = DiT(source=str(folder))
    settings.check_source()
    module, backbone = settings.describe()
    assert all(p.is_meta for p in module.parameters())
    assert backbone.timestep_scale == 1000


def test_missing_weights_are_said(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="has no weights"):
        velocity(folder)


@pytest.mark.parametrize("keep", [0, 7, 500, 5000])
def test_truncated_safetensors_is_refused(folder: Path, keep: int) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:keep])
    with pytest.raises(ModelError, match="truncated, damaged"):
        velocity(folder)


def test_truncated_pickle_is_refused(tmp_path: Path) -> None:
    file = save_released(tmp_path / "teacher.pth", released_weights(tiny_module()))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ModelError, match="truncated, damaged"):
        velocity(file, **RELEASED)


class _Touch:
    """A pickle that would create a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_pickle_is_never_executed(tmp_path: Path, protocol: str) -> None:
    marker, file = tmp_path / "executed", tmp_path / "teacher.pth"
    content = {"weight": torch.zeros(1), "payload": _Touch(marker)}
    if protocol == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match="never executed"):
        velocity(file, **RELEASED)
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Touch(marker))).close()
    assert marker.exists()  # the pickle was a live one


def test_wrong_shapes_are_named(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["proj_out_2.weight"] = torch.zeros(12, 16)
    del weights["proj_out_1.bias"]
    weights["extra"] = torch.zeros(1)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ModelError) as error:
        velocity(folder)
    for part in ("missing proj_out_1.bias", "unknown extra", "proj_out_2.weight is [12, 16], needs [16, 16]"):
        assert part in str(error.value)


def test_blocks_keep_embeddings_of_their_own(tmp_path: Path) -> None:
    """A network of diffusers' own class, as it is built and trained there: every block has its embedding."""
    folder, stock = save_stock_teacher(tmp_path / "stock")
    settings = DiT(source=str(folder))
    teacher = settings.load()
    x = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    times, labels = torch.tensor([0.3, 0.8]), torch.tensor([1, 9])
    with torch.no_grad():
        expected = stock(x, timestep=1000 * times, class_labels=labels, return_dict=False)[0]
    assert torch.equal(teacher.velocity(x, times, labels), expected)
    count = sum(parameter.numel() for parameter in stock.parameters())
    for module in (teacher.module, settings.describe()[0], settings.outline()[0].module):
        assert sum(parameter.numel() for parameter in module.parameters()) == count
    rebuilt, backbone, _ = settings.rebuild(teacher.network, folder=None)
    rebuilt.load_state_dict(dict(teacher.module.named_parameters()), strict=False, assign=True)
    assert torch.equal(backbone.predict(rebuilt.eval(), x, times, labels), expected)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "step": 3}, tmp_path / "teacher.pth")
    with pytest.raises(ModelError, match="no flat dictionary of tensors"):
        velocity(tmp_path / "teacher.pth", **RELEASED)


def test_a_weight_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = save_released(tmp_path / "other.safetensors", {"conv.weight": torch.zeros(3)})
    with pytest.raises(ModelError, match="is no DiT: it has no pos_embed"):
        velocity(file, **RELEASED)


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path: Path) -> None:
    file = save_released(tmp_path / "teacher.safetensors", released_weights(tiny_module()))
    with pytest.raises(ModelError, match=r"width 16 is not divisible by teacher\.num_attention_heads 3"):
        velocity(file, **RELEASED | {"num_attention_heads": 3})


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_hub_id_is_downloaded_by_parts_and_is_then_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The hub is played by a folder, from which only the files asked for are copied."""
    expected = velocity(folder)
    if suffix == ".bin":
        torch.save(load_file(folder / WEIGHTS), (folder / WEIGHTS).with_suffix(".bin"))
        (folder / WEIGHTS).unlink()
    asked: list[tuple[str, str]] = []

    def snapshot_download(
        source: str, *, revision: str, allow_patterns: list[str], local_files_only: bool, **_access: object
    ) -> str:
        assert not local_files_only
        asked.append((source, revision))
        for name in huggingface_hub.utils.filter_repo_objects(
            [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()],
            allow_patterns=allow_patterns,
        ):
            (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, tmp_path / "cache" / name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    settings = DiT(source="owner/teacher", revision="v2")
    settings.check_source()
    assert not list((tmp_path / "cache").rglob(f"*{suffix}"))
    assert torch.equal(velocity("owner/teacher", revision="v2"), expected)
    assert set(asked) == {("owner/teacher", "v2")}
