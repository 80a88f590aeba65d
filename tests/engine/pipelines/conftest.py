"""The released adapters on their bases, as pipelines."""

import pytest
from tiny_pipelines import KINDS, Pipes, pipeline


@pytest.fixture(scope="module")
def pipes() -> Pipes:
    return {case: pipeline(*case) for case in KINDS}
