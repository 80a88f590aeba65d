"""What was built is put among the files of the package whole, or not at all; the presets of the students are valid."""

from pathlib import Path

import pytest
import torch

from piflow_cli.errors import DataError
from piflow_cli.preset import load_preset
from piflow_cli.zoo.emoji.build.data.pictures import Emoji, Pictures
from piflow_cli.zoo.emoji.build.students import PARTS, SHIPPED, ship_models


def few_pictures() -> Pictures:
    emoji = tuple(
        Emoji(key=name, base=name, label=name, tags=(), group="animals-nature", subgroup="x") for name in ("cat", "dog")
    )
    count = 3 * len(emoji)
    return Pictures(
        images=torch.zeros(count, 3, 64, 64, dtype=torch.uint8),
        emoji=emoji * 3,
        style=torch.arange(3).repeat_interleave(len(emoji)),
        held_out=torch.zeros(count, dtype=torch.bool),
    )


def test_nothing_is_shipped_until_all_is_finished(tmp_path: Path) -> None:
    work, target = tmp_path / "work", tmp_path / "zoo"
    (work / PARTS["teacher"]).mkdir(parents=True)
    with pytest.raises(DataError, match=r"emoji\.build features"):
        ship_models(few_pictures(), work, target=target)
    assert not target.exists()


def test_shipping_replaces_what_was_there(tmp_path: Path) -> None:
    work, target = tmp_path / "work", tmp_path / "zoo"
    for part in PARTS.values():
        (work / part / "inner").mkdir(parents=True)
        (work / part / "inner" / "file").write_text(part)
    (target / "teacher").mkdir(parents=True)
    (target / "teacher" / "old").write_text("old")
    ship_models(few_pictures(), work, target=target)
    assert sorted(p.name for p in target.iterdir()) == ["features", "prompts.jsonl", "teacher"]
    assert [p.name for p in (target / "teacher").iterdir()] == ["inner"]
    assert (target / "features" / "inner" / "file").read_text() == PARTS["features"]


@pytest.mark.parametrize("name", SHIPPED)
def test_presets_of_the_students_are_on_the_embedded_teacher(name: str) -> None:
    preset = load_preset(name)
    assert (preset.teacher.source, preset.data.path, preset.name) == ("zoo:emoji", "zoo:emoji", name)
    assert preset.adapter is not None
    assert preset.attribution
