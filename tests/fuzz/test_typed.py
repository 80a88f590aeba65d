"""Typed input of any value: it is taken whole, or refused in words that name it; nothing else ever happens."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import strategies
from piflow_cli.cli.numbers import parse_numbers, parse_seeds
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.data.asked import Asked, read_asked
from piflow_cli.data.prompts import parse_resolution
from piflow_cli.engine.benchmark.check import check_request as check_benchmark
from piflow_cli.engine.sample.check import check_request
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.errors import DataError, PiflowError, PresetError
from piflow_cli.formats.student import StudentCard
from piflow_cli.io.bounds import bounded_json
from piflow_cli.io.texts.names import STEM_BYTES, file_stem, label_of
from piflow_cli.io.zoo import ZOO
from piflow_cli.preset import Preset, load_preset, parse_preset

quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
RECIPE = load_preset("digits-1nfe").model_dump(mode="json")
CARD = json.loads((ZOO / "digits" / "students" / "digits-1nfe" / "student.json").read_text())


@quick
@given(strategies.changed(RECIPE))
def test_a_preset_is_valid_and_survives_its_json_or_is_refused(table: dict[str, Any]) -> None:
    try:
        preset = parse_preset(table)
    except PresetError:
        return
    assert Preset.model_validate_json(preset.model_dump_json()) == preset


@quick
@given(strategies.changed(CARD))
def test_a_card_is_valid_and_survives_its_json_or_is_refused(table: dict[str, Any]) -> None:
    try:
        card = StudentCard.parse(json.dumps(table), origin="a card")
    except PiflowError:
        return
    assert StudentCard.parse(card.model_dump_json(), origin="a card") == card


@quick
@given(st.lists(st.tuples(st.sampled_from(["training.steps", "policy.type", "a.b", "", "data"]), strategies.PROMPTS)))
def test_settings_are_taken_or_refused(pairs: list[tuple[str, str]]) -> None:
    with suppress(PresetError):
        assert load_preset("digits-1nfe", [f"{key}={value}" for key, value in pairs]).name == "digits-1nfe"


@quick
@given(nfe=strategies.NUMBERS, substeps=strategies.NUMBERS, shift=strategies.NUMBERS, h=strategies.NUMBERS)
def test_sampling_settings_have_a_grid_from_one_to_zero(nfe: Any, substeps: Any, shift: Any, h: Any) -> None:
    try:
        found = SamplingSettings(nfe=nfe, total_substeps=substeps, shift=shift, h=h)
    except ValueError:
        return
    assert 1 <= found.nfe <= 128
    assert all(math.isfinite(value) for value in (found.shift, found.h))
    edges = [found.time_shift.sigma(tau) for tau in (1.0, 0.5, 0.0)]
    assert edges == sorted(edges, reverse=True)
    assert (edges[0], edges[-1]) == (1, 0)


@quick
@given(strategies.SEED_LISTS)
def test_seeds_are_whole_numbers_each_once_or_a_usage_error(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except typer.BadParameter:
        return
    assert len(set(seeds)) == len(seeds) > 0
    assert all(seed >= 0 for seed in seeds)


@quick
@given(strategies.SEED_LISTS | strategies.WORDS, st.sampled_from([int, float]))
def test_lists_of_numbers_are_numbers_or_a_usage_error(text: str, kind: type) -> None:
    try:
        numbers = parse_numbers(text, "--nfe", kind)
    except typer.BadParameter:
        return
    assert all(type(number) is kind for number in numbers or ())


@quick
@given(strategies.WORDS | st.from_regex(r"[0-9]{0,6}x[0-9]{0,6}", fullmatch=True))
def test_resolutions_are_two_numbers_or_refused(text: str) -> None:
    try:
        width, height = parse_resolution(text)
    except ValueError:
        return
    assert width > 0 < height


@quick
@given(prompts=st.lists(strategies.PROMPTS, max_size=3), number=st.integers(-2, 10**12), seed=st.integers())
def test_a_request_to_draw_is_small_enough_or_refused(prompts: list[str], number: int, seed: int) -> None:
    asked = [Asked(prompt) for prompt in prompts]
    try:
        check_request(asked, num_images=number, seed=seed, seeds=None, batch_size=None)
    except DataError:
        return
    assert 1 <= number * len(prompts) <= 1_000_000
    assert all(prompt.strip() and prompt.encode() for prompt in prompts)


@quick
@given(strategies.NUMBERS, strategies.NUMBERS, strategies.NUMBERS)
def test_sizes_and_guidance_are_in_their_bounds_or_refused(width: Any, guidance: Any, negative: Any) -> None:
    request = TextRequest(width=width, guidance_scale=guidance, negative_scale=negative)
    try:
        request.check_numbers()
    except DataError:
        return
    assert 1 <= width <= 16_384
    assert 0 <= guidance <= 100


@quick
@given(st.integers(), st.integers(), st.integers(), st.lists(st.integers(), max_size=3))
def test_a_benchmark_is_small_enough_or_refused(samples: int, batch: int, seed: int, steps: list[int]) -> None:
    try:
        check_benchmark(["fid"], ["euler"], samples=samples, batch_size=batch, seed=seed, steps=steps)
    except PiflowError:
        return
    assert 2 <= samples <= 1_000_000
    assert 0 <= seed < 2**64
    assert all(1 <= count <= 10_000 for count in steps)


@quick
@given(st.binary(max_size=300) | strategies.TREES.map(lambda tree: json.dumps(tree).encode()))
def test_documents_are_read_or_refused(content: bytes) -> None:
    try:
        bounded_json(content)
    except ValueError:
        return
    json.loads(content)


@quick
@given(strategies.PROMPTS)
def test_any_text_names_a_file_and_a_label(text: str) -> None:
    stem = file_stem(text)
    assert stem
    assert "/" not in stem
    assert "\0" not in stem
    assert len(stem.encode()) <= STEM_BYTES
    assert "\n" not in label_of(text)


@quick
@given(rows=st.lists(strategies.TREES, min_size=1, max_size=4), suffix=st.sampled_from([".jsonl", ".txt", ".csv"]))
def test_lists_of_prompts_are_read_or_refused(tmp_path: Path, rows: list[Any], suffix: str) -> None:
    path = tmp_path / f"prompts{suffix}"
    path.write_bytes(b"prompt,seed\n" * (suffix == ".csv") + b"\n".join(json.dumps(row).encode() for row in rows))
    try:
        found = read_asked(str(path))
    except DataError:
        return
    assert found
    assert all(item.prompt.strip() for item in found)


@pytest.mark.parametrize("seed", ["1" * 5000, "٣", "1e3", "0x1", "+1", "1_0"])
def test_only_plain_digits_are_seeds(seed: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"prompt,seed\na cat,{seed}\n", encoding="utf-8")
    with pytest.raises(DataError, match="has the seed"):
        read_asked(str(tmp_path / "p.csv"))
