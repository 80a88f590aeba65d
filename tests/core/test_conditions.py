"""Encoded prompts slice, pad and join as a whole, however many encoders they are of."""

from dataclasses import replace

import pytest
import torch

from piflow_cli.core.conditions import Embeddings, TextCondition, join_conditions


def condition(*lengths: int, seed: int = 0, guidance: float | None = None) -> TextCondition:
    """A prompt of two encoders, the second twice as long and of half the width."""
    generator = torch.Generator().manual_seed(seed)
    batch, longest = len(lengths), max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return TextCondition(
        embeds=torch.randn(batch, longest, 6, generator=generator),
        mask=mask if min(lengths) < longest else None,
        pooled=torch.randn(batch, 5, generator=generator),
        guidance=None if guidance is None else torch.full((batch,), guidance),
        further=(Embeddings(torch.randn(batch, 2 * longest, 3, generator=generator)),),
    )


def test_joining_pads_each_sequence_to_its_own_longest() -> None:
    parts = [condition(2, seed=1), condition(4, seed=2)]
    joined = join_conditions(parts)
    assert joined.embeds.shape == (2, 4, 6)
    assert joined.further[0].embeds.shape == (2, 8, 3)
    assert joined.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert joined.further[0].mask.sum(1).tolist() == [4, 8]
    for row, part in zip(joined.rows(), parts, strict=True):
        for ours, theirs in zip(row.sequences, part.sequences, strict=True):
            assert torch.equal(ours.embeds, theirs.embeds)


def test_every_sequence_is_sliced_expanded_and_cast() -> None:
    whole = condition(3, 3, guidance=2.0)
    assert torch.equal(whole[1:].further[0].embeds, whole.further[0].embeds[1:])
    assert whole[:1].expand(3).further[0].embeds.shape == (3, 6, 3)
    cast = whole.cast(torch.bfloat16)
    assert {tensor.dtype for tensor in cast.tensors()} == {torch.bfloat16}
    assert cast.guidance is None
    assert len(list(whole.tensors())) == 4


def test_conditions_of_different_encoders_are_not_joined() -> None:
    with pytest.raises(ValueError, match="different kinds"):
        join_conditions([condition(2), replace(condition(2), further=())])


def test_only_values_that_count_have_to_be_finite() -> None:
    broken = torch.tensor([[[1.0], [float("nan")]]])
    assert not Embeddings(broken).finite()
    assert Embeddings(broken, torch.tensor([[True, False]])).finite()
