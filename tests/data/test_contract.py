"""What every registered source of data promises: draws that a seed decides, read by any process, of what it says."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_sources import CLASSES, SOURCES

from piflow_cli import registry
from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import DataFamily, DataSource
from piflow_cli.errors import PiflowError

BATCH = 6


@pytest.fixture(params=registry.names("data"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def family(name: str, tmp_path: Path) -> DataFamily:
    make, _ = SOURCES.get(name, (lambda _: {}, None))
    return registry.resolve("data", name).model_validate(make(tmp_path / "source"))


@pytest.fixture
def space(name: str) -> Any:
    return SOURCES.get(name, (None, CLASSES))[1]


@pytest.fixture
def source(family: DataFamily, space: Any) -> DataSource:
    return family.open(space)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(condition: Any) -> list[Any]:
    """A condition as what can be compared."""
    if isinstance(condition, TextCondition):
        return condition.embeds.flatten().tolist()
    return condition.tolist() if isinstance(condition, torch.Tensor) else list(condition)


def test_settings_survive_json_and_refuse_unknown_keys(family: DataFamily, name: str) -> None:
    assert family.type == name
    assert type(family).model_validate_json(family.model_dump_json()) == family
    with pytest.raises(ValidationError, match="no_such_key"):
        type(family).model_validate(family.model_dump() | {"no_such_key": 1})


def test_what_it_reads_is_checked_before_it_is_opened(family: DataFamily) -> None:
    family.check_source()
    paths = family.source_paths()
    assert all(path.exists() for path in paths.values())
    for key in paths:
        with pytest.raises(PiflowError, match="nowhere"):
            type(family).model_validate(
                family.model_dump() | {key.split(".")[-1]: "./nowhere/at/all.txt"}
            ).check_source()


def test_it_says_what_it_holds(family: DataFamily, source: DataSource) -> None:
    assert any(letter.isdigit() for letter in source.contents)
    assert source.has_images == family.has_images
    assert list(source.skipped) == list(source.doubts) == []


def test_a_seed_decides_what_is_drawn(family: DataFamily, source: DataSource, space: Any) -> None:
    draws = [family.open(space).draw(BATCH, seeded(1)), source.draw(BATCH, seeded(1)), source.draw(BATCH, seeded(2))]
    (latents, condition), again, other = draws
    assert numbers(condition) == numbers(again[1])
    assert len(numbers(condition)) >= BATCH
    assert (latents is not None) == source.has_images
    if latents is None:
        assert numbers(condition) != numbers(other[1])
    else:
        assert latents.shape == (BATCH, *space.latent_shape)
        assert torch.equal(latents, again[0])
        assert not torch.equal(latents, other[0])


def test_another_process_reads_the_same(source: DataSource) -> None:
    draw = source.plan(BATCH, seeded(3))
    assert len(draw.rows) == BATCH
    sent = pickle.loads(pickle.dumps((source.reader, draw)))
    there, here = (source.encode(reader.read(drawn)) for reader, drawn in (sent, (source.reader, draw)))
    assert numbers(there[1]) == numbers(here[1])
    assert here[0] is None or torch.equal(there[0], here[0])
