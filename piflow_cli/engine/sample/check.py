"""What is refused of any request to draw before anything is loaded: prompts, seeds and counts."""

from __future__ import annotations

from collections.abc import Sequence

from piflow_cli.core.settings import MAX_SEED
from piflow_cli.data.asked import Asked
from piflow_cli.errors import DataError

MAX_PICTURES = 1_000_000
MAX_PROMPT = 100_000
"""Characters of a prompt."""


def check_request(
    asked: Sequence[Asked], *, num_images: int, seed: int, seeds: Sequence[int] | None, batch_size: int | None
) -> None:
    """Raise DataError for a prompt, a seed or a count that no model could be asked for."""
    if not asked:
        raise DataError("no prompt was given")
    for item in asked:
        check_prompt(item.prompt)
    counts = {"num_images": num_images, "batch_size": 1 if batch_size is None else batch_size}
    for name, value in counts.items():
        if not 1 <= value <= MAX_PICTURES:
            raise DataError(f"{name} is {shown(value)}; it must be at least 1, and at most {MAX_PICTURES:,}")
    if seeds is not None and not len(seeds):
        raise DataError("no seed was given")
    own = [item.seed for item in asked if item.seed is not None]
    if own and seeds is not None:
        raise DataError("the prompts bring seeds of their own; leave out the list of seeds")
    last = num_images - 1 if seeds is None else 0
    for value in [*([seed] if seeds is None else seeds), *own]:
        if not 0 <= value <= MAX_SEED - last:
            raise DataError(f"seed is {shown(value)}; it must be at least 0, and the last one at most 2^64 - 1")
    number = len(asked) * (num_images if seeds is None else len(seeds))
    if number > MAX_PICTURES:
        raise DataError(f"{number:,} pictures are asked for; one command draws at most {MAX_PICTURES:,}")


def check_pictures(counts: Sequence[int], allowed: tuple[int, int], *, name: str, how: str = "--image FILE") -> None:
    """Raise DataError where prompts have more or fewer reference pictures than a model takes.

    Args:
        counts: reference pictures of each prompt.
        allowed: the fewest and the most.
        name: of the model.
        how: they are given.
    """
    fewest, most = allowed
    if most == 0 and any(counts):
        raise DataError(
            f"{name} draws from prompts alone and takes no reference pictures ({how}): leave them out, or "
            "take a model that edits, such as one of FLUX.2"
        )
    for count in counts:
        if not fewest <= count <= most:
            wanted = f"{fewest} to {most} reference pictures" if fewest < most else f"{most} reference picture"
            had = f"{count} are given" if count else f"none is given: pass {how}"
            raise DataError(f"{name} takes {wanted} of a prompt, and {had}")


def check_prompt(prompt: str) -> None:
    """Raise DataError for a prompt that is empty, too long, or no text."""
    if not prompt.strip():
        raise DataError("the prompt is empty; say what to draw, or a class name or index for a class model")
    if len(prompt) > MAX_PROMPT:
        raise DataError(f"the prompt {prompt[:40]!r}... has {len(prompt):,} characters; the limit is {MAX_PROMPT:,}")
    if "\0" in prompt:
        raise DataError(f"the prompt {prompt[:40]!r} holds a NUL character; remove it")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"the prompt {prompt[:40]!r} is not UTF-8: it holds bytes, or halves of characters, that are no text"
        ) from None


def shown(number: int) -> str:
    """A number for a message: one of thousands of digits by its length."""
    return str(number) if abs(number) < 10**30 else "a number of more than 30 digits"
