"""Strategies of hypothesis for typed input: values of every kind in the tables of presets, cards and requests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fuzz import values

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40), st.sampled_from(values.TEXTS)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
"""What a file may hold anywhere."""
NUMBERS = st.one_of(st.integers(-3, 200), st.integers(), st.floats(), st.floats(-1, 2), st.booleans())
WORDS = st.text(alphabet=st.characters(codec="utf-8"), max_size=60)
PROMPTS = st.one_of(WORDS, st.text(max_size=20), st.sampled_from(values.TEXTS))
SEED_LISTS = st.one_of(
    st.lists(st.integers(-2, 300), min_size=1, max_size=4).map(lambda found: ",".join(map(str, found))),
    st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: f"{pair[0]}-{pair[1]}"),
    st.text(alphabet="0123456789,- ", max_size=30),
    WORDS,
)
"""What may be typed where numbers such as 1-8 are asked for."""


def changed(table: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The table with one to three of its leaves, or of the leaves below it, replaced by anything."""
    places = _leaves(table)
    return st.lists(st.tuples(st.sampled_from(places), TREES), min_size=1, max_size=3).map(
        lambda changes: _with_changes(table, changes)
    )


def _leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for key, value in table.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += _leaves(value, (*path, key))
    return found


def _with_changes(table: dict[str, Any], changes: list[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    whole = {key: _copy(value) for key, value in table.items()}
    for path, value in changes:
        at: Any = whole
        for key in path[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        if isinstance(at, dict):
            at[path[-1]] = value
    return whole


def _copy(value: Any) -> Any:
    return {key: _copy(child) for key, child in value.items()} if isinstance(value, dict) else value
