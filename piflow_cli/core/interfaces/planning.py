"""What families say of themselves to whoever plans a run: counts, widths, and what was measured of their recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Strategy = Literal["one GPU", "DDP", "FSDP2"]


@dataclass(frozen=True)
class Part:
    """A part of a pipeline beside its transformer.

    Args:
        known_from: where the count is from, in words.
    """

    name: str
    parameters: int
    is_encoder: bool
    known_from: str


@dataclass(frozen=True)
class Conditioning:
    """What a teacher's network takes beside the latents.

    Args:
        text_tokens: of a prompt at most; 0 for class labels.
        text_width, pooled_width: of an embedded prompt; 0 where there is none.
        padded: whether every prompt is padded to `text_tokens`, and the padding attended to.
        embeds_guidance: whether the network takes the guidance scale as an input.
        picture_tokens: of a reference picture that the text encoder sees, in a prompt's embedding and in that of the
            negative prompt, which is then kept beside every prompt; 0 where it sees none.
    """

    text_tokens: int = 0
    text_width: int = 0
    pooled_width: int = 0
    padded: bool = False
    embeds_guidance: bool = False
    picture_tokens: int = 0


@dataclass(frozen=True)
class PromptFacts:
    """What is known of a preset's prompts without the hub.

    Args:
        number: how many; None where nothing says it.
        mean_characters: of a prompt; None where they are not on this machine.
    """

    number: int | None
    mean_characters: float | None


class MemoryCase(NamedTuple):
    """Memory that the authors of a recipe measured on a GPU."""

    strategy: Strategy
    gpus: int
    micro_batch_size: int
    bytes: int


class CacheCase(NamedTuple):
    """A cache of embeddings that the authors of a recipe made."""

    prompts: int
    bytes: int


@dataclass(frozen=True)
class Advice:
    """What a preset for a teacher should say of a key, as read off the teacher's files.

    Args:
        key: its path.
        value: None where the key is better left out.
        why: in words, for a comment.
    """

    key: str
    value: object | None
    why: str
