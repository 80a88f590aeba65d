"""PartiPrompts (arXiv 2206.10789): 1,600 prompts of many kinds, for people to look at and for CLIP scores."""

import csv
from pathlib import Path

from piflow_cli.data.published.entry import Entry, OnHub, PublishedSet, entry_of, field, read_table


def read(path: Path) -> list[Entry]:
    """Entries of PartiPrompts.tsv, whose quotation marks are part of the prompts."""
    rows = csv.DictReader(read_table(path).splitlines(keepends=True), delimiter="\t", quoting=csv.QUOTE_NONE)
    found = []
    for row in rows:
        where = f"{path}:{rows.line_num}"
        found.append(entry_of(field(row, "Prompt", where=where), where=where))
    return found


SET = PublishedSet(
    name="parti",
    source="PartiPrompts.tsv of github.com/google-research/parti",
    read=read,
    on_hub=OnHub("nateraw/parti-prompts", ("PartiPrompts.tsv",), "PartiPrompts.tsv"),
)
