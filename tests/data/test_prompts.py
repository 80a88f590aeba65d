"""Prompts are drawn by the generator alone, as texts or as what was cached of them."""

from pathlib import Path

import pytest
import torch
from hashed_text import encode, encode_one, plan_of, prompt_set
from pixel_space import PixelSpace
from pydantic import ValidationError

from piflow_cli.core.conditions import TextCondition, join_conditions
from piflow_cli.data.embeddings.building import build_shards
from piflow_cli.data.embeddings.cache import open_cache, shard_path
from piflow_cli.data.prompts import Prompts, PromptSource, locate_prompts
from piflow_cli.errors import DataError

COUNT = 10
TEXTS = [prompt_set(COUNT)[i] for i in range(COUNT)]


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(TEXTS), encoding="utf-8")
    return str(file)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def opened(path: str, **settings: object) -> PromptSource:
    return Prompts(path=path, **settings).open(PixelSpace())


def equal(one: TextCondition, other: TextCondition) -> bool:
    return all(torch.equal(getattr(one, n).float(), getattr(other, n).float()) for n in ("embeds", "mask", "pooled"))


def test_draws_are_prompts_and_no_latents(path: str) -> None:
    source = opened(path)
    latents, drawn = source.draw(64, seeded())
    assert latents is None
    assert source.has_images is False
    assert len(drawn) == 64
    assert set(drawn) == set(TEXTS)


def test_draws_depend_on_the_generator_alone(path: str) -> None:
    source, generator = opened(path), seeded()
    source.draw(5, generator)
    state = generator.get_state()
    expected = [source.draw(3, generator)[1] for _ in range(4)]
    resumed = torch.Generator()
    resumed.set_state(state)
    assert [opened(path).draw(3, resumed)[1] for _ in range(4)] == expected


def test_a_complete_cache_takes_the_place_of_texts(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert isinstance(opened(path, cache=str(folder)).draw(2, seeded())[1], list)
    build_shards(folder, plan_of(COUNT), encode)
    texts = opened(path).draw(6, seeded())[1]
    cached = opened(path, cache=str(folder))
    expected = join_conditions([encode_one(text) for text in texts])
    assert equal(cached.draw(6, seeded())[1], expected)
    assert equal(opened(path).with_cache(open_cache(folder)).draw(6, seeded())[1], expected)


def test_an_incomplete_cache_is_not_used(path: str, tmp_path: Path) -> None:
    build_shards(tmp_path / "cache", plan_of(COUNT), encode)
    shard_path(tmp_path / "cache", 0).unlink()
    source = opened(path, cache=str(tmp_path / "cache"))
    assert source.texts.cache is None
    assert source.draw(2, seeded())[1] == opened(path).draw(2, seeded())[1]


def test_a_cache_of_other_prompts_is_refused(path: str, tmp_path: Path) -> None:
    build_shards(tmp_path / "cache", plan_of(COUNT), encode)
    with pytest.raises(DataError, match=r"caches 10 other prompts than the 4 of data.path"):
        opened(path, cache=str(tmp_path / "cache"), limit=4)


def test_previews_are_the_first_prompts(path: str, tmp_path: Path) -> None:
    source = opened(path)
    assert source.preview(3) == TEXTS[:3]
    assert source.preview(12) == TEXTS + TEXTS[:2]
    build_shards(tmp_path / "cache", plan_of(COUNT), encode)
    cached = source.with_cache(open_cache(tmp_path / "cache"), dtype=torch.bfloat16).preview(3)
    assert cached.embeds.dtype == torch.bfloat16
    assert equal(cached, join_conditions([encode_one(text) for text in TEXTS[:3]]))


def test_sizes_are_drawn_from_the_resolutions(path: str) -> None:
    source, generator = opened(path, resolutions=("16x8", "8x16", "12x12")), seeded()
    assert {source.draw_size(generator) for _ in range(40)} == {(16, 8), (8, 16), (12, 12)}


def test_no_resolutions_draw_nothing(path: str) -> None:
    generator = seeded()
    before = generator.get_state()
    assert opened(path).draw_size(generator) is None
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("text", ["1024", "0x16", "16x", "16X16", "-16x16", "16x16x16", "16 x 16"])
def test_resolutions_are_checked(path: str, text: str) -> None:
    with pytest.raises(ValidationError, match="is no resolution; write width x height in pixels"):
        Prompts(path=path, resolutions=(text,))


def test_resolutions_that_the_teacher_cannot_do_are_named(path: str) -> None:
    with pytest.raises(DataError, match=r"data.resolutions: 16x10: 16 x 10 is no multiple of 4"):
        opened(path, resolutions=("16x8", "16x10"))


def test_a_limit_of_nothing_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="0 leaves no prompts"):
        Prompts(path=path, limit=0)


def test_a_teacher_of_classes_takes_no_prompts(path: str) -> None:
    space = PixelSpace()
    space.num_classes = 10
    with pytest.raises(DataError, match="takes class labels and no prompts"):
        Prompts(path=path).open(space)


def test_settings_survive_json(path: str) -> None:
    settings = Prompts(path=path, resolutions=("16x8",), limit=-3)
    assert Prompts.model_validate_json(settings.model_dump_json()) == settings


def test_prompts_that_do_not_ship_are_named() -> None:
    assert locate_prompts("prompts.txt") == "prompts.txt"
    with pytest.raises(DataError, match="zoo:nothing ships no prompts"):
        Prompts(path="zoo:nothing").check_source()
