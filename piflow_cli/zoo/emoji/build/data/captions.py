# Captions of emoji in natural wording: names, plain words and keywords, with and without an article and a style word.

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from piflow_cli.zoo.emoji.build.data.pictures import STYLES, Emoji

EMPTY_SHARE = 0.1
PLAIN_SHARE = 0.3
"""Of the captions of an emoji that has a plain word, those that use it: "a cat" for the cat face."""
KEYWORD_SHARE = 0.12
ARTICLE_SHARE = 0.5
STYLE_SHARE = 0.5
NUM_DRAWS = 6
"""Uniform numbers that one caption takes."""


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


COLOURS = _set_of("red orange yellow green blue purple brown black white grey pink")
NO_HEADS = _set_of(
    "up down left right away done off no ok way handle increasing decreasing volume mode free together back americas "
    "europe-africa asia-australia eighteen food mouth clouds horizontally vertically o'clock night dusk viewer "
    "position beginner fuji tower claus pong cream ice bar root index gesture symbol mark sign button drum trap face"
)
"""Last words of names that do not say what the thing is."""
NO_PLAIN = frozenset({"hot dog", "computer mouse", "kick scooter", "bell pepper", "police car light", "carousel horse"})
"""Names whose last word is another thing."""
MASS_NOUNS = _set_of(
    "bread rice cheese broccoli corn garlic ginger milk sushi tofu butter salt honey bacon meat sake ice fire water "
    "fog wind money soap curry spaghetti popcorn cream tea food salad luggage snow rain lightning weather tennis golf "
    "hockey polo football handball cricket baseball basketball softball bowling skiing racing fries clothes dna"
)
PROPER = ("mount ", "tokyo ", "santa ", "mrs. ", "mx ", "statue of", "people ", "men ", "women ", "no ", "keycap ")
PLURALS_LIKE = ("ss", "us", "is", "lens", "bus", "gas")
VOWEL_SOUNDS = ("a", "e", "i", "o", "um", "un", "up", "ur", "hour", "sos ", "atm ", "x-ray", "mri", "l-", "ng ")
CONSONANT_SOUNDS = ("one", "euro", "uni", "u-", "ufo", "ewe")
KEYWORD_LETTERS = 3
NO_KEYWORDS = _set_of(
    "not what whatever bae feels omg ily xoxo huh ugh won you your this that how the and for with one two use via lol "
    "rofl idk ikr smh sup yup yep nah nope facing index ideograph meh wow"
)


@dataclass(frozen=True)
class Wording:
    """What an emoji may be called: `names` in full, `plain` words for it, `keywords`.

    `counted` says whether "a" may stand before a name or a plain word.
    """

    names: tuple[str, ...]
    plain: tuple[str, ...]
    keywords: tuple[str, ...]
    counted: bool


def to_words(text: str) -> str:
    """Text in lower case, without accents and fancy quotes."""
    plain = unicodedata.normalize("NFKD", text.replace("’", "'").replace("&", "and"))
    return "".join(c for c in plain if not unicodedata.combining(c) and c not in "“”").lower()


def wording_of(emoji: Emoji) -> Wording:
    """The names, plain words and keywords of an emoji."""
    subject, _, detail = to_words(emoji.label).partition(": ")
    details = detail.split(", ") if detail else []
    tones = [part for part in details if part.endswith("skin tone")]
    parts = [part for part in details if not part.endswith("skin tone")]
    names = _names(subject, parts)
    first = names[0]
    tags = [to_words(tag) for tag in emoji.tags]
    plain = _plain_words(subject, tags, group=emoji.group) if not parts else ()
    known = {*first.replace(",", "").split(), *plain, first}
    keywords = tuple(t for t in dict.fromkeys(tags) if t not in known and _is_keyword(t))
    tail = "".join(f", {tone}" for tone in tones)
    return Wording(
        names=tuple(name + tail for name in names),
        plain=tuple(word + tail for word in plain),
        keywords=tuple(word + tail for word in keywords),
        counted=_is_counted(first, group=emoji.group),
    )


def _names(subject: str, parts: list[str]) -> tuple[str, ...]:
    """Unicode writes "flag: France", "man: beard" and "family: man, boy"; people say flag of france, man with beard."""
    if not parts:
        return (subject,)
    joined = ", ".join(parts)
    if subject == "flag":
        return (f"flag of {joined}", f"{joined} flag")
    if subject == "keycap":
        return (f"keycap {joined}", f"{joined} keycap")
    if subject == "family":
        return (f"family of {' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))}", f"family, {joined}")
    if subject == "kiss" or subject.startswith("couple"):
        return (f"{subject}, {joined}",)
    if parts[-1] == "facing right":
        subject = f"{subject} facing right"
        return _names(subject, parts[:-1])
    if parts == ["bald"]:
        return (f"bald {subject}", f"{subject}, bald")
    return (f"{subject} with {' and '.join(parts)}", f"{subject}, {joined}")


def _plain_words(name: str, tags: list[str], *, group: str) -> tuple[str, ...]:
    """The one word that anybody would use first, such as cat for "cat face" and heart for "red heart"; often none."""
    if name in NO_PLAIN:
        return ()
    words = name.split(" with ")[0].split(" of ")[0].split()
    if group == "animals-nature" and words[-1] == "face":
        return (" ".join(words[:-1]),)
    if len(words) > 1 and words[-1] in tags and words[-1] not in NO_HEADS:
        if group == "symbols" and words[0] in COLOURS:
            return ()  # a red circle is called by its colour
        return (words[-1],)
    return ()


def _is_keyword(tag: str) -> bool:
    return len(tag) >= KEYWORD_LETTERS and tag.replace(" ", "").replace("-", "").isalpha() and tag not in NO_KEYWORDS


def _is_counted(name: str, *, group: str) -> bool:
    """Whether "a" may stand before a name."""
    head = name.split(" with ")[0].split(" of ")[0].split(",")[0].split()[-1]
    plural = head.endswith("s") and not head.endswith(PLURALS_LIKE)
    mass = head in MASS_NOUNS and group not in {"people-body", "flags"}
    return not (plural or mass or name.startswith(PROPER) or name[0].isdigit())


def with_article(name: str) -> str:
    """The name after "a" or "an"."""
    vowel = name.startswith(VOWEL_SOUNDS) and not name.startswith(CONSONANT_SOUNDS)
    return f"{'an' if vowel else 'a'} {name}"


def caption(wording: Wording, style: str, draws: Sequence[float]) -> str:
    """One of the captions of a picture.

    Args:
        wording: of what it shows.
        style: its style word.
        draws: NUM_DRAWS numbers in [0, 1): whether any, which name, which of it, article, style, its place.

    Returns:
        Lower case; "" for the share that guidance needs.
    """
    empty, kind, which, article, styled, place = draws
    if empty < EMPTY_SHARE:
        return ""
    choices, counted = wording.names, wording.counted
    if wording.keywords and kind < KEYWORD_SHARE:
        choices, counted = wording.keywords, False
    elif wording.plain and kind < KEYWORD_SHARE + PLAIN_SHARE:
        choices = wording.plain
    name = choices[int(which * len(choices))]
    before = styled < STYLE_SHARE and place < 0.4
    if before:
        name = f"{style} {name}"
    if counted and article < ARTICLE_SHARE:
        name = with_article(name)
    if styled < STYLE_SHARE and not before:
        name = f"{name}, {style} style" if place > 0.85 else f"{name}, {style}"
    return name


def draw_captions(wordings: Sequence[Wording], style: Tensor, index: Tensor, generator: torch.Generator) -> list[str]:
    """Captions of the pictures at `index` (B,); always the same ones from the same state of the generator.

    Args:
        wordings: of all N pictures.
        style: (N,) index into STYLES.
        index: (B,) int64 in 0..N-1.
        generator: moved on by B * NUM_DRAWS numbers.
    """
    draws = torch.rand((len(index), NUM_DRAWS), generator=generator).tolist()
    return [caption(wordings[i], STYLES[style[i]], d) for i, d in zip(index.tolist(), draws, strict=True)]
