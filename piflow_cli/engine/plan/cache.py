"""How large caches will be: embeddings (prompts x tokens x width x bytes x what coding leaves of them), and latents."""

from __future__ import annotations

from dataclasses import dataclass

from piflow_cli.core.interfaces import PromptFacts
from piflow_cli.data.embeddings.codec import BYTES
from piflow_cli.engine.plan.model import ModelFacts
from piflow_cli.preset import Preset

CODED_SHARE = 0.75
CODED_WORDS = "assumed: our Huffman codes leave 0.84 of Gaussian values, the published caches of real ones imply 0.68"
SCALE_BYTES = 4
"""A float32 scale a token under fp8."""
CHARACTERS_A_TOKEN = 4.5
"""English prose; other text has fewer."""
TEMPLATE_TOKENS = 5
"""What a chat template adds to a prompt and leaves in its embedding."""
LATENT_BYTES = 2
"""Of a number in the latents of pictures or videos, as data.latents keeps them."""
REFERENCE_BYTES = 2
"""Of a number in the latents of reference pictures, as caches keep them."""
NEGATIVE_TOKENS = TEMPLATE_TOKENS + 1
"""Of a negative prompt of a word or a blank, with its template."""
ASSUMED_TOKENS = 66
"""A captioning model's prompt with its template, where the prompts are not here to be measured."""


@dataclass(frozen=True)
class CacheEstimate:
    """A cache of embeddings.

    Args:
        prompts: how many; None where nothing says it.
        tokens: of a prompt as it is stored, on average.
        tokens_from: where that is from, in words.
        used: whether the preset names a cache (data.cache).
        reference_bytes: of the latents of a prompt's reference pictures.
    """

    prompts: int | None
    tokens: float
    tokens_from: str
    width: int
    pooled_width: int
    storage: str
    coded_share: float
    used: bool
    reference_bytes: int = 0

    @property
    def prompt_bytes(self) -> int:
        """One prompt: coded values, scales, and the pooled embedding in float32."""
        scales = SCALE_BYTES if self.storage == "fp8" else 0
        coded = self.tokens * self.width * BYTES[self.storage] * self.coded_share
        return int(coded + self.tokens * scales + 4 * self.pooled_width) + self.reference_bytes

    @property
    def total_bytes(self) -> int | None:
        """The whole cache."""
        return None if self.prompts is None else self.prompts * self.prompt_bytes

    @property
    def arithmetic(self) -> str:
        """How a prompt's bytes come about."""
        scales = f" + {self.tokens:.4g} x {SCALE_BYTES} of scales" if self.storage == "fp8" else ""
        pooled = f" + {self.pooled_width} x 4 pooled" if self.pooled_width else ""
        about = f" + {self.reference_bytes:,} of reference pictures" if self.reference_bytes else ""
        number = f"{BYTES[self.storage]} byte{'s' * (BYTES[self.storage] > 1)} of {self.storage}"
        return f"{self.tokens:.4g} tokens x {self.width:,} x {number} x {self.coded_share}{scales}{pooled}{about}"


@dataclass(frozen=True)
class LatentEstimate:
    """Latents of a preset's pictures or videos.

    Args:
        what: pictures or videos.
        number: how many with captions; None where nothing says it.
        channels, positions: of the latent of one.
        used: whether the preset keeps them (data.latents).
    """

    what: str
    number: int | None
    channels: int
    positions: int
    used: bool

    @property
    def item_bytes(self) -> int:
        """Of one."""
        return self.channels * self.positions * LATENT_BYTES

    @property
    def total_bytes(self) -> int | None:
        """Of all."""
        return None if self.number is None else self.number * self.item_bytes

    @property
    def arithmetic(self) -> str:
        """How the bytes of one come about."""
        return f"{self.channels} channels x {self.positions:,} positions x {LATENT_BYTES} bytes"


def estimate_latents(preset: Preset, facts: ModelFacts, prompts: PromptFacts | None) -> LatentEstimate | None:
    """The latents of a preset's pictures or videos, None where it has none to encode, or of several sizes."""
    if not (preset.data.encodes_pictures or preset.data.latents) or preset.data.sizes_px:
        return None
    return LatentEstimate(
        what="videos" if preset.teacher.num_frames > 1 else "pictures",
        number=prompts.number if prompts is not None else None,
        channels=facts.channels,
        positions=facts.image_tokens * facts.positions,
        used=preset.data.latents is not None,
    )


def estimate_cache(preset: Preset, facts: ModelFacts, prompts: PromptFacts | None) -> CacheEstimate | None:
    """The cache of a preset's prompts, None for teachers that take class labels."""
    if prompts is None or not facts.condition.text_width:
        return None
    return cache_of(preset, facts, prompts=prompts.number, characters=prompts.mean_characters)


def cache_of(
    preset: Preset, facts: ModelFacts, *, prompts: int | None, characters: float | None = None
) -> CacheEstimate:
    """The cache of some number of prompts.

    Args:
        prompts: how many.
        characters: mean length of a prompt, None where they are not here.
    """
    longest = facts.condition.text_tokens
    if facts.condition.padded:
        tokens, words = float(longest), f"every prompt is padded to {longest} tokens, and the padding is attended to"
    elif characters is None:
        tokens, words = float(min(ASSUMED_TOKENS, longest)), f"assumed, with {TEMPLATE_TOKENS} of the template"
    else:
        tokens = min(characters / CHARACTERS_A_TOKEN + TEMPLATE_TOKENS, longest)
        words = (
            f"the file's mean of {characters:.0f} characters at {CHARACTERS_A_TOKEN} a token, and {TEMPLATE_TOKENS} "
            "of the template"
        )
    if seen := facts.references * facts.condition.picture_tokens:
        words = (
            f"{words}; {seen} of its pictures; and {NEGATIVE_TOKENS + seen} of the negative prompt with these, by a "
            "prompt of few words"
        )
        tokens += seen + NEGATIVE_TOKENS + seen
    return CacheEstimate(
        prompts=prompts,
        tokens=tokens,
        tokens_from=words,
        width=facts.condition.text_width,
        pooled_width=facts.condition.pooled_width,
        storage=preset.data.cache_storage,
        coded_share=CODED_SHARE,
        used=preset.data.cache is not None,
        reference_bytes=facts.reference_tokens * facts.positions * facts.channels * REFERENCE_BYTES,
    )
