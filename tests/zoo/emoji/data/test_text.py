"""The tokenizers know the captions' words, cut others into pieces, and load as a pipeline loads them."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from piflow_cli.zoo.emoji.build.data.captions import Wording
from piflow_cli.zoo.emoji.build.data.text import (
    NUM_TOKENS,
    build_clip_encoder,
    build_clip_tokenizer,
    build_corpus,
    build_t5_encoder,
    build_t5_tokenizer,
    encode,
    tokenize,
)

WORDINGS = [
    Wording(("cat face",), ("cat",), ("kitten",), True),
    Wording(("woman astronaut, medium-dark skin tone",), (), ("rocket",), True),
    Wording(("flag of france", "france flag"), (), (), True),
]
Tokenizers = dict[str, CLIPTokenizer | T5TokenizerFast]


@pytest.fixture(scope="module")
def fresh() -> Tokenizers:
    corpus = build_corpus(WORDINGS)
    return {"clip": build_clip_tokenizer(corpus), "t5": build_t5_tokenizer(corpus)}


@pytest.fixture(scope="module")
def loaded(fresh: Tokenizers, tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, tokenizer in fresh.items():
        tokenizer.save_pretrained(folder / name)
    return {
        "clip": CLIPTokenizer.from_pretrained(folder / "clip"),
        "t5": T5TokenizerFast.from_pretrained(folder / "t5"),
    }


@pytest.mark.parametrize("name", ["clip", "t5"])
@pytest.mark.parametrize("text", ["a cat face, 3d", "A Cat FACE", "zebra crossing", "", "flat cats 123!", "naïve 猫"])
def test_loading_changes_nothing(fresh: Tokenizers, loaded: Tokenizers, name: str, text: str) -> None:
    assert fresh[name](text).input_ids == loaded[name](text).input_ids
    assert loaded[name].model_max_length == NUM_TOKENS


def test_the_same_corpus_gives_the_same_tokenizer() -> None:
    letters = "abcdefgh"
    corpus = [a + b + c for a in letters for b in letters for c in letters]  # every pair is as common as the next
    vocabularies = [build_clip_tokenizer(corpus, 700).get_vocab() for _ in range(3)]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]


@pytest.mark.parametrize("name", ["clip", "t5"])
def test_case_does_not_matter(loaded: Tokenizers, name: str) -> None:
    assert loaded[name]("A Cat FACE").input_ids == loaded[name]("a cat face").input_ids


def test_words_of_captions_are_tokens(loaded: Tokenizers) -> None:
    def tokens(name: str, text: str) -> list[str]:
        return loaded[name].convert_ids_to_tokens(loaded[name](text).input_ids)

    assert tokens("clip", "a cat face, flat")[1:-1] == ["a</w>", "cat</w>", "face</w>", ",</w>", "flat</w>"]
    assert tokens("t5", "a cat face, 3d") == ["▁a", "▁cat", "▁face", ",", "▁3d", "</s>"]


@pytest.mark.parametrize("name", ["clip", "t5"])
def test_unknown_words_keep_their_letters(loaded: Tokenizers, name: str) -> None:
    tokenizer = loaded[name]
    ids = tokenizer("zebra").input_ids
    assert tokenizer.unk_token_id not in ids[: -1 if name == "clip" else None]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zebra"
    assert tokenizer("zebra").input_ids != tokenizer("quokka").input_ids


def test_ends_of_words_are_never_the_end_of_text(loaded: Tokenizers) -> None:
    tokenizer = loaded["clip"]
    for text in ("q", "quiz", "~", "é", "猫", "0"):
        ids = tokenizer(text).input_ids
        assert ids.count(tokenizer.eos_token_id) == 1, text


def test_encoders_read_what_the_tokenizers_write(loaded: Tokenizers, tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip, t5 = build_clip_encoder(loaded["clip"], width=16).eval(), build_t5_encoder(loaded["t5"], width=16).eval()
    texts = ["a cat", "", "woman astronaut, medium-dark skin tone, flat style and much more than fits into it"]
    ids = tokenize(loaded["clip"], texts), tokenize(loaded["t5"], texts)
    assert ids[0].shape == ids[1].shape == (3, NUM_TOKENS)
    with torch.no_grad():
        embeds, pooled = encode(clip, t5, *ids)
        clip.save_pretrained(tmp_path / "clip")
        t5.save_pretrained(tmp_path / "t5")
        again = encode(
            CLIPTextModel.from_pretrained(tmp_path / "clip").eval(),
            T5EncoderModel.from_pretrained(tmp_path / "t5").eval(),
            *ids,
        )
    assert embeds.shape == (3, NUM_TOKENS, 16)
    assert pooled.shape == (3, 16)
    assert torch.equal(embeds, again[0])
    assert torch.equal(pooled, again[1])
    assert not torch.equal(pooled[0], pooled[1])
