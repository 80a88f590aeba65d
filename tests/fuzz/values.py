"""Damage to values: numbers at the edges, texts that are no text, trees of JSON with keys lost, renamed and nested."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

INTEGERS = (-1, 0, 1, 2, 3, 7, 255, 256, 2**15, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), -7)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 3.0, 1e30)
TEXTS = (
    "", " ", "\0", "a\0b", "\ud800", "\ufeff", "none", "null", "nan", "-1", "1e999", "0x10", "{}", "[]", "..", ".", "/",
    "../../outside", "/dev/zero", "/dev/stdin", "/etc/passwd", "~nobody-here/x", "~", "file:///etc/passwd", "zoo:",
    "zoo:digits", "zoo:../..", "a" * 300, "b" * 20_000, "fuzz.canary", "fuzz/canary.py", "os.system", "%s%n", "$(id)",
    "猫" * 50, "é", "\u202e", "a\nb", "a\r\nb", "\x1b[31m", "owner/name", "a/b/c/d", "CON", "x" * 250 + ".png", "∞",
)  # fmt: skip
ATOMS: tuple[Any, ...] = (None, True, False, *INTEGERS, *FLOATS, *TEXTS)


def atom(rng: random.Random) -> Any:
    """A value that means trouble somewhere."""
    kind = rng.randrange(8)
    if kind < 5:
        return rng.choice((INTEGERS, FLOATS, TEXTS, TEXTS, (None, True, False))[kind])
    if kind == 5:
        return rng.choice(([], {}, [[]], [{}], {"": None}, [None] * 5, {"type": "canary"}))
    if kind == 6:
        return nested(rng, rng.choice((3, 70, 400)))
    return rng.choice(([rng.choice(ATOMS)] * rng.choice((1, 3, 2000)), {rng.choice(TEXTS): rng.choice(ATOMS)}))


def nested(rng: random.Random, depth: int) -> Any:
    """Lists or tables inside each other."""
    value: Any = rng.choice(ATOMS)
    as_list = rng.random() < 0.5
    for _ in range(depth):
        value = [value] if as_list else {"a": value}
    return value


def near(rng: random.Random, value: Any) -> Any:
    """A value of the same kind, beside this one."""
    if isinstance(value, bool) or value is None:
        return rng.choice((True, False, None, 0, "true"))
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value // 2, float(value), str(value)))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e3, value / 1e3, value + 1, int(value) if abs(value) < 1e9 else 0))
    if isinstance(value, str):
        return text(rng, value)
    if isinstance(value, list):
        return rng.choice((value[:-1], value * 2, value[::-1], [value], [*value, None], value[:1] * 3000))
    return value


def text(rng: random.Random, value: str) -> str:
    """A text with a few characters lost, doubled, swapped or foreign."""
    letters = list(value[:4000])
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(letters) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del letters[place : place + rng.randint(1, 8)]
        elif kind == 1:
            letters[place:place] = rng.choice(TEXTS)
        elif kind == 2:
            letters[place:place] = letters[place : place + 5] * rng.choice((1, 2, 500))
        elif kind == 3 and letters:
            letters[place - 1] = chr(rng.choice((0, 9, 10, 34, 39, 61, 91, 92, 123, 127, 0x301, 0x4E00, 0x1F600)))
        else:
            rest = letters[place:]
            letters = letters[:place] + [letter.swapcase() for letter in rest]
    return "".join(letters)


def tree(rng: random.Random, value: Any) -> Any:
    """A JSON tree with one to three of its values, keys or branches changed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = [place for place in _places(value) if place]
        if not places:
            return atom(rng)
        _change(rng, value, rng.choice(places), places)
    return value


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a tree, the root's first; long lists count by their first entries."""
    found = [path]
    if isinstance(value, dict):
        for key, child in list(value.items())[:200]:
            found += _places(child, (*path, key))
    elif isinstance(value, list):
        for i, child in enumerate(value[:20]):
            found += _places(child, (*path, i))
    return found[:2000]


def _at(value: Any, path: Sequence[Any]) -> Any:
    for step in path:
        value = value[step]
    return value


def _change(rng: random.Random, value: Any, path: Sequence[Any], places: Sequence[Sequence[Any]]) -> None:
    parent, key = _at(value, path[:-1]), path[-1]
    kind = rng.randrange(10)
    if kind < 3:
        parent[key] = atom(rng)
    elif kind < 5:
        parent[key] = near(rng, parent[key])
    elif kind == 5:
        del parent[key]
    elif kind == 6 and isinstance(parent, dict):
        parent[text(rng, str(key))] = parent.pop(key)
    elif kind == 7 and isinstance(parent, dict):
        parent[rng.choice((*TEXTS, "type", "path", "_class_name", "num_layers", "in_channels"))] = atom(rng)
    elif kind == 8:
        parent[key] = copy.deepcopy(_at(value, rng.choice(places)))
    else:
        parent[key] = rng.choice(([parent[key]], {"a": parent[key]}, str(parent[key])[:9999]))


def json_text(rng: random.Random, value: Any) -> str:
    """A mutated tree as JSON, or its text damaged as no writer of JSON would."""
    written = json.dumps(tree(rng, value) if rng.random() < 0.8 else value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.8:
        return written
    kind = rng.randrange(6)
    if kind == 0:
        return written[: rng.randrange(len(written) + 1)]
    if kind == 1:
        return rng.choice(("[" * 100_000, '{"a":' * 20_000, "[" * 65 + "]" * 65)) + written
    if kind == 2:
        return written.replace("0", "9" * rng.choice((30, 5000)), 1)
    if kind == 3:
        return written.replace(": ", rng.choice((": NaN, ", ": -Infinity,", "::", ": 'x', ")), 1)
    if kind == 4:
        return rng.choice(("", "null", "[]", "3", '"x"', "\ufeff" + written, "// x\n" + written))
    return text(rng, written)
