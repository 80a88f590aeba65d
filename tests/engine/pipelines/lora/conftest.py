"""Pipelines that are given a style, and what they draw without one."""

import pytest
from tiny_pipelines import FAMILIES, latents, pipeline
from torch import Tensor

from piflow_cli.engine.pipelines.student import StudentPipeline


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pipe(family: str) -> StudentPipeline:
    return pipeline(family)


@pytest.fixture(scope="module")
def plain_of() -> dict[str, Tensor]:
    return {family: latents(pipeline(family), family) for family in FAMILIES}


@pytest.fixture
def plain(plain_of: dict[str, Tensor], family: str) -> Tensor:
    return plain_of[family]
