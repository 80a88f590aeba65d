"""What benchmarks ask for: the same subjects in the same order, however they are batched and whoever answers."""

from pathlib import Path

import pytest
import torch
from tiny_models import DIGIT_NAMES, save_teacher, tiny_flux, tiny_qwen
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.data.files.prompts import PromptSet
from piflow_cli.data.prompt_lists import PromptList
from piflow_cli.engine.benchmark import questions
from piflow_cli.engine.benchmark.questions import Classes, Prompts, Questions
from piflow_cli.metrics.metric import Groups
from piflow_cli.teachers.dit.family import DiT
from piflow_cli.teachers.text.space import TextSpace

TEXTS = ["a cat", "a red cat and a dog", "a dog", "a cat", "dog"]
TEACHERS = {"flux": tiny_flux, "qwen": tiny_qwen}


@pytest.fixture(scope="module", params=TEACHERS)
def space(request: pytest.FixtureRequest) -> TextSpace:
    return TEACHERS[request.param]().load_space()


def prompts(space: TextSpace, labels: tuple[int, ...] | None = None) -> Prompts:
    return Prompts(PromptList("list", PromptSet.pack(TEXTS), labels), space)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch, space: TextSpace) -> list[str]:
    """Every prompt that is encoded, in order."""
    seen: list[str] = []
    encode = space.encode_prompts

    def spy(texts: list[str]) -> TextCondition:
        seen.extend(texts)
        return encode(texts)

    monkeypatch.setattr(space, "encode_prompts", spy)
    return seen


def same(one: TextCondition, other: TextCondition) -> None:
    """Equal where there are tokens; padding may be of any length."""
    for a, b in zip(one.rows(), other.rows(), strict=True):
        torch.testing.assert_close(a.embeds, b.embeds)
        for name in ("pooled", "guidance"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            if x is not None:
                torch.testing.assert_close(x, y)


def test_classes_are_balanced_and_their_own_labels(tmp_path: Path) -> None:
    teacher = DiT(source=str(save_teacher(tmp_path / "t", labels=DIGIT_NAMES, in_channels=1, out_channels=1))).load()
    asked = Questions.in_turn(Classes(10), 5000)
    assert len(asked) == 5000
    assert torch.bincount(asked.labels).tolist() == [500] * 10
    assert Questions.in_turn(Classes(10), 12).labels.tolist() == [*range(10), 0, 1]
    assert asked.condition(teacher.space, 8, 12).tolist() == [8, 9, 0, 1]
    assert asked.subjects.name is None


def test_groups_of_classes_are_all_classes_where_there_are_few() -> None:
    asked = Questions.grouped(Classes(10), Groups(num_groups=64, group_size=8))
    assert asked.numbers.tolist() == [number for number in range(10) for _ in range(8)]
    assert len(Questions.grouped(Classes(1000), Groups(num_groups=64, group_size=8))) == 512


def test_prompts_go_round_with_their_labels(space: TextSpace) -> None:
    asked = Questions.in_turn(prompts(space, (4, 5, 6, 4, 6)), 7)
    assert asked.labels.tolist() == [4, 5, 6, 4, 6, 4, 5]
    assert Questions.in_turn(prompts(space), 7).labels is None


def test_groups_of_prompts_are_the_first_different_ones(space: TextSpace) -> None:
    asked = Questions.grouped(prompts(space), Groups(num_groups=3, group_size=2))
    assert asked.numbers.tolist() == [0, 0, 1, 1, 2, 2]
    assert Questions.grouped(prompts(space), Groups(num_groups=9, group_size=1)).numbers.tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_what_is_asked_is_the_prompt_encoded_alone_whatever_the_batch(space: TextSpace, batch_size: int) -> None:
    asked = Questions.in_turn(prompts(space), 7)
    for start in range(0, 7, batch_size):
        stop = min(start + batch_size, 7)
        condition = asked.condition(space, start, stop)
        assert len(condition) == stop - start
        alone = [space.encode_prompts([TEXTS[i % 5]]) for i in range(start, stop)]
        for row, expected in zip(condition.rows(), alone, strict=True):
            same(row, expected)


def test_every_prompt_is_encoded_once(space: TextSpace, encoded: list[str]) -> None:
    subjects = prompts(space)
    for _ in range(3):
        for start in (0, 2, 4):
            Questions.in_turn(subjects, 6).condition(space, start, start + 2)
    Questions.grouped(subjects, Groups(num_groups=4, group_size=3)).condition(space, 0, 12)
    assert encoded == TEXTS


def test_prompts_beyond_the_room_are_encoded_again_and_are_the_same(
    space: TextSpace, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "ENCODED_AT_ONCE", 2)
    asked = Questions.in_turn(prompts(space), 5)
    whole = asked.condition(space, 0, 5)
    monkeypatch.setattr(questions, "KEPT_BYTES", 0)
    tight = Questions.in_turn(prompts(space), 5)
    for _ in range(2):
        same(tight.condition(space, 0, 5), whole)
    assert encoded == TEXTS * 3
    assert not tight.subjects._kept


def test_many_prompts_are_encoded_in_batches(space: TextSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Questions.in_turn(prompts(space), 5).condition(space, 0, 5)
    sizes: list[int] = []
    encode = space.encode_prompts
    monkeypatch.setattr(questions, "ENCODED_AT_ONCE", 2)
    monkeypatch.setattr(space, "encode_prompts", lambda texts: sizes.append(len(texts)) or encode(texts))
    same(Questions.in_turn(prompts(space), 5).condition(space, 0, 5), whole)
    assert sizes == [2, 2, 1]


def test_a_prompt_is_encoded_with_the_same_others_whoever_asks(
    space: TextSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that processes that ask for every other batch get, bit for bit, what one that asks for all gets."""
    monkeypatch.setattr(questions, "ENCODED_AT_ONCE", 2)
    all_of_them, some = Questions.in_turn(prompts(space), 15), Questions.in_turn(prompts(space), 15)
    whole = [all_of_them.condition(space, start, start + 3) for start in range(0, 15, 3)]
    for batch in (1, 3):
        for one, other in zip(some.condition(space, 3 * batch, 3 * batch + 3).rows(), whole[batch].rows(), strict=True):
            assert torch.equal(one.embeds, other.embeds)


def test_each_space_gets_its_own_guidance_and_dtype() -> None:
    encoder = tiny_flux().load_space()
    other = tiny_flux(guidance_scale=1.25).load_space()
    other.dtype = torch.bfloat16
    asked = Questions.in_turn(prompts(encoder), 2)
    here, there = asked.condition(encoder, 0, 2), asked.condition(other, 0, 2)
    guidance: list[Tensor | None] = [here.guidance, there.guidance]
    assert [g.tolist() if g is not None else None for g in guidance] in ([[3.5] * 2, [1.25] * 2], [None, None])
    assert (here.embeds.dtype, there.embeds.dtype) == (torch.float32, torch.bfloat16)
