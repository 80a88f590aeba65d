"""The bundled prompts cover every emoji evenly, and are always the same ones for a seed."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.load import EMOJI_FOLDER
from piflow_cli.zoo.emoji.build.data.captions import KEYWORD_SHARE
from piflow_cli.zoo.emoji.build.data.pictures import STYLES, Emoji, Pictures
from piflow_cli.zoo.emoji.build.prompt_list import (
    PROMPT_LIST,
    build_prompt_list,
    left_out_styles,
    main,
    rarer_keywords,
    save_prompt_list,
)

STYLE_WORD = re.compile(r"^(?:an? )?(noto|flat|3d) |, (noto|flat|3d)(?: style)?$")


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    return [json.loads(line) for line in PROMPT_LIST.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def classes() -> list[str]:
    return json.loads((EMOJI_FOLDER / "config.json").read_text(encoding="utf-8"))["classes"]


def style_of(prompt: str) -> str | None:
    found = STYLE_WORD.search(prompt)
    return found and (found[1] or found[2])


def pictures_of(names: dict[str, tuple[str, ...]], *, tones: tuple[str, ...] = ()) -> Pictures:
    """Emoji by name with their keywords in all styles, the first of them in some skin tones, the last not in 3d."""
    plain = [Emoji(str(i), str(i), name, tags, "animals-nature", "") for i, (name, tags) in enumerate(names.items())]
    toned = [Emoji(f"0-{tone}", "0", f"{plain[0].label}: {tone} skin tone", (), "g", "") for tone in tones]
    rows = [(e, s) for e in (*plain, *toned) for s in range(3) if (e, s) != (plain[-1], 2)]
    emoji, style = zip(*rows, strict=True)
    images = torch.zeros(len(rows), 3, 1, 1, dtype=torch.uint8)
    return Pictures(images=images, emoji=emoji, style=torch.tensor(style), held_out=torch.zeros(len(rows)).bool())


def test_shipped_list_has_every_class_alike(lines: list[dict], classes: list[str]) -> None:
    assert all(set(line) == {"prompt", "label"} for line in lines)
    prompts = [line["prompt"] for line in lines]
    assert len(set(prompts)) == len(prompts)
    assert all(prompt and prompt == prompt.lower().strip() for prompt in prompts)
    toned = [line for line in lines if re.search("(light|medium|dark) skin tone", line["prompt"])]
    of_class = Counter(line["label"] for line in lines)
    assert set(of_class) == set(range(len(classes)))
    assert min(of_class.values()) == 3
    assert 290 < len(lines) - 3 * len(classes) <= len(toned) < 340
    assert PROMPT_LIST.stat().st_size < 600_000


def test_shipped_styles_are_balanced(lines: list[dict]) -> None:
    found = Counter(style_of(line["prompt"]) for line in lines)
    assert set(found) == {None, *STYLES}
    assert all(found[style] == pytest.approx(2 / 9 * len(lines), rel=0.01) for style in STYLES)


def test_shipped_labels_are_what_the_prompts_say(lines: list[dict], classes: list[str]) -> None:
    by_prompt = {line["prompt"]: classes[line["label"]] for line in lines}
    assert sum("pizza" in prompt and name == "pizza" for prompt, name in by_prompt.items()) >= 2
    named = sum(classes[line["label"]].lower().split()[-1] in line["prompt"] for line in lines)
    assert named > 0.8 * len(lines), "most use the name"


def test_any_prefix_is_a_fair_sample(lines: list[dict], classes: list[str]) -> None:
    first = lines[:600]
    styles = Counter(style_of(line["prompt"]) for line in first)
    assert all(styles[style] == pytest.approx(600 * 2 / 9, rel=0.3) for style in STYLES)
    assert abs(sum(line["label"] for line in first) / 600 / len(classes) - 0.5) < 0.05


def test_the_same_seed_gives_the_same_list(tmp_path: Path) -> None:
    names = {"cat face": ("cat", "kitten"), "red heart": ("love",), "hamburger": ("food", "burger"), "flag: Fiji": ()}
    pictures = pictures_of(names, tones=("dark", "light"))
    first = build_prompt_list(pictures)
    assert first == build_prompt_list(pictures)
    assert first != build_prompt_list(pictures, seed=1)
    assert Counter(line["label"] for line in first) == {0: 5, 1: 3, 2: 3, 3: 3}
    assert not any(style_of(line["prompt"]) == "3d" for line in first if line["label"] == 3), "was not drawn in 3d"
    save_prompt_list(first, tmp_path / "prompts.jsonl")
    assert [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()] == first


def test_no_word_for_one_emoji_is_the_name_of_another() -> None:
    pictures = pictures_of({"cat face": ("cat", "dog", "kitten"), "cat": (), "dog": ("wolf",), "wolf": ()})
    for seed in range(10):
        for line in build_prompt_list(pictures, seed=seed):
            words = {word.strip(",") for word in line["prompt"].split()}
            assert line["label"] == 0 or words & {"cat", "dog", "wolf"}
            assert "dog" not in words or line["label"] == 2
            assert "wolf" not in words or line["label"] == 3
            assert "cat" not in words or "face" in words or line["label"] == 1


def test_two_emoji_of_one_name_are_refused() -> None:
    same = pictures_of({"rice": (), "Rice": (), "other": ()})
    with pytest.raises(DataError, match="too few ways"):
        build_prompt_list(same)


def test_styles_left_out_are_balanced() -> None:
    everything, no_3d = frozenset({0, 1, 2}), frozenset({0, 1})
    drawn = [no_3d if i % 10 == 0 else everything for i in range(300)]
    chosen = left_out_styles(drawn, torch.Generator().manual_seed(0))
    assert Counter(chosen) == {0: 100, 1: 100, 2: 100}
    assert set(chosen[::10]) == {2}


def test_keywords_are_rarer() -> None:
    kinds = [rarer_keywords((i + 0.5) / 1000) for i in range(1000)]
    assert sum(kind < KEYWORD_SHARE for kind in kinds) == 30
    assert kinds == sorted(kinds)
    assert 0 < kinds[0] < kinds[-1] < 1


def test_command_needs_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "prompts.jsonl")]) == 1
    assert "emoji.build data" in capsys.readouterr().err
