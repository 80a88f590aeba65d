"""Published sets are read as they were published, each small here; what is of another form is refused by name."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_cache import COMMIT, cached_dataset

from piflow_cli import registry
from piflow_cli.data.asked import Asked, read_asked
from piflow_cli.data.prompt_lists import read_prompt_list
from piflow_cli.data.published.entry import KIND, Entry, PublishedSet, read_published
from piflow_cli.data.published.hpsv3 import CATEGORIES
from piflow_cli.errors import DataError

METADATA = [
    '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}',
    '{"tag": "colors", "include": [{"class": "car", "count": 1, "color": "pink"}], "prompt": "a photo of a pink car"}',
]
ANNOTATIONS = [
    {"image_id": 9, "id": 40, "caption": "A dog runs.\n"},
    {"image_id": 3, "id": 7, "caption": "Two cats."},
    {"image_id": 9, "id": 12, "caption": "A running dog."},
]


def publish(name: str, folder: Path) -> Path:
    """What is published of a set, in short."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "geneval":
        (folder / "m.jsonl").write_text("\n".join(METADATA) + "\n")
        return folder / "m.jsonl"
    if name == "dpg":
        (folder / "partiprompts12.txt").write_text("A red cat\nsits.\n")
        (folder / "COCOval2014000000000042.txt").write_text("A dog")
        return folder
    if name == "hpsv2":
        for style in ("anime", "concept-art", "paintings", "photo"):
            (folder / f"{style}.json").write_text(json.dumps([f"{style} cat", f"{style} dog"]))
        return folder
    if name == "hpsv3":
        rows = [{"category": "Natural Scenery", "image_file": "images/a1.jpg", "caption": "a hill", "other": 1}]
        (folder / "b.json").write_text(json.dumps(rows))
        return folder / "b.json"
    if name == "oneig":
        rows = ["category,id,prompt_en,type", 'Portrait,000,"a man, old",x', "Knowledge_Reasoning,012,a map,y"]
        (folder / "o.csv").write_text("\n".join(rows))
        return folder / "o.csv"
    if name == "parti":
        rows = [
            "Prompt\tCategory\tChallenge\tNote",
            "bond\tAbstract\tBasic\t",
            'The words "Fly" on a wall\tArts\tComplex\t',
        ]
        (folder / "p.tsv").write_text("\n".join(rows) + "\n")
        return folder / "p.tsv"
    (folder / "c.json").write_text(json.dumps({"images": [], "annotations": ANNOTATIONS}))
    return folder / "c.json"


EXPECTED = {
    "geneval": [
        Entry("a photo of a bench", "00000", METADATA[0]),
        Entry("a photo of a pink car", "00001", METADATA[1]),
    ],
    "dpg": [Entry("A dog", "COCOval2014000000000042"), Entry("A red cat sits.", "partiprompts12")],
    "hpsv2": [
        Entry(f"{style} {what}", f"{style}/0000{number}")
        for style in ("anime", "concept-art", "paintings", "photo")
        for number, what in enumerate(("cat", "dog"))
    ],
    "hpsv3": [Entry("a hill", "Natural Scenery/a1")],
    "oneig": [Entry("a man, old", "human/000"), Entry("a map", "reasoning/012")],
    "parti": [Entry("bond"), Entry('The words "Fly" on a wall')],
    "coco": [Entry("Two cats."), Entry("A running dog.")],
}


@pytest.mark.parametrize("name", registry.names(KIND))
def test_every_set_is_read_in_its_order(name: str, tmp_path: Path) -> None:
    path = publish(name, tmp_path)
    found = read_published(f"{name}:{path}")
    assert found is not None
    assert isinstance(found[0], PublishedSet)
    assert found[1] == EXPECTED[name]
    texts = [entry.prompt for entry in EXPECTED[name]]
    assert read_asked(f"{name}:{path}") == [Asked(text) for text in texts]
    listed = read_prompt_list(f"{name}:{path}")
    assert (list(listed.texts), listed.labels, listed.name) == (texts, None, f"{name}:{path}")


@pytest.mark.parametrize("name", registry.names(KIND))
def test_every_set_says_where_it_is_published(name: str, tmp_path: Path) -> None:
    published = registry.resolve(KIND, name)
    source, where = published.source, "is not fetched" if published.on_hub is None else f"--local-dir .* {name}:"
    with pytest.raises(DataError, match=where):
        read_published(name)
    for spec in (name, f"{name}:", f"{name}:{tmp_path / 'none'}"):
        with pytest.raises(DataError) as told:
            read_published(spec)
        assert source in str(told.value)
    (tmp_path / "other.jsonl").write_text('{"text": 3}\n')
    with pytest.raises(DataError):
        read_published(f"{name}:{tmp_path / 'other.jsonl'}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError):
        read_published(f"{name}:{empty}")


def test_a_path_alone_is_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_published("prompts.txt") is None
    assert read_published("owner/name") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").write_text("a cat\n")
    assert read_published("coco") is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("Portrait,../../x,a man", "no name for a file"),
        ("Portrait,000,", "has an empty prompt"),
        ("Nature,000,a man", "category 'Nature'"),
        ("Portrait,.hidden,a man", "no name for a file"),
    ],
)
def test_rows_that_scorers_could_not_find_are_refused(row: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text(f"category,id,prompt_en\n{row}\n")
    with pytest.raises(DataError, match=words):
        read_published(f"oneig:{tmp_path / 'o.csv'}")


def test_chinese_prompts_of_oneig_are_those_of_its_other_table(tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text("category,id,prompt_cn\nMultilingualism,001,一只猫\n", encoding="utf-8")
    found = read_published(f"oneig:{tmp_path / 'o.csv'}")
    assert found is not None
    assert found[1] == [Entry("一只猫", "multilingualism/001")]


def publish_on_hub(name: str, snapshot: Path) -> list[Entry]:
    """The files of a set's repository, in short, and what they say."""
    if name == "hpsv3":
        (snapshot / "benchmark").mkdir()
        for category in reversed(CATEGORIES):
            rows = [{"category": category, "image_file": "images/a1.jpg", "caption": f"{category} of a kind"}]
            (snapshot / "benchmark" / f"benchmark_{category}.json").write_text(json.dumps(rows))
        return [Entry(f"{category} of a kind", f"{category}/a1") for category in CATEGORIES]
    if name == "oneig":
        rows = [
            {"category": "Portrait", "id": "000", "prompt_en": "a man, old", "type": "NP", "class": "None"},
            {"category": "Knowledge_Reasoning", "id": "012", "prompt_en": "a map", "prompt_length": "short"},
        ]
        (snapshot / "OneIG-Bench.json").write_text(json.dumps(rows))
    elif name == "parti":
        publish(name, snapshot).rename(snapshot / "PartiPrompts.tsv")
    else:
        publish(name, snapshot / "benchmark")
    return EXPECTED[name]


ON_HUB = [name for name in registry.names(KIND) if registry.resolve(KIND, name).on_hub is not None]


def test_sets_of_the_hub_are_those_whose_files_are_there() -> None:
    assert ON_HUB == ["hpsv2", "hpsv3", "oneig", "parti"]


@pytest.mark.parametrize("name", ON_HUB)
def test_a_set_without_a_path_is_the_hubs_and_says_its_commit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub = registry.resolve(KIND, name).on_hub
    entries = publish_on_hub(name, cached_dataset(tmp_path, hub.repository))
    found = read_published(name)
    assert found is not None
    assert found.entries == entries
    assert found.origin is not None
    assert (found.origin.repository, found.origin.names, found.origin.commit) == (hub.repository, hub.names, COMMIT)
    listed = read_prompt_list(name)
    assert list(listed.texts) == [entry.prompt for entry in entries]
    assert listed.name == f"{name} of {hub.repository} at {COMMIT[:12]}"
    assert listed.origin is not None
    assert listed.origin.endswith(f" of {hub.repository} at {COMMIT}")
    assert all(file in listed.origin for file in hub.names)
    assert read_asked(name) == [Asked(entry.prompt) for entry in entries]


def test_a_revision_is_a_branch_or_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    publish("parti", cached_dataset(tmp_path, "nateraw/parti-prompts")).rename(
        cached_dataset(tmp_path, "nateraw/parti-prompts") / "PartiPrompts.tsv"
    )
    older = cached_dataset(tmp_path, "nateraw/parti-prompts", commit="f" * 40, branch="older")
    (older / "PartiPrompts.tsv").write_text("Prompt\tCategory\na fox\tAnimals\n")
    for revision in ("older", "f" * 40):
        found = read_published(f"parti@{revision}")
        assert found is not None
        assert found.entries == [Entry("a fox")]
        assert found.origin is not None
        assert found.origin.commit == "f" * 40
    assert read_published("parti")[1] == EXPECTED["parti"]
    with pytest.raises(DataError, match=r"parti@none: cannot get .*hf download nateraw/parti-prompts .*--repo-type"):
        read_published("parti@none")
    with pytest.raises(DataError, match=r"parti@main:x: write --prompts parti:PATH with PartiPrompts\.tsv"):
        read_published("parti@main:x")


def test_files_of_a_set_are_all_of_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = publish("hpsv2", cached_dataset(tmp_path, "zhwang/HPDv2") / "benchmark")
    publish("hpsv2", cached_dataset(tmp_path, "zhwang/HPDv2", commit="e" * 40, branch="other") / "benchmark")
    (folder / "photo.json").unlink()
    with pytest.raises(DataError, match=r"cannot get 'benchmark/photo\.json' of the data set 'zhwang/HPDv2'"):
        read_published("hpsv2")


def test_a_folder_of_hpsv3_without_a_category_is_refused(tmp_path: Path) -> None:
    publish_on_hub("hpsv3", tmp_path)
    (tmp_path / "benchmark" / "benchmark_Natural Scenery.json").unlink()
    with pytest.raises(DataError, match=r"has no benchmark_Natural Scenery\.json; hpsv3 is"):
        read_published(f"hpsv3:{tmp_path / 'benchmark'}")
