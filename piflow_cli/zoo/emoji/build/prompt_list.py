"""Write the bundled list of emoji prompts, each with the class of the feature network "emoji-cnn" it should become.

    python -m piflow_cli.zoo.emoji.build.prompt_list WORK [--out FILE] [--seed S]

WORK holds what `python -m piflow_cli.zoo.emoji.build data` made. Three captions of every emoji, one without a style
word and two with those of two styles, and some of skin tones; keywords are rarer than in training. No caption is
there twice, or uses for one emoji the full name of another; a style word is never one in which the emoji was not
drawn. In random order: any first part is a fair sample.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from piflow_cli.errors import DataError, PiflowError
from piflow_cli.io.files import write_atomic
from piflow_cli.zoo.emoji.build.data.captions import KEYWORD_SHARE, NUM_DRAWS, Wording, caption, wording_of
from piflow_cli.zoo.emoji.build.data.pictures import STYLES, Emoji, Pictures, load_data
from piflow_cli.zoo.emoji.build.features import base_emoji

PROMPT_LIST = Path(__file__).parents[1] / "prompts.jsonl"
NUM_TONED = 306
"""Captions with a skin tone, at most."""
TONED_STYLES = (None, "noto", "flat", None, "3d", "noto", None, "flat", "3d")
"""Their style words, over and over: a third without, the rest shared among the three styles."""
RARE_KEYWORD_SHARE = 0.03
"""Of the captions of an emoji that has keywords, those that use one."""
MAX_TRIES = 200
"""Captions drawn for one place in the list before giving up."""


class Writer:
    """Draws captions that are not in the list yet.

    Args:
        generator: of all draws.
        names: full names of the base emoji, with the class of each.
    """

    def __init__(self, generator: torch.Generator, names: dict[str, int]) -> None:
        self.generator, self.names = generator, names
        self.seen: set[str] = set()

    def write(self, emoji: Emoji, label: int, style: str | None) -> dict[str, str | int]:
        """A new line of the list: a caption of `emoji` with the word for `style`, or with none, and its class.

        Raises:
            DataError: all captions that were drawn are taken.
        """
        wording = self._unmistakable(wording_of(emoji), label)
        for _ in range(MAX_TRIES):
            _, kind, which, article, _, place = torch.rand(NUM_DRAWS, generator=self.generator).tolist()
            draws = (1.0, rarer_keywords(kind), which, article, 1.0 if style is None else 0.0, place)
            text = caption(wording, style or STYLES[0], draws)
            if text not in self.seen:
                self.seen.add(text)
                return {"prompt": text, "label": label}
        raise DataError(f"no new caption of {emoji.label!r} in {MAX_TRIES} draws: there are too few ways to call it.")

    def _unmistakable(self, wording: Wording, label: int) -> Wording:
        """A wording without the plain words and keywords that are the full name of another emoji."""
        kept = {
            field: tuple(word for word in getattr(wording, field) if self.names.get(word, label) == label)
            for field in ("plain", "keywords")
        }
        return replace(wording, **kept)


def rarer_keywords(kind: float) -> float:
    """The draw of `caption` for the kind of name, of a uniform number in [0, 1): fewer keywords, the rest alike."""
    if kind < RARE_KEYWORD_SHARE:
        return kind * KEYWORD_SHARE / RARE_KEYWORD_SHARE
    return KEYWORD_SHARE + (kind - RARE_KEYWORD_SHARE) * (1 - KEYWORD_SHARE) / (1 - RARE_KEYWORD_SHARE)


def drawn_styles(pictures: Pictures) -> dict[str, frozenset[int]]:
    """The styles in which each emoji was drawn, by its key."""
    found: dict[str, set[int]] = {}
    for emoji, style in zip(pictures.emoji, pictures.style.tolist(), strict=True):
        found.setdefault(emoji.key, set()).add(style)
    return {key: frozenset(styles) for key, styles in found.items()}


def left_out_styles(drawn: Sequence[frozenset[int]], generator: torch.Generator) -> list[int]:
    """The one style of three that each emoji's two captions do not name, each style as often as the others.

    Args:
        drawn: the styles of each emoji; where one was not drawn, it is left out.
        generator: of the others.
    """
    everything = frozenset(range(len(STYLES)))
    chosen = {i: min(everything - styles) for i, styles in enumerate(drawn) if styles != everything}
    due = [i % len(STYLES) for i in range(len(drawn))]
    for style in chosen.values():
        if style in due:
            due.remove(style)
    free = iter(shuffled(due[: len(drawn) - len(chosen)], generator))
    return [chosen[i] if i in chosen else next(free) for i in range(len(drawn))]


def toned_emoji(pictures: Pictures, drawn: dict[str, frozenset[int]], generator: torch.Generator) -> list[Emoji]:
    """Up to NUM_TONED emoji with skin tones, drawn in all styles, of whatever base with the same likelihood."""
    toned = {e.key: e for e in pictures.emoji if e.key != e.base and len(drawn[e.key]) == len(STYLES)}
    if not toned:
        return []
    found = list(toned.values())
    variants = Counter(e.base for e in found)
    weights = torch.tensor([1 / variants[e.base] for e in found])
    index = torch.multinomial(weights, min(NUM_TONED, len(found)), generator=generator)
    return [found[i] for i in index.tolist()]


def shuffled(items: Iterable, generator: torch.Generator) -> list:
    """The items in random order."""
    found = list(items)
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


def build_prompt_list(pictures: Pictures, *, seed: int = 0) -> list[dict[str, str | int]]:
    """Lines {"prompt": "a cat face, 3d", "label": 17} for the pictures' emoji; always the same ones for a seed.

    Args:
        pictures: all of `python -m piflow_cli.zoo.emoji.build data`.
        seed: of wording and order.

    Raises:
        DataError: an emoji has too few ways to be called.
    """
    generator = torch.Generator().manual_seed(seed)
    bases, drawn = base_emoji(pictures.emoji), drawn_styles(pictures)
    labels = {emoji.key: label for label, emoji in enumerate(bases)}
    names = {name: label for label, emoji in enumerate(bases) for name in wording_of(emoji).names}
    left_out = left_out_styles([drawn[emoji.key] for emoji in bases], generator)
    wanted: list[tuple[Emoji, str | None]] = []
    for emoji, without in zip(bases, left_out, strict=True):
        wanted += [(emoji, None), *((emoji, word) for style, word in enumerate(STYLES) if style != without)]
    wanted += zip(toned_emoji(pictures, drawn, generator), itertools.cycle(TONED_STYLES), strict=False)
    writer = Writer(generator, names)
    return [writer.write(emoji, labels[emoji.base], style) for emoji, style in shuffled(wanted, generator)]


def save_prompt_list(lines: Iterable[dict[str, str | int]], path: Path) -> None:
    """Write a JSON object a line, atomically.

    Raises:
        StorageError: the file cannot be written.
    """
    write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def main(arguments: list[str] | None = None) -> int:
    """Parse, build and write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m piflow_cli.zoo.emoji.build.prompt_list", description=__doc__.split("\n")[0]
    )
    parser.add_argument("work", type=Path, help="work folder of `python -m piflow_cli.zoo.emoji.build data`")
    parser.add_argument("--out", type=Path, default=PROMPT_LIST, help="file to write (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        lines = build_prompt_list(load_data(options.work.expanduser()), seed=options.seed)
        save_prompt_list(lines, options.out)
    except PiflowError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}  {len(lines)} prompts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
