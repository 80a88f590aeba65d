"""A base is looked at part by part before any of it is loaded: what is missing is named, variants are found."""

import inspect
import json
import shutil
import sys
from pathlib import Path

import diffusers
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_flux, tiny_qwen

from piflow_cli.errors import ModelError
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.loading.base import find_base

FAMILIES = {"flux": tiny_flux, "qwen": tiny_qwen}
PARTS = [(name, part) for name, make in FAMILIES.items() for part in make().parts]


def copy_of(family: str, place: Path) -> TextFamily:
    """The settings of a base of its own, which a test may damage."""
    settings = FAMILIES[family]()
    shutil.copytree(settings.source, place)
    return FAMILIES[family](source=str(place))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_are_what_the_pipeline_takes(family: str) -> None:
    pipeline = getattr(diffusers, FAMILIES[family]().pipeline_classes[0])
    needed = set(inspect.signature(pipeline.__init__).parameters) - {"self", *pipeline._optional_components}
    assert set(FAMILIES[family]().parts) == needed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_base_is_found_without_a_word(family: str) -> None:
    settings = FAMILIES[family]()
    found = find_base(settings, settings.parts)
    assert (str(found.folder), found.variant, found.warnings) == (settings.source, None, ())


@pytest.mark.parametrize(("family", "part"), PARTS)
def test_a_part_that_is_not_there_is_named(family: str, part: str, tmp_path: Path) -> None:
    settings = copy_of(family, tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / part)
    with pytest.raises(
        ModelError, match=rf"no whole \w+Pipeline: there is no {part}\." if part != "transformer" else part
    ):
        settings.load()
    if not part.startswith("tokenizer") and not part.startswith("text_encoder"):
        with pytest.raises(ModelError, match=part):
            settings.check_source()
        return
    settings.check_source()  # their embeddings may be cached
    with pytest.raises(ModelError, match=f"there is no {part}"):
        settings.load_space()
    settings.load_space(encoders=False)


@pytest.mark.parametrize(("family", "part"), [pair for pair in PARTS if pair[1].startswith("tokenizer")])
def test_a_tokenizer_without_a_vocabulary_is_refused(family: str, part: str, tmp_path: Path) -> None:
    settings = copy_of(family, tmp_path / "base")
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model"):
        (tmp_path / "base" / part / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=rf"{part} has no vocabulary \(tokenizer\.json or vocab\.json \+ merges\.txt"):
        settings.load()


def test_a_tokenizer_whose_vocabulary_is_empty_is_refused(tmp_path: Path) -> None:
    settings = copy_of("flux", tmp_path / "base")
    path = tmp_path / "base" / "tokenizer_2" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = content["model"]["vocab"][:4]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"tokenizer .*\(tokenizer_2\) has a vocabulary of \d words"):
        settings.load_space()


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    settings = copy_of("flux", tmp_path / "base")
    (tmp_path / "base" / "scheduler" / "scheduler_config.json").rename(tmp_path / "base" / "scheduler" / "other.json")
    (tmp_path / "base" / "vae" / "config.json").unlink()
    (tmp_path / "base" / "text_encoder" / "model.safetensors").unlink()
    weights = tmp_path / "base" / "text_encoder_2" / "model.safetensors"
    weights.rename(weights.with_name("model-00001-of-00002.safetensors"))
    with pytest.raises(ModelError) as caught:
        settings.load()
    for problem in (
        "scheduler has no scheduler_config.json",
        "vae has no config.json",
        "text_encoder has no weights",
        "text_encoder_2 has no model-00002-of-00002.safetensors",
    ):
        assert problem in str(caught.value)


def test_an_index_that_names_no_part_or_another_library_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = copy_of("flux", tmp_path / "base")
    path = tmp_path / "base" / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in index.items() if key != "tokenizer_2"}))
    with pytest.raises(ModelError, match=r"model_index\.json names no tokenizer_2"):
        settings.load()
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path.write_text(json.dumps(index | {"vae": ["trap", "AutoencoderKL"]}))
    for ask in (settings.load, settings.check_source, settings.describe):
        with pytest.raises(ModelError, match="only classes of diffusers and transformers"):
            ask()
    assert "trap" not in sys.modules
    path.write_text(json.dumps(index | {"vae": ["diffusers", "FluxPipeline"]}))
    with pytest.raises(ModelError, match="vae is diffusers's FluxPipeline, which is no model"):
        settings.load()
    path.write_text(json.dumps(index | {"image_encoder": ["trap", "Model"]}))
    settings.load()  # nobody needs it, nobody looks it up
    assert "trap" not in sys.modules


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_of_fp16_files_is_found_and_said(family: str, tmp_path: Path) -> None:
    settings = copy_of(family, tmp_path / "base")
    plain = settings.load()
    for path in list((tmp_path / "base").rglob("*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    teacher = settings.load()
    assert len(teacher.space.warnings) == 1
    assert "variant fp16 only" in teacher.space.warnings[0]
    for (name, a), (_, b) in zip(plain.module.named_parameters(), teacher.module.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    known = settings.model_copy(update={"variant": "fp16"})
    assert known.load().space.warnings == ()
    with pytest.raises(ModelError, match="has no weights of variant bf16; it has fp16"):
        settings.model_copy(update={"variant": "bf16"}).load()


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2"])
def test_weights_of_a_base_that_are_not_finite_are_named(part: str, tmp_path: Path) -> None:
    settings = copy_of("flux", tmp_path / "base")
    path = next((tmp_path / "base" / part).glob("*.safetensors"))
    weights = load_file(path)
    name = max(weights, key=lambda key: weights[key].numel())
    weights[name].view(-1)[5] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"\({part}\) are not finite .* in \S*{name.split('.')[-2]}"):
        settings.load()


def test_a_config_of_a_million_layers_builds_nothing(tmp_path: Path) -> None:
    settings = copy_of("flux", tmp_path / "base")
    for part, key, value in (
        ("transformer", "num_layers", 10**6),
        ("transformer", "num_layers", 1000),
        ("text_encoder", "num_hidden_layers", 10**6),
    ):
        path = tmp_path / "base" / part / "config.json"
        text = path.read_text()
        path.write_text(json.dumps(json.loads(text) | {key: value}))
        with pytest.raises(ModelError, match=f"{key} = {value}"):
            settings.load()
        path.write_text(text)


def test_a_hub_id_is_fetched_by_parts_each_weight_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is played by a folder with more files than are needed, of which those asked for are copied."""
    hub, cache = tmp_path / "hub", tmp_path / "cache"
    copy_of("flux", hub)
    for name in ("vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.safetensors", "flux.safetensors"):
        (hub / name).write_bytes(b"never asked for")
    every = [path.relative_to(hub).as_posix() for path in hub.rglob("*") if path.is_file()]

    def snapshot_download(repository: str, *, revision: str, allow_patterns: list[str], **options: object) -> str:
        assert (repository, revision, options["local_files_only"]) == ("owner/base", "v2", False)
        for name in huggingface_hub.utils.filter_repo_objects(every, allow_patterns=allow_patterns):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / name, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name, **__: str(hub / name))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: every)
    settings = tiny_flux(source="owner/base", revision="v2")
    settings.load_space(encoders=False)
    fetched = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert fetched == {"model_index.json", "scheduler/scheduler_config.json", "vae/config.json"} | {
        "vae/diffusion_pytorch_model.safetensors"
    }
    teacher = settings.load()
    expected = tiny_flux().load()
    for (name, a), (_, b) in zip(teacher.module.named_parameters(), expected.module.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not list(cache.rglob("*.bin"))
    assert not list(cache.rglob("*fp16*"))
    every.remove("tokenizer_2/tokenizer.json")
    with pytest.raises(ModelError, match="tokenizer_2 has no vocabulary"):
        settings.load()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("own", [False, True])
def test_tensors_of_a_folder_that_nobody_would_use_are_refused(family: str, own: bool, tmp_path: Path) -> None:
    settings = copy_of(family, tmp_path / "base")
    if own:
        settings = FAMILIES[family](transformer=str(tmp_path / "base" / "transformer"))
    path = tmp_path / "base" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = "transformer_blocks.0.attn.to_q"
    save_file(weights | {f"{name}.weight_scale": torch.tensor(2.0)}, path)
    with pytest.raises(ModelError, match=rf"do not fit their config: unknown {name}\.weight_scale"):
        settings.load()
    save_file({key: t for key, t in weights.items() if key != f"{name}.bias"}, path)
    with pytest.raises(ModelError, match=rf"do not fit their config: missing {name}\.bias"):
        settings.load()
    save_file(weights | {f"{name}.weight": weights[f"{name}.weight"].to(torch.float8_e4m3fn)}, path)
    (warning,) = settings.load().space.warnings
    assert f"holds 1 weights in float8 without scales, such as {name}.weight" in warning


@pytest.mark.parametrize("inside", ["", "transformer/"])
def test_of_a_repository_with_another_transformer_that_alone_is_fetched(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, cache = tmp_path / "hub", tmp_path / "cache"
    shutil.copytree(Path(tiny_flux().source) / "transformer", hub / inside)
    for name in ("vae/diffusion_pytorch_model.safetensors", "other.safetensors"):
        (hub / name).parent.mkdir(exist_ok=True)
        (hub / name).write_bytes(b"never asked for")
    every = [path.relative_to(hub).as_posix() for path in hub.rglob("*") if path.is_file()]

    def snapshot_download(repository: str, *, allow_patterns: list[str], **_: object) -> str:
        assert repository == "owner/other"
        for name in huggingface_hub.utils.filter_repo_objects(every, allow_patterns=allow_patterns):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / name, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: every)
    teacher = tiny_flux(transformer="owner/other").load()
    assert torch.equal(teacher.module.x_embedder.weight, tiny_flux().load().module.x_embedder.weight)
    fetched = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert fetched == {f"{inside}config.json", f"{inside}diffusion_pytorch_model.safetensors"}
