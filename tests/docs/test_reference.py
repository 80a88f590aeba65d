"""The generated pages are what the code says today, and links in the docs lead somewhere."""

import re
from pathlib import Path

import pytest

from piflow_cli.cli import reference

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", list(reference.PAGES))
def test_generated_page_is_fresh(name: str) -> None:
    written = (reference.DOCS / name).read_text(encoding="utf-8")
    assert written == reference.PAGES[name](), "run python -m piflow_cli.cli.reference"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_local_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
