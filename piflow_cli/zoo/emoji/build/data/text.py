# Tokenizers and small text encoders of the embedded text-to-image teacher, of the classes that FLUX.1 has.
# B batch, T tokens.

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from piflow_cli.zoo.emoji.build.data.captions import Wording
from piflow_cli.zoo.emoji.build.data.pictures import STYLES

NUM_TOKENS = 16
"""Length to which both tokenizers pad; the pipeline is called with `max_sequence_length` of as many."""
CLIP_VOCAB, T5_VOCAB = 3000, 3000
CLIP_WIDTH, T5_WIDTH = 128, 192
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
NAME_SHARE = 4
"""How many times a name counts against a keyword where the vocabularies are chosen."""
PRINTABLE = [chr(code) for code in range(33, 127)]
SPACE = "▁"
SPACE_SCORE, LETTER_SCORE = -5.0, -25.0
"""Log-probabilities below those of words, so that a word is cut into letters only where there is no better way."""


def build_corpus(wordings: Iterable[Wording]) -> list[str]:
    """Texts from which the vocabularies are chosen: what every emoji is called, and the words around it."""
    texts: list[str] = []
    for wording in dict.fromkeys(wordings):
        texts += [*wording.names, *wording.plain] * NAME_SHARE + list(wording.keywords)
    return texts + ["a", "an", ", style", *STYLES] * len(texts)


def build_clip_tokenizer(corpus: list[str], vocab_size: int = CLIP_VOCAB) -> CLIPTokenizer:
    """Byte-pair encoding as CLIP's: every byte, inside and at the end of a word, the merges, start and end of text.

    Words that the corpus does not have are cut into pieces it has, down to bytes. Equal corpora give equal tokenizers:
    the learner breaks ties by the letters' numbers, which are given here and would else be drawn.
    """
    plain = CLIPTokenizer().backend_tokenizer  # CLIP's own normaliser and cutting into words
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    last_letters = [letter + END_OF_WORD for letter in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    learner.normalizer, learner.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        initial_alphabet=alphabet,
        special_tokens=last_letters,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *last_letters]
    merges = merges[: vocab_size - 2 - len(tokens)]
    tokens += [left + right for left, right in merges] + [START, END]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=NUM_TOKENS)


def build_t5_tokenizer(corpus: list[str], vocab_size: int = T5_VOCAB) -> T5TokenizerFast:
    """A unigram vocabulary as T5's, in lower case: the corpus's commonest words by their frequency, and every letter.

    Words that the corpus does not have are cut into a beginning that it has, if any, and letters.
    """
    counts = Counter(word.strip(",") for text in corpus for word in text.split())
    del counts[""]
    letters = [c for c in PRINTABLE if not c.isupper()]
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        (SPACE, SPACE_SCORE),
        *((c, LETTER_SCORE) for c in letters),
    ]
    common = [word for word, _ in counts.most_common(vocab_size - len(pieces))]
    pieces += [(SPACE + word, math.log(counts[word] / counts.total())) for word in common]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Precompiled(lower_case_map())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(tokenizer_object=backend, extra_ids=0, model_max_length=NUM_TOKENS)


def lower_case_map() -> bytes:
    """A SentencePiece character map from A..Z to a..z, the one kind of normaliser that T5's class keeps when it loads.

    Its trie is a double array: a letter's unit is at ROOT ^ letter and says by which xor its leaf is reached; the leaf
    holds the place of the replacement in a list of texts that end with a zero byte.
    """
    root, first_leaf, has_leaf = 256, 512, 1 << 8
    units = [0] * 1024
    units[0] = root << 10
    letters = range(ord("A"), ord("Z") + 1)
    for number, letter in enumerate(letters):
        leaf = first_leaf + number
        units[root ^ letter] = ((root ^ letter ^ leaf) << 10) | has_leaf | letter
        units[leaf] = 2 * number  # each replacement takes a letter and a zero
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + b"".join(chr(c).lower().encode() + b"\0" for c in letters)


def build_clip_encoder(tokenizer: CLIPTokenizer, width: int = CLIP_WIDTH) -> CLIPTextModel:
    """A fresh two-layer CLIP text encoder, of which the pooled embedding is used."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=NUM_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_t5_encoder(tokenizer: T5TokenizerFast, width: int = T5_WIDTH) -> T5EncoderModel:
    """A fresh two-layer T5 encoder, of which every token's embedding is used."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=width // 4,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=NUM_TOKENS,
            relative_attention_max_distance=NUM_TOKENS,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer | T5TokenizerFast, texts: Sequence[str]) -> Tensor:
    """Token numbers (B, T) as the pipeline makes them: padded and cut to T = NUM_TOKENS."""
    settings = {"padding": "max_length", "max_length": NUM_TOKENS, "truncation": True}
    return tokenizer(list(texts), return_tensors="pt", **settings).input_ids


def encode(clip: nn.Module, t5: nn.Module, clip_ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the transformer is conditioned on, as the pipeline makes it: T5's (B, T, D) and CLIP's pooled (B, P)."""
    return t5(t5_ids)[0], clip(clip_ids, output_hidden_states=False).pooler_output
