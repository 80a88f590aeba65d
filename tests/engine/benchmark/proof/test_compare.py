"""Two benchmarks side by side: protocols, pairing, directions, and files that say less."""

import json
import math
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from piflow_cli.engine.benchmark.proof.compare import Comparison, Difference, Table, compare, read_table
from piflow_cli.errors import DataError
from piflow_cli.metrics.intervals.jackknife import half_width

PROTOCOL = {
    "samples": 100,
    "seed": 0,
    "asked for": "10 classes in turn",
    "dtype": ["float32"],
    "detectors": {"digits-cnn": "weights 1"},
    "references": {"fid": "abc"},
    "groups": {},
    "versions": {"piflow": "1", "torch": "2"},
}
NOISE = torch.randn(20, generator=torch.Generator().manual_seed(0)).tolist()


def made(fid: float, *, model: str = "student", nfe: int = 1, scale: float = 1.0, **others: Any) -> dict[str, Any]:
    """A row whose FID moves with what part of the pictures is left out."""
    without = [fid + 0.01 * scale * noise for noise in NOISE]
    half = half_width(without)
    row = {"model": model, "kind": "student", "method": "gmflow", "nfe": nfe, "scores": {"fid": fid}, "steps": nfe}
    return row | {"intervals": {"fid": [fid - half, fid + half]}, "without": {"fid": without}} | others


def table(*rows: dict[str, Any], **protocol: Any) -> Table:
    said = {"rows": list(rows), "titles": {"fid": "FID"}, "better": {"fid": "lower"}}
    return Table.model_validate(said | {"protocol": deepcopy(PROTOCOL) | protocol, "fingerprint": "f"})


def only(found: Comparison) -> Difference:
    (difference,) = found.differences
    return difference


def test_same_noise_is_paired_and_other_noise_is_not() -> None:
    """Two rows that move alike: their difference is sure where they share the noise, and only there."""
    first, second = made(2.0), made(1.95, scale=1.1)
    paired = only(compare(table(first), table(second)))
    assert (paired.paired, paired.verdict) == (True, "better")
    assert paired.half == pytest.approx(0.1 * half_width(first["without"]["fid"]), rel=1e-6)
    for change in ({"seed": 1}, {"asked for": "others"}):
        apart = compare(table(first), table(second, **change))
        assert (only(apart).paired, apart.same_protocol, list(apart.differing)) == (False, False, list(change))
    halves = [half_width(row["without"]["fid"]) for row in (first, second)]
    seeds = only(compare(table(first), table(second, seed=1)))
    assert seeds.half == pytest.approx(math.hypot(*halves))
    assert seeds.verdict == "within noise"


def test_direction_is_the_metrics() -> None:
    assert only(compare(table(made(1.0)), table(made(2.0)))).verdict == "worse"
    higher = table(made(1.0)).model_copy(update={"better": {"fid": "higher"}})
    assert only(compare(higher, table(made(2.0)))).verdict == "better"
    closed = {"gap_closed": 0.5, "intervals": {"gap_closed": [0.45, 0.55]}, "without": {}, "scores": {}}
    more = closed | {"gap_closed": 0.9, "intervals": {"gap_closed": [0.85, 0.95]}}
    assert only(compare(table(made(1.0, **closed)), table(made(1.0, **more)))).verdict == "better"


@pytest.mark.parametrize(
    ("part", "value", "verdict"),
    [
        ("samples", 200, "does not compare"),
        ("asked for", "100 prompts 1", "does not compare"),
        ("detectors", {"digits-cnn": "weights 2"}, "does not compare"),
        ("references", {"fid": "abd"}, "does not compare"),
        ("detectors", {"digits-cnn": "weights 1", "clip": "by its name"}, "better"),
        ("references", {"fid": "abc", "cmmd": "1"}, "better"),
        ("versions", {"piflow": "1", "torch": "3"}, "better"),
        ("dtype", ["bfloat16"], "better"),
    ],
)
def test_what_was_measured_otherwise_does_not_compare(part: str, value: Any, verdict: str) -> None:
    found = compare(table(made(2.0)), table(made(1.0), **{part: value}))
    assert found.differing == {part: (PROTOCOL[part], value)}
    assert only(found).verdict == verdict


def test_another_detectors_score_does_not_compare() -> None:
    other = table(made(1.0)).model_copy(update={"titles": {"fid": "digits-FID (not Inception)"}})
    assert only(compare(table(made(2.0)), other)).verdict == "does not compare"


def test_files_that_say_less() -> None:
    """Of an older version, or measured without intervals."""
    bare = made(1.0, intervals={}, without={})
    old = Table.model_validate({"rows": [bare], "titles": {"fid": "FID"}, "better": {"fid": "lower"}})
    found = compare(table(made(2.0)), old)
    assert (found.same_protocol, found.differing) == (None, {})
    assert (only(found).half, only(found).verdict) == (None, "no interval")
    ends = made(1.0, without={})
    assert only(compare(table(made(2.0)), table(ends))).paired is False


def test_rows_belong_together_by_name_or_as_the_only_ones_of_their_kind() -> None:
    first = table(made(1.0), made(2.0, nfe=2), made(3.0, model="gone", nfe=4), made(3.0, model="a", nfe=8))
    second = table(
        made(1.0), made(2.0, model="renamed", nfe=2), made(3.0, model="b", nfe=8), made(3.0, model="c", nfe=8)
    )
    found = compare(first, second)
    assert [difference.row for difference in found.differences] == [
        "student gmflow 1 NFE",
        "student gmflow 2 NFE / renamed",
    ]
    assert found.only_first == ("gone gmflow 4 NFE", "a gmflow 8 NFE")
    assert found.only_second == ("b gmflow 8 NFE", "c gmflow 8 NFE")
    told = json.loads(found.to_json())
    assert told["differences"][0]["verdict"] == "within noise"


def test_what_one_file_alone_says_is_named() -> None:
    """A score or a distance that the other file lacks, of rows that both have; and doubts of either."""
    more = made(1.0, scores={"fid": 1.0, "accuracy": 0.9}, paired_error=0.2)
    wide = {"rows": [more], "titles": {"fid": "FID", "accuracy": "accuracy"}, "doubts": ["FID of 2 pictures"]}
    first = Table.model_validate(wide | {"better": {"fid": "lower", "accuracy": "higher"}})
    found = compare(first, table(made(1.0, gap_closed=0.5)))
    assert only(found).name == "fid"
    assert (found.numbers_first, found.numbers_second) == (("accuracy", "paired_error"), ("gap_closed",))
    assert (found.doubts_first, found.doubts_second) == (("FID of 2 pictures",), ())


FILE = {"rows": [made(1.0)], "titles": {"fid": "FID"}, "better": {"fid": "lower"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"better": {}}, "better.fid is missing or wrong"),
        ({"titles": {}, "better": {"kid": "lower"}}, "titles.fid, better.fid are missing or wrong"),
        ({"better": {"fid": "sideways"}}, "better.fid is missing or wrong"),
        ({"rows": [made(1.0, scores={"fid": math.nan})]}, "rows.0.scores.fid is missing or wrong"),
        ({"rows": [made(1.0, intervals={"fid": [0.0, math.inf]})]}, "rows.0.intervals.fid.1 is missing or wrong"),
    ],
)
def test_scores_that_nobody_can_judge_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """A verdict of better or worse needs a number and a direction: none is made up."""
    (tmp_path / "a.json").write_text(json.dumps(FILE))
    assert read_table(tmp_path / "a.json").rows[0].scores == {"fid": 1.0}
    (tmp_path / "b.json").write_text(json.dumps(FILE | change))
    with pytest.raises(DataError, match=re.escape(said)):
        read_table(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no benchmark"),
        ("[]", "the whole is missing or wrong"),
        ('{"rows": [{}]}', r"rows\.0\.model, .* and \d+ others are missing or wrong"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read_table(tmp_path / "a.json")
    with pytest.raises(DataError, match="No such file"):
        read_table(tmp_path / "none.json")
