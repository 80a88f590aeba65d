"""The generated pages are what the code says today."""

import pytest

from piflow_cli.cli import reference


@pytest.mark.parametrize("name", list(reference.PAGES))
def test_generated_page_is_fresh(name: str) -> None:
    written = (reference.DOCS / name).read_text(encoding="utf-8")
    assert written == reference.PAGES[name](), "run python -m piflow_cli.cli.reference"
