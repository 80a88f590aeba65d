"""A cache reads in any order what was encoded, and says what is wrong with it instead of giving something else."""

import json
from pathlib import Path

import pytest
import torch
from hashed_text import encode_one, fill, plan_of, prompt_set

from piflow_cli.core.conditions import TextCondition
from piflow_cli.data.embeddings.cache import CacheReader, missing_shards, open_cache, open_if_complete, shard_path
from piflow_cli.errors import DataError

COUNT = 10


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    fill(tmp_path, COUNT)
    return tmp_path


def same(one: TextCondition, other: TextCondition) -> bool:
    names = ("embeds", "mask", "pooled")
    return all(torch.equal(getattr(one, name).float(), getattr(other, name).float()) for name in names)


def damage(path: Path, place: int) -> None:
    """Turn a bit of a file, leaving its size."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def test_any_order_gives_what_was_encoded(cache: Path) -> None:
    reader = open_cache(cache)
    prompts = prompt_set(COUNT)
    assert len(reader) == COUNT
    order = [7, 0, 9, 3, 3, 8, 1]
    for i, row in zip(order, reader.rows(order), strict=True):
        assert row.embeds.dtype == torch.float32
        assert same(row, encode_one(prompts[i]))
    in_turn = reader.rows(range(COUNT))
    assert all(same(reader.rows([i])[0], in_turn[i]) for i in range(COUNT))


def test_results_come_in_the_dtype_asked_for(cache: Path) -> None:
    (row,) = open_cache(cache).rows([2], dtype=torch.bfloat16)
    assert row.embeds.dtype == row.pooled.dtype == torch.bfloat16


def test_special_prompts_are_found_by_their_text(cache: Path) -> None:
    reader = open_cache(cache)
    for text in ("", "blurry"):
        assert same(reader.special(text), encode_one(text))
    with pytest.raises(DataError, match="does not cache the prompt 'sharp' by its text; it has '', 'blurry'"):
        reader.special("sharp")


@pytest.mark.parametrize("index", [-1, COUNT])
def test_there_is_no_row_outside(cache: Path, index: int) -> None:
    with pytest.raises(IndexError, match=f"prompt {index} of {COUNT}"):
        open_cache(cache).rows([index])


def test_nothing_is_missing_of_a_complete_cache(cache: Path) -> None:
    assert missing_shards(cache, plan_of(COUNT)) == []


def test_everything_is_missing_of_no_cache(tmp_path: Path) -> None:
    assert missing_shards(tmp_path / "nowhere", plan_of(COUNT)) == [0, 1, 2]
    assert open_if_complete(tmp_path / "nowhere", prompt_set(COUNT)) is None
    with pytest.raises(DataError, match=r"has no cached embeddings.*--cache-only"):
        open_cache(tmp_path)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_a_damaged_byte_is_found_by_its_checksum(cache: Path, place: float) -> None:
    path = shard_path(cache, 1)
    damage(path, int(place * path.stat().st_size))
    assert missing_shards(cache, plan_of(COUNT)) == [1]
    assert missing_shards(cache, plan_of(COUNT), verify=False) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("how", ["gone", "truncated", "empty"])
def test_a_part_of_a_shard_is_no_shard(cache: Path, suffix: str, how: str) -> None:
    path = shard_path(cache, 2).with_suffix(suffix)
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(content[: len(content) // 2] if how == "truncated" else b"")
    assert missing_shards(cache, plan_of(COUNT), verify=False) == [2]
    assert open_if_complete(cache, prompt_set(COUNT)) is None
    with pytest.raises(DataError, match=r"lacks 1 of 3 shards \(2\)"):
        open_cache(cache)


def test_reading_a_damaged_row_names_the_shard(cache: Path) -> None:
    path = shard_path(cache, 1)
    reader = open_cache(cache)
    start = path.read_bytes().index(b"\x78\x01") + 40  # inside the first row's stream
    damage(path, start)
    with pytest.raises(DataError, match=r"shard-00001.safetensors is damaged at its prompt 0.*caching step again"):
        reader.rows([4])
    assert len(reader.rows([0, 8])) == 2


@pytest.mark.parametrize("keep", [0, 30, 0.5])
def test_reading_a_truncated_shard_names_it(cache: Path, keep: float) -> None:
    reader = open_cache(cache)
    path = shard_path(cache, 0)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(DataError, match=r"shard-00000.safetensors is damaged"):
        reader.rows([1])


def test_a_width_that_does_not_fit_is_no_result(cache: Path) -> None:
    reader = open_cache(cache)
    other = CacheReader(cache, reader.index.model_copy(update={"embed_width": 23}))
    with pytest.raises(DataError, match="of width 23 in bf16"):
        other.rows([1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "hashes-2"}, "text encoder hashes-1 there, hashes-2 wanted"),
        ({"storage": "fp8"}, "storage bf16 there, fp8 wanted"),
        ({"shard_size": 8}, "prompts a shard 4 there, 8 wanted"),
    ],
)
def test_another_cache_is_refused(cache: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        missing_shards(cache, plan_of(COUNT, **changes))


def test_a_cache_of_other_prompts_is_refused(cache: Path) -> None:
    with pytest.raises(DataError, match=r"number of prompts 10 there, 11 wanted; prompts \w+ there, \w+ wanted"):
        missing_shards(cache, plan_of(COUNT + 1))
    with pytest.raises(DataError, match=r"caches 10 other prompts than the 9 of data.path"):
        open_if_complete(cache, prompt_set(COUNT - 1))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 1}'])
def test_a_damaged_index_is_named(cache: Path, content: str) -> None:
    (cache / "index.json").write_text(content)
    with pytest.raises(DataError, match=r"index.json is no index of cached embeddings of format 1"):
        open_cache(cache)


def test_another_format_is_refused(cache: Path) -> None:
    index = json.loads((cache / "index.json").read_text())
    (cache / "index.json").write_text(json.dumps(index | {"format_version": 2}))
    with pytest.raises(DataError, match="of format 1"):
        open_cache(cache)
