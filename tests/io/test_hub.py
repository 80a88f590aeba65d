"""What is local is never asked of the hub; what was fetched before is found without it; errors say what to do."""

from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from piflow_cli.errors import ModelError
from piflow_cli.io.hub import beside, fetch_file, fetch_folder, list_files, locate, looks_local

COMMIT = "0" * 40


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The copy of owner/model that an earlier download left in the hub's cache; there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--model"
    folder = repository / "snapshots" / COMMIT
    (folder / "vae").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name in ("model_index.json", "vae/config.json"):
        (folder / name).write_text("{}")
    return folder


def test_files_fetched_before_are_found_without_network(cached: Path) -> None:
    assert fetch_file("owner/model", "vae/config.json") == cached / "vae" / "config.json"
    assert fetch_folder("owner/model", ["*.json"]) == cached
    assert list_files("owner/model", known="model_index.json") == ["model_index.json", "vae/config.json"]
    assert list_files("owner/model", known="vae/config.json", local_only=True) == [
        "model_index.json",
        "vae/config.json",
    ]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: fetch_file("owner/other", "config.json"),
        lambda: fetch_file("owner/model", "other.json"),
        lambda: fetch_folder("owner/other", ["*"]),
        lambda: list_files("owner/other", known="config.json"),
        lambda: list_files("owner/other", known="config.json", local_only=True),
    ],
)
@pytest.mark.usefixtures("cached")
def test_what_cannot_be_had_says_what_to_download(ask) -> None:
    with pytest.raises(ModelError, match=r"cannot get 'owner/\w+' from the model hub: \w+\. .*hf download owner/"):
        ask()


def test_the_listing_of_the_hub_counts_where_it_can_be_asked(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def list_repo_files(repository: str, *, revision: str | None) -> list[str]:
        asked.append((repository, revision))
        return ["a"]

    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    assert list_files("owner/model", known="model_index.json", revision="v2") == ["a"]
    assert list_files("owner/model", known="model_index.json", local_only=True)[0] == "model_index.json"
    assert asked == [("owner/model", "v2")]
    assert cached.is_dir()


def test_local_places_and_hub_ids_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="'models/hpsv2' does not exist here"):
        locate("models/hpsv2")
    (tmp_path / "models" / "flux").mkdir(parents=True)
    assert all(map(looks_local, ["runs/x", "./a/b", "../a", "/a/b", "~/a", "models/x"]))
    assert not any(map(looks_local, ["owner/name", "run/x", "models2/x"]))
    assert locate("owner/name") == "owner/name"
    assert locate("models/flux") == Path("models/flux")
    for source in ("models/qwen", "runs/x", "owner/file.gguf", "owner/file.safetensors", "not an id"):
        with pytest.raises(ModelError, match="does not exist here"):
            locate(source)
    with pytest.raises(ModelError, match=r"In models there is flux\."):
        locate("models/qwen")


def test_the_folders_beside_are_shown_and_counted(tmp_path: Path) -> None:
    for i in range(11):
        (tmp_path / f"run{i:02d}").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("")
    assert beside(tmp_path / "x", shown=2) == f" In {tmp_path} there is run00, run01 and 9 more."
    assert beside(tmp_path / "no" / "x") == ""
    assert beside(Path("x")) == ""
