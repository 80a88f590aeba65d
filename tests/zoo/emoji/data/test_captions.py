"""Captions are what people would say, and always the same ones from the same seed."""

import pytest
import torch

from piflow_cli.zoo.emoji.build.data.captions import (
    NUM_DRAWS,
    caption,
    draw_captions,
    to_words,
    with_article,
    wording_of,
)
from piflow_cli.zoo.emoji.build.data.pictures import Emoji


def emoji(label: str, *tags: str, group: str = "objects") -> Emoji:
    return Emoji(key="1", base="1", label=label, tags=tags, group=group, subgroup="")


CAT = emoji("cat face", "animal", "cat", "face", "kitten", group="animals-nature")


def draws(*, empty=0.5, kind=0.99, which=0.0, article=0.9, styled=0.9, place=0.5) -> list[float]:
    return [empty, kind, which, article, styled, place]


@pytest.mark.parametrize(
    ("label", "group", "names"),
    [
        ("red heart", "smileys-emotion", ("red heart",)),
        ("woman astronaut: dark skin tone", "people-body", ("woman astronaut, dark skin tone",)),
        ("flag: Côte d’Ivoire", "flags", ("flag of cote d'ivoire", "cote d'ivoire flag")),
        ("keycap: 5", "symbols", ("keycap 5", "5 keycap")),
        ("man: beard", "people-body", ("man with beard", "man, beard")),
        ("woman: bald", "people-body", ("bald woman", "woman, bald")),
        (
            "woman: dark skin tone, curly hair",
            "people-body",
            ("woman with curly hair, dark skin tone", "woman, curly hair, dark skin tone"),
        ),
        ("family: man, woman, boy", "people-body", ("family of man, woman and boy", "family, man, woman, boy")),
        ("family: man, boy", "people-body", ("family of man and boy", "family, man, boy")),
        ("man running: facing right", "people-body", ("man running facing right",)),
        ("kiss: woman, man, light skin tone", "people-body", ("kiss, woman, man, light skin tone",)),
        ("Japanese “here” button", "symbols", ("japanese here button",)),
    ],
)
def test_names_are_natural(label: str, group: str, names: tuple[str, ...]) -> None:
    assert wording_of(emoji(label, group=group)).names == names


@pytest.mark.parametrize(
    ("label", "tags", "group", "plain"),
    [
        ("dog face", ("dog", "pet"), "animals-nature", ("dog",)),
        ("red apple", ("apple", "red"), "food-drink", ("apple",)),
        ("purple heart", ("heart", "purple"), "smileys-emotion", ("heart",)),
        ("hot dog", ("dog", "sausage"), "food-drink", ()),
        ("blue circle", ("blue", "circle"), "symbols", ()),
        ("pizza", ("cheese",), "food-drink", ()),
        ("grinning face", ("face", "grin"), "smileys-emotion", ()),
    ],
)
def test_plain_words(label: str, tags: tuple[str, ...], group: str, plain: tuple[str, ...]) -> None:
    assert wording_of(emoji(label, *tags, group=group)).plain == plain


def test_keywords_are_words_that_the_name_does_not_have() -> None:
    assert wording_of(CAT).keywords == ("animal", "kitten")
    assert wording_of(emoji("flag: France", "FR", "flag", group="flags")).keywords == ()
    assert wording_of(emoji("smiling face", "omg", "143", "happy")).keywords == ("happy",)


def test_captions_of_a_cat() -> None:
    wording = wording_of(CAT)
    assert caption(wording, "3d", draws()) == "cat face"
    assert caption(wording, "3d", draws(article=0.0)) == "a cat face"
    assert caption(wording, "3d", draws(article=0.0, styled=0.0)) == "a cat face, 3d"
    assert caption(wording, "flat", draws(styled=0.0, place=0.1)) == "flat cat face"
    assert caption(wording, "flat", draws(article=0.0, styled=0.0, place=0.1)) == "a flat cat face"
    assert caption(wording, "noto", draws(styled=0.0, place=0.9)) == "cat face, noto style"
    assert caption(wording, "noto", draws(kind=0.2, article=0.0)) == "a cat"
    assert caption(wording, "noto", draws(kind=0.0, which=0.99, article=0.0)) == "kitten"
    assert caption(wording, "noto", draws(empty=0.05)) == ""


def test_articles() -> None:
    assert with_article("apple") == "an apple"
    assert with_article("unicorn") == "a unicorn"
    assert with_article("one o'clock") == "a one o'clock"
    assert with_article("hourglass") == "an hourglass"
    counted = {"cat face": True, "grapes": False, "bus": True, "people holding hands": False, "cooked rice": False}
    assert {name: wording_of(emoji(name)).counted for name in counted} == counted


def test_words_are_plain() -> None:
    assert to_words("Curaçao & “São”") == "curacao and sao"


def test_captions_belong_to_the_seed() -> None:
    wordings = [wording_of(CAT), wording_of(emoji("red heart", "love"))]
    style, index = torch.tensor([2, 1]), torch.arange(2).repeat(200)

    def drawn(seed: int) -> list[str]:
        return draw_captions(wordings, style, index, torch.Generator().manual_seed(seed))

    first = drawn(0)
    assert first == drawn(0) != drawn(1)
    assert 0.05 < first.count("") / len(first) < 0.16
    assert not any("flat" in text for text in first[::2]), "a style word is of the picture's own style"
    assert any("3d" in text for text in first[::2])
    generator = torch.Generator().manual_seed(0)
    draw_captions(wordings, style, index, generator)
    other = torch.Generator().manual_seed(0)
    torch.rand((len(index), NUM_DRAWS), generator=other)
    assert torch.equal(generator.get_state(), other.get_state())
