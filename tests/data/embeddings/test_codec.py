"""What is stored comes back: bitwise in bfloat16, within half a step of float8 in fp8.

Shapes: T tokens, D embedding width, P pooled width.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from piflow_cli.core.conditions import Embeddings, TextCondition
from piflow_cli.data.embeddings.codec import FP8_MAX, MIN_SCALE, Storage, pack, quantise, read_row, shard_tensors


def round_trip(
    path: Path, condition: TextCondition, storage: Storage, dtype: torch.dtype = torch.float32
) -> list[TextCondition]:
    save_file(shard_tensors(pack(condition, storage)), path)
    widths = [item.embeds.shape[2] for item in condition.sequences]
    return [read_row(path, row, storage=storage, widths=widths, dtype=dtype) for row in range(len(condition))]


def random_condition(*, batch: int = 3, tokens: int = 6, width: int = 40, mask: bool = True) -> TextCondition:
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(batch, tokens, width, generator=generator) * 10.0 ** torch.randint(
        -4, 4, (batch, tokens, 1), generator=generator
    )
    lengths = torch.arange(batch) % tokens + 1
    return TextCondition(
        embeds=embeds.bfloat16(),
        mask=torch.arange(tokens) < lengths[:, None] if mask else None,
        pooled=torch.randn(batch, 7, generator=generator),
    )


@pytest.mark.parametrize("mask", [False, True])
def test_bf16_is_bitwise_and_keeps_no_padding(tmp_path: Path, mask: bool) -> None:
    condition = random_condition(mask=mask)
    for stored, original in zip(
        round_trip(tmp_path / "s", condition, "bf16", torch.bfloat16), condition.rows(), strict=True
    ):
        assert stored.embeds.dtype == torch.bfloat16
        assert torch.equal(stored.embeds.view(torch.int16), original.embeds.view(torch.int16))
        assert (stored.mask is None) == (not mask)
        assert mask is False or torch.equal(stored.mask, original.mask)
        assert stored.guidance is None


def test_bf16_keeps_every_finite_bit_pattern(tmp_path: Path) -> None:
    patterns = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    patterns = torch.where(patterns.isfinite(), patterns, 0).reshape(1, 256, 256)
    (stored,) = round_trip(tmp_path / "s", TextCondition(patterns), "bf16", torch.bfloat16)
    assert torch.equal(stored.embeds.view(torch.int16), patterns.view(torch.int16))


def test_pooled_embeddings_are_exact(tmp_path: Path) -> None:
    condition = random_condition()
    for row, stored in enumerate(round_trip(tmp_path / "s", condition, "fp8")):
        assert torch.equal(stored.pooled, condition.pooled[row : row + 1])


def test_every_encoder_keeps_a_length_and_a_width_of_its_own(tmp_path: Path) -> None:
    second, third = random_condition(tokens=9, width=16), random_condition(tokens=4, width=8, mask=False)
    further = (Embeddings(second.embeds, second.mask), Embeddings(third.embeds))
    condition = replace(random_condition(), further=further)
    rows = round_trip(tmp_path / "s", condition, "bf16", torch.bfloat16)
    for stored, original in zip(rows, condition.rows(), strict=True):
        assert len(stored.further) == 2
        for ours, theirs in zip(stored.sequences, original.sequences, strict=True):
            assert torch.equal(ours.embeds, theirs.embeds)
            assert (ours.mask is None) == (theirs.mask is None)
            assert ours.mask is None or torch.equal(ours.mask, theirs.mask)


def test_a_mask_with_holes_comes_back(tmp_path: Path) -> None:
    mask = torch.tensor([[True, False, True, False], [False, True, False, False]])
    condition = TextCondition(torch.randn(2, 4, 8), mask)
    first, second = round_trip(tmp_path / "s", condition, "fp8")
    assert first.mask.tolist() == [[True, False, True]]
    assert second.mask.tolist() == [[False, True]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_is_within_half_a_step(tmp_path: Path, dtype: torch.dtype) -> None:
    condition = random_condition(batch=4, tokens=50, width=200, mask=False)
    slack = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-22  # the rounding of what is returned, and of the division
    for stored, original in zip(round_trip(tmp_path / "s", condition, "fp8", dtype), condition.rows(), strict=True):
        x = original.embeds.double()
        scale = x.abs().amax(dim=-1, keepdim=True) / FP8_MAX
        bound = torch.maximum(x.abs() * 2**-4, scale * 2**-10) + x.abs() * slack
        assert ((stored.embeds.double() - x).abs() <= bound).all()


def test_an_outlier_costs_other_tokens_nothing() -> None:
    embeds = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    spoilt = embeds.clone()
    spoilt[2, 7] = 1e6
    values, scales = quantise(spoilt)
    others = torch.tensor([0, 1, 3, 4])
    before, scales_before = quantise(embeds)
    assert torch.equal(values.view(torch.uint8)[others], before.view(torch.uint8)[others])
    assert torch.equal(scales[others], scales_before[others])


@pytest.mark.parametrize("value", [0.0, 1e-38, 1.17e-38, 3e38])
def test_extremes_stay_finite(value: float) -> None:
    values, scales = quantise(torch.full((1, 8), value))
    back = values.float() * scales[:, None]
    assert torch.isfinite(back).all()
    assert ((back - value).abs() <= max(value * 2**-4, MIN_SCALE)).all()


def test_codes_are_smaller_than_what_they_code() -> None:
    embeds = torch.randn(1, 64, 1024, generator=torch.Generator().manual_seed(2))
    for storage, size in (("fp8", 1), ("bf16", 2)):
        (row,) = pack(TextCondition(embeds), storage)
        assert len(row.sequences[0].data) < 0.88 * size * embeds.numel()
