"""Validation by prompts about pictures: what it shows, the same after a stop, and nothing that fails late."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from cli_runner import run
from PIL import Image, ImageChops
from runs import assert_same, stop_at
from safetensors.torch import load_file
from tiny_edits import KINDS, recipe, rows, settings
from tiny_models import tiny_flux

from piflow_cli.data.embeddings.cache import read_index
from piflow_cli.data.files.references import illustrated
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.embeddings import cache_embeddings
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.distill.showing.scene import asked_scene
from piflow_cli.engine.plan.checks import check_at_once, validated_prompts
from piflow_cli.errors import DataError, PresetError
from piflow_cli.io.images import cover, read_picture
from piflow_cli.io.texts.toml_text import toml_value
from piflow_cli.preset import Preset

CELL, MARGIN, GAP, HEAD = (96, 128), 116, 4, 38
"""Pixels of a sheet: 48x64 twice as large, the names of rows, and the labels of columns."""


def asked(folder: Path, *prompts: tuple[str, str], every: int = 2) -> list[str]:
    """A validation by prompts, each about the pictures that are named."""
    tables = [
        {"prompt": text, "references": [str(folder / "edits" / name) for name in names.split()]}
        for text, names in prompts
    ]
    counts = ("validation.seeds=[5, 7]", "validation.teacher_steps=2")
    return [f"validation.every={every}", f"validation.prompts={toml_value(tables)}", *counts]


TWO = (("make it red", "cat.png"), ("the cat with this hat", "hat.png cat.png"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def scores(run: Path) -> list[tuple[int, float]]:
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["validation/paired_error_4nfe"]) for row in found if "loss" not in row]


def cell(run: Path, *, row: int, column: int, step: int = 2, of: str = "validation") -> Image.Image:
    """A picture of the sheet, at the size of what was drawn."""
    sheet = Image.open(run / of / f"step-{step:07d}.png").convert("RGB")
    left, top = MARGIN + column * (CELL[0] + GAP), HEAD + row * (CELL[1] + GAP)
    return sheet.crop((left, top, left + CELL[0], top + CELL[1])).resize((48, 64), Image.Resampling.NEAREST)


def apart(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of two pictures, of 255."""
    return max(high for _, high in ImageChops.difference(a, b.convert("RGB")).getextrema())


def test_pictures_are_shown_and_a_stopped_run_finds_the_same(tmp_path: Path, kind: str) -> None:
    preset = recipe(kind, tmp_path, *asked(tmp_path, *TWO, every=1), "training.steps=2")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    distill(preset, out=whole, device="cpu")
    distill(preset, out=parts, device="cpu", on_event=stop_at(1))
    distill(preset, out=parts, device="cpu")
    assert [step for step, _ in scores(whole)] == [1, 2]
    assert scores(parts) == scores(whole)
    for name in ("validation/step-0000001.png", "validation/step-0000002.png", "best/validation.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    for name in ("student", "best"):
        assert_same(*(load_file(run / name / "student.safetensors") for run in (whole, parts)))
    assert not (parts / "history.jsonl").exists()

    for column, name in enumerate(("cat.png", "cat.png", "hat.png", "hat.png")):
        shown = cover(read_picture(tmp_path / "edits" / name), size_px=(48, 64), channels=3)
        assert apart(cell(whole, row=0, column=column), shown) <= 1


def test_the_scene_is_about_its_pictures_in_their_order(tmp_path: Path, kind: str) -> None:
    preset = recipe(kind, tmp_path, *asked(tmp_path, *TWO))
    space = preset.teacher.load(device="cpu", dtype=torch.float32).space
    scene = asked_scene(preset, validated_prompts(preset), preset.data.open(space), space)
    assert (scene.labels, scene.seeds) == ((TWO[0][0],) * 2 + (TWO[1][0],) * 2, (5, 7, 5, 7))
    for row, (text, names) in zip((0, 2), TWO, strict=True):
        files = [tmp_path / "edits" / name for name in names.split()]
        alone = space.encode_prompts(illustrated([(text, files)])).rows()[0]
        for found in scene.condition.rows()[row : row + 2]:
            assert found.references.sizes == alone.references.sizes
            torch.testing.assert_close(found.references.tokens, alone.references.tokens)
            torch.testing.assert_close(found.embeds[:, : alone.embeds.shape[1]], alone.embeds)


def test_other_pictures_are_told_of_and_begin_with_a_best_of_their_own(tmp_path: Path) -> None:
    own, run = asked(tmp_path, ("make it red", "cat.png")), tmp_path / "run"
    distill(recipe("flux2", tmp_path, *own, "training.steps=2"), out=run, device="cpu")
    record = run / "best" / "validation.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"paired_error": 0.0}))  # nothing is better
    longer = recipe("flux2", tmp_path, *own, "training.steps=4")
    Image.new("RGB", (96, 64), "white").save(tmp_path / "edits" / "cat.png")
    events: list[DistillEvent] = []
    assert distill(longer, out=run, device="cpu", on_event=events.append).step == 4
    assert json.loads(record.read_text())["step"] == 4
    told = [event.message for event in events if event.kind == "warning"]
    assert any(message.startswith("changed since: validation.prompts 'pictures ") for message in told)
    (line,) = map(json.loads, (run / "history.jsonl").read_text().splitlines())
    assert [change.split()[0] for change in line["changes"]] == ["training.steps", "validation.prompts"]
    assert apart(cell(run, row=0, column=0, step=4), Image.new("RGB", (48, 64), "white")) == 0


def test_cached_prompts_about_pictures_need_no_text_encoder(tmp_path: Path, kind: str) -> None:
    cached = (f"data.cache='{tmp_path / 'cache'}'", "data.cache_storage='bf16'")
    direct = recipe(kind, tmp_path, *asked(tmp_path, *TWO), "training.steps=2")
    preset = recipe(kind, tmp_path, *asked(tmp_path, *TWO), "training.steps=2", *cached)
    cache_embeddings(preset, device="cpu")
    assert cache_embeddings(preset, device="cpu").kept == 1
    names = read_index(tmp_path / "cache").specials
    assert [name for name in names if " (about " in name] == list(names[-2:])
    distill(direct, out=tmp_path / "direct", device="cpu")
    for weights in (tmp_path / kind / "text_encoder").glob("*.safetensors"):
        weights.unlink()
    distill(preset, out=tmp_path / "cached", device="cpu")
    (wanted,), (found,) = scores(tmp_path / "direct"), scores(tmp_path / "cached")
    assert found == (2, pytest.approx(wanted[1], rel=0.05))  # bfloat16 embeddings


def test_a_cache_gets_further_prompts_about_pictures_and_keeps_those_that_it_has(tmp_path: Path) -> None:
    def cache(*prompts: tuple[str, str]) -> tuple[str, ...]:
        preset = recipe("qwen-edit", tmp_path, *asked(tmp_path, *prompts), f"data.cache='{tmp_path / 'cache'}'")
        assert cache_embeddings(preset, device="cpu").num_prompts == 3
        return read_index(tmp_path / "cache").specials

    first = cache(TWO[0])
    both = cache(TWO[1])
    assert both[: len(first)] == first
    assert len(both) == len(first) + 1
    assert cache(TWO[0]) == both
    assert len(cache(("make it red", "hat.png"))) == len(both) + 1  # the same words about another picture


def test_prompts_about_pictures_validate_a_run_on_prompts_alone(tmp_path: Path) -> None:
    """FLUX.2 takes both; a cache of prompts alone does not know the autoencoder, so that its pictures do."""
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "plain.txt").write_text("a red cat\nthe house\n")
    plain = f"data={{type='prompts', path='{tmp_path / 'edits' / 'plain.txt'}', cache='{tmp_path / 'cache'}'}}"
    mixed = [*asked(tmp_path, ("make it red", "cat.png"), ("a dog", "")), plain]
    preset = recipe("flux2", tmp_path, *mixed, "training.steps=2")
    assert preset.data.references is None
    distill(preset, out=tmp_path / "run", device="cpu")
    assert apart(cell(tmp_path / "run", row=0, column=2), Image.new("RGB", (48, 64), "white")) == 0
    before = read_index(tmp_path / "cache").specials
    weights = tmp_path / "flux2" / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    cache_embeddings(preset, device="cpu")
    assert len(read_index(tmp_path / "cache").specials) == len(before) + 1


@pytest.mark.parametrize("images", [False, True], ids=["data-free", "pictures"])
def test_sheets_of_the_rows_of_the_data_show_their_pictures(tmp_path: Path, images: bool) -> None:
    shown = ("training.preview_every=2", "training.preview_images=3", "validation.every=2", "training.steps=2")
    preset = recipe("flux2", tmp_path, *shown, "validation.teacher_steps=2", images=images)
    distill(preset, out=tmp_path / "run", device="cpu")
    for of in ("previews", "validation"):
        for column, name in enumerate(("cat.png", "hat.png", "hat.png")):
            picture = cover(read_picture(tmp_path / "edits" / name), size_px=(48, 64), channels=3)
            assert apart(cell(tmp_path / "run", row=0, column=column, of=of), picture) <= 1


def test_pictures_are_cut_as_those_of_the_data_are(tmp_path: Path) -> None:
    cut = recipe("flux2", tmp_path, *asked(tmp_path, TWO[1]), "data.reference_size='32x48'")
    assert [picture.size for picture in validated_prompts(cut).asked(0).pictures] == [(32, 48), (32, 48)]
    whole = recipe("flux2", tmp_path, *asked(tmp_path, TWO[1]))
    assert [picture.size for picture in validated_prompts(whole).asked(0).pictures] == [(64, 80), (96, 64)]


def refused(preset: Preset, tmp_path: Path, error: type[Exception], words: str) -> None:
    """A run is refused before anything is loaded or written."""
    with pytest.raises(error, match=words):
        distill(preset, out=tmp_path / "refused", device="cpu")
    assert not (tmp_path / "refused").exists()


def test_what_a_teacher_does_not_take_is_refused_at_once(tmp_path: Path) -> None:
    check_at_once(recipe("flux2", tmp_path, "validation.prompts=['a cat']"))
    bare = recipe("qwen-edit", tmp_path, "validation.prompts=['a cat']")
    refused(
        bare, tmp_path, PresetError, r"'a cat' names no reference picture, and .* makes nothing of a prompt without"
    )
    many = asked(tmp_path, ("them", " ".join(["cat.png"] * 9)))
    refused(recipe("qwen-edit", tmp_path, *many), tmp_path, PresetError, r"names 9 reference pictures; .* takes 1 to 8")
    edits = recipe("flux2", tmp_path, *asked(tmp_path, TWO[0]))
    other = {"teacher": tiny_flux(), "data": edits.data.model_copy(update={"references": None})}
    alone = r"validation\.prompts: 'make it red' names reference pictures, and .* pictures of prompts alone"
    refused(edits.model_copy(update=other), tmp_path, PresetError, alone)


def test_pictures_that_cannot_be_had_are_refused_at_once(tmp_path: Path) -> None:
    preset = recipe("qwen-edit", tmp_path, *asked(tmp_path, ("a dog", "dog.png")), f"data.cache='{tmp_path / 'cache'}'")
    absent = r"the reference picture .*dog\.png of the prompt 'a dog' is not there"
    refused(preset, tmp_path, DataError, absent)
    with pytest.raises(DataError, match=absent):
        cache_embeddings(preset, device="cpu")
    (rows(tmp_path) / "dog.png").write_bytes(b"no picture")
    refused(preset, tmp_path, DataError, r"dog\.png does not decode as a picture")
    check_at_once(recipe("qwen-edit", tmp_path, *asked(tmp_path, ("a dog", "none.png"), every=0)))


def test_the_line_to_try_names_as_many_pictures_as_a_prompt_needs(tmp_path: Path, kind: str) -> None:
    """And draws, with a picture in the place of what stands for it."""
    preset, table = settings(kind, tmp_path)
    changes = [part for setting in (*table, "training.preview_every=0") for part in ("--set", setting)]
    ended = run("distill", "--preset", preset, *changes, "--steps", 1, "--out", "run", "--device", "cpu", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    tried = next(line for line in ended.stdout.splitlines() if line.startswith("try it"))
    words = shlex.split(tried.removeprefix("try it"))
    assert words.count("--image") == words.count("PICTURE.png") == (kind == "qwen-edit")
    words = [word.replace("PICTURE.png", "edits/cat.png") for word in words[1:]]
    drawn = run(*words, "--device", "cpu", "--out", "drawn.png", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "drawn.png").is_file()
