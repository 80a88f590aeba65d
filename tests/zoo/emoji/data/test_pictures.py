"""The emoji sets are fetched checked, packed by code points, and held out by emoji."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from piflow_cli.errors import DataError, PiflowError
from piflow_cli.zoo.emoji.build.data import download as emoji_download
from piflow_cli.zoo.emoji.build.data import pictures as emoji_data
from piflow_cli.zoo.emoji.build.data.download import NAMES, PACKAGES, digest, fetch_package, find_registry
from piflow_cli.zoo.emoji.build.data.pictures import (
    STYLES,
    Emoji,
    build_data,
    emoji_key,
    is_held_out,
    load_data,
    render,
    sampling_weights,
)

RECORDS = [
    {"label": "cat face", "hexcode": "1F431", "tags": ["pet"], "group": 3, "subgroup": 34},
    {"label": "keycap: 5", "hexcode": "0035-FE0F-20E3", "tags": ["five"], "group": 8, "subgroup": 94},
    {"label": "regional indicator E", "hexcode": "1F1EA"},
    {
        "label": "woman",
        "hexcode": "1F469",
        "tags": ["lady"],
        "group": 1,
        "subgroup": 23,
        "skins": [{"label": f"woman: {n} skin tone", "hexcode": f"1F469-1F3F{n}"} for n in "BC"],
    },
]
GROUPS = {
    "groups": {"1": "people-body", "3": "animals-nature", "8": "symbols"},
    "subgroups": {"23": "person", "34": "animal-mammal", "94": "keycap"},
}


def picture(size: tuple[int, int], colour: tuple[int, int, int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", size, colour).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def tarball(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place where every package is there already, with a few pictures in each."""
    red, clear = (255, 0, 0, 255), (0, 0, 255, 0)
    noto, flat, fluent = (emoji_data.FOLDERS[style] for style in STYLES)
    people = ("1f469", "1f469-1f3fb", "1f469-1f3fc")
    contents = {
        noto[0].name: {f"{noto[1]}{name}.png": picture((64, 64), red) for name in ("1f431", "0035-fe0f-20e3", *people)},
        flat[0].name: {f"{flat[1]}{name}.png": picture((64, 64), clear) for name in ("1f431", *people)}
        | {f"{flat[1]}deeper/1f431.png": b"no picture"},
        fluent[0].name: {f"{fluent[1]}{name}.webp": picture((256, 264), red, "WEBP") for name in ("1f431", "1f1ea")},
        NAMES.name: {
            "package/en/data.json": json.dumps(RECORDS).encode(),
            "package/meta/groups.json": json.dumps(GROUPS).encode(),
        },
    }
    for package in PACKAGES:
        tarball(tmp_path / "tarballs" / package.filename, contents[package.name])
    monkeypatch.setattr(emoji_data, "fetch_package", lambda package, *_, **__: tmp_path / "tarballs" / package.filename)
    return tmp_path / "work"


def test_all_sets_are_packed_with_names(packages: Path) -> None:
    assert build_data(packages, registry="https://registry.invalid") == packages / "data"
    pictures = load_data(packages)
    assert len(pictures) == 10, "a letter without a group and a nested file are no emoji"
    assert pictures.images.shape == (10, 3, 64, 64)
    assert pictures.images.dtype == torch.uint8
    assert pictures.style.tolist() == [0] * 5 + [1] * 4 + [2]
    by_key = {(e.key, int(s)): i for i, (e, s) in enumerate(zip(pictures.emoji, pictures.style, strict=True))}
    assert pictures.images[by_key["1f431", 0], :, 5, 7].tolist() == [255, 0, 0], "channels first"
    assert pictures.images[by_key["1f431", 1]].eq(255).all(), "what is transparent is white"
    assert pictures.images[by_key["1f431", 2], :, 32, 32].tolist() == [255, 0, 0]
    tone = pictures.emoji[by_key["1f469-1f3fb", 0]]
    assert (tone.base, tone.label, tone.tags) == ("1f469", "woman: B skin tone", ("lady",))
    about = json.loads((packages / "data" / "emoji.json").read_text())
    assert any("Apache-2.0" in licence for licence in about["sources"].values())


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"emoji\.build data"):
        load_data(tmp_path)


def test_tall_pictures_are_made_square() -> None:
    image = render(picture((256, 264), (0, 0, 0, 255), "WEBP"))
    assert image.shape == (3, 64, 64)
    assert image.flags.c_contiguous
    assert image[:, 32, 0].max() > 0, "white at the sides"
    assert image[:, 32, 32].max() == 0


def test_keys_ignore_case_zeros_and_variation_selectors() -> None:
    assert emoji_key("0035-FE0F-20E3") == emoji_key("35-20e3") == "35-20e3"
    assert emoji_key("1f3f4-e0067_e0062") == "1f3f4-e0067-e0062"


def test_five_percent_are_held_out_always_the_same() -> None:
    held_out = [is_held_out(f"{code:x}") for code in range(0x1F300, 0x1F300 + 4000)]
    assert 0.04 < sum(held_out) / len(held_out) < 0.06
    assert is_held_out("1f469")
    assert not is_held_out("1f431")


def test_skin_tones_together_count_as_one_more_picture() -> None:
    def emoji(key: str, base: str) -> Emoji:
        return Emoji(key=key, base=base, label="", tags=(), group="", subgroup="")

    people = tuple(emoji(key, "a") for key in ("a", "a-1", "a-2", "a-3", "a-4"))
    weights = sampling_weights((*people, emoji("b", "b")), torch.zeros(6, dtype=torch.int64))
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0].item() == weights[5].item() == pytest.approx(1 / 3)
    assert weights[1:5].sum().item() == pytest.approx(1 / 3)


def test_tarballs_are_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"a tarball"
    answers = {
        "https://registry.invalid/@a%2fb/1.0.0": json.dumps(
            {"dist": {"tarball": "https://registry.invalid/t"}}
        ).encode(),
        "https://registry.invalid/t": content,
    }
    asked: list[str] = []

    def read(address: str, _headers: dict[str, str]) -> bytes:
        asked.append(address)
        return answers[address]

    monkeypatch.setattr(emoji_download, "_read", read)
    package = emoji_download.Package("@a/b", "1.0.0", digest(content), "MIT")
    path = fetch_package(package, tmp_path, registry="https://registry.invalid")
    assert path.name == "a-b-1.0.0.tgz"
    assert path.read_bytes() == content
    fetch_package(package, tmp_path, registry="https://registry.invalid")
    assert len(asked) == 2, "what is there is not fetched again"
    path.write_bytes(b"damaged")
    answers["https://registry.invalid/t"] = b"something else"
    with pytest.raises(PiflowError, match="nothing was kept"):
        fetch_package(package, tmp_path, registry="https://registry.invalid")
    assert not path.exists()


def test_registry_is_the_chosen_one_or_npms(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_registry("https://mirror.invalid/") == "https://mirror.invalid"
    monkeypatch.setenv("npm_config_registry", "https://other.invalid/npm/")
    assert find_registry() == "https://other.invalid/npm"
    monkeypatch.delenv("npm_config_registry")
    monkeypatch.setenv("PATH", "")
    assert find_registry() == emoji_download.PUBLIC_REGISTRY
    with pytest.raises(PiflowError, match="--registry"):
        find_registry("file:///etc")
