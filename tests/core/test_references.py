"""Encoded reference pictures slice, pad, join and go with the negative prompt, whatever their numbers and sizes."""

from dataclasses import replace

import pytest
import torch

from piflow_cli.core.conditions import Embeddings, References, Sizes, TextCondition, join_conditions

ONE, TWO = ((2, 3),), ((2, 2), (1, 3))
"""6 and 7 tokens."""


def about(*sizes: Sizes, seed: int = 0, negative: bool = False) -> TextCondition:
    """Prompts about pictures of some sizes, zeros beyond their tokens."""
    generator, batch = torch.Generator().manual_seed(seed), len(sizes)
    counts = torch.tensor([sum(rows * columns for rows, columns in row) for row in sizes])
    tokens = torch.randn(batch, int(counts.max()), 5, generator=generator)
    tokens *= (torch.arange(tokens.shape[1]) < counts[:, None])[..., None]
    against = Embeddings(torch.randn(batch, 4, 6, generator=generator)) if negative else None
    embeds = torch.randn(batch, 3, 6, generator=generator)
    return TextCondition(embeds, references=References(tokens, tuple(sizes), against))


def test_rows_come_out_of_a_batch_as_they_went_in() -> None:
    parts = [about(ONE, seed=1), about(TWO, seed=2), TextCondition(torch.ones(1, 3, 6))]
    joined = join_conditions(parts)
    assert joined.references.tokens.shape == (3, 7, 5)
    assert joined.references.sizes == (ONE, TWO, ())
    for row, part in zip(joined.rows()[:2], parts, strict=False):
        assert torch.equal(row.references.tokens, part.references.tokens)
        assert row.references.sizes == part.references.sizes
    assert joined.rows()[2].references.tokens.shape == (1, 0, 5)


def test_rows_are_picked_with_their_sizes() -> None:
    joined = join_conditions([about(ONE), about(TWO), about(ONE)])
    assert joined[1:].references.sizes == (TWO, ONE)
    assert joined[torch.tensor([2, 0])].references.sizes == (ONE, ONE)
    assert joined[torch.tensor([False, True, False])].references.sizes == (TWO,)
    assert joined.references.groups() == [[0, 2], [1]]
    tokens, sizes = joined[torch.tensor([0, 2])].references.of_one_layout()
    assert (tokens.shape, sizes) == ((2, 6, 5), ONE)
    expanded = about(TWO)[:1].expand(4)
    assert expanded.references.sizes == (TWO,) * 4
    assert expanded.references.tokens.shape == (4, 7, 5)


def test_all_that_is_held_moves_and_is_cast() -> None:
    whole = about(ONE, ONE, negative=True)
    assert {tensor.dtype for tensor in whole.cast(torch.bfloat16).tensors()} == {torch.bfloat16}
    assert len(list(whole.tensors())) == 3


def test_the_negative_prompt_is_about_the_same_pictures() -> None:
    joined = join_conditions([about(ONE, seed=1), about(TWO, seed=2), about(ONE, seed=3)])
    null = TextCondition(torch.zeros(1, 2, 6))
    against = joined.against(null.expand, [2, 1])
    assert against.references.sizes == (ONE, TWO)
    assert torch.equal(against.references.tokens, joined.references.tokens[[2, 1]])
    assert torch.equal(against.embeds, torch.zeros(2, 2, 6))
    assert torch.equal(TextCondition(torch.ones(3, 2, 6)).against(null.expand, [0, 1]).embeds, torch.zeros(2, 2, 6))


def test_where_the_encoder_sees_the_pictures_the_negative_prompt_is_of_each() -> None:
    joined = join_conditions([about(ONE, seed=1, negative=True), about(TWO, seed=2, negative=True)])
    against = joined.against(lambda _count: pytest.fail("asked for one without pictures"), [1])
    assert torch.equal(against.embeds, joined.references.negative.embeds[1:])
    assert against.references.sizes == (TWO,)


def test_conditions_with_and_without_such_negatives_are_not_joined() -> None:
    with pytest.raises(ValueError, match="different kinds"):
        join_conditions([about(ONE, negative=True), about(ONE)])
    with pytest.raises(ValueError, match="different kinds"):
        join_conditions([about(ONE, negative=True), replace(about(ONE), references=None)])
