"""The measured tables and drawn pictures of README and docs, each by the command that stands beside it.

python -m piflow_cli.speed.figures [NAME ...]

Without names all of `docs/figures/figures.toml` are made, in some minutes on two idle cores. A table's numbers,
and what they depend on, are kept as JSON beside that list; a test holds page, command and protocol against it.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "figures"


@dataclass(frozen=True)
class Figure:
    """A table or a picture.

    Args:
        name: of it.
        command: that makes it, as people type it.
        page: of a table, below the root of the repository.
        picture: where a picture belongs, likewise.
    """

    name: str
    command: str
    page: str | None = None
    picture: str | None = None

    @property
    def arguments(self) -> list[str]:
        """What follows `piflow`."""
        return shlex.split(self.command)[1:]

    @property
    def numbers(self) -> Path:
        """The JSON of a table."""
        return FOLDER / f"{self.name}.json"

    def make(self) -> None:
        """Run the command, and put what comes of it in its place."""
        if self.picture is not None:
            self._draw(ROOT / self.picture)
        elif self.page is not None:
            table = self._run("--no-cache", "--json", str(self.numbers))
            path = ROOT / self.page
            path.write_text(with_block(path.read_text("utf-8"), self, table), "utf-8")

    def _draw(self, target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._run(folder=folder)
            shutil.copyfile(Path(folder) / self.arguments[-1], target)

    def _run(self, *further: str, folder: str | None = None) -> str:
        line = [sys.executable, "-m", "piflow_cli", *self.arguments, *further]
        return subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, cwd=folder or ROOT).stdout


def figures() -> list[Figure]:
    """All of them."""
    tables = tomllib.loads((FOLDER / "figures.toml").read_text("utf-8"))
    return [Figure(name, **table) for name, table in tables.items()]


def block_of(page: str, name: str) -> str:
    """What stands between a figure's marks in the text of a page.

    Raises:
        ValueError: the marks are not there.
    """
    return _parts(page, name)[1]


def with_block(page: str, figure: Figure, table: str) -> str:
    """The text of a page with a command and its table between the figure's marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, _, after = _parts(page, figure.name)
    return f"{before}\n```console\n$ {figure.command}\n{table.rstrip()}\n```\n{after}"


def _parts(page: str, name: str) -> tuple[str, str, str]:
    """A page up to the end of a figure's first mark, between both, and from its second."""
    begin, end = f"<!-- figure {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    inside, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page has no {begin} ... {end}")
    return before + begin, inside, end + after


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of them")
    wanted = parser.parse_args().names
    known = {figure.name: figure for figure in figures()}
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"there is no figure {unknown[0]}; {', '.join(known)}")
    for name in wanted or known:
        known[name].make()
        print(f"{name}: {known[name].page or known[name].picture}")


if __name__ == "__main__":
    main()
