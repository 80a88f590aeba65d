"""What `piflow benchmark` prints: short headings, and below the table what its numbers depend on."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import run
from text_students import text_student
from tiny_detector import save_detector
from tiny_models import gmflow, tiny_flux

from piflow_cli.cli.benchmarking import table
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.benchmark.gauge import BenchmarkRow
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.students.save import save_student

STUDENT = BenchmarkRow(
    model="emoji-4nfe",
    kind="student",
    method="gmflow",
    steps=4,
    nfe=4,
    network_calls=4.0,
    shift=3.2,
    network_s=0.0123,
    policy_s=0.0011,
    scores={"fid": 12.345, "diversity": 7.891},
    fid_to_teacher=1.234,
    fid_ratio=1.0512,
    diversity_ratio=0.9123,
    gap_closed=0.874,
)
TEACHER = replace(
    STUDENT, model="zoo:emoji", kind="teacher", method="euler", steps=32, nfe=32, fid_to_teacher=None, fid_ratio=None,
    diversity_ratio=None, gap_closed=None, network_calls=64.0,
)  # fmt: skip
RESULT = BenchmarkResult(
    rows=(STUDENT, TEACHER),
    titles={"fid": "emoji-FID (not Inception)", "diversity": "emoji-diversity (not Inception)"},
    better={"fid": "lower", "diversity": "higher"},
    samples=5000,
    seed=0,
    reference="emoji",
    reference_samples=3000,
    detector="emoji-cnn",
    teacher_rows=("zoo:emoji euler 32 steps",),
    warnings=(),
    device="cpu",
    prompts="emoji",
    num_prompts=1200,
)


def words(line: str) -> str:
    """A line with single spaces."""
    return " ".join(line.split())


def test_table_fits_a_terminal_and_says_what_its_numbers_depend_on(capsys: pytest.CaptureFixture) -> None:
    table.print_result(RESULT)
    heading, _, student, teacher, *notes = capsys.readouterr().out.splitlines()
    assert words(heading) == "model method NFE FID* ↓ ratio diversity* ↑ ratio to teacher gap closed ms/pic policy"
    assert max(map(len, (heading, student, teacher, *notes))) <= 100
    assert words(student) == "emoji-4nfe gmflow 4 12.35 1.05 7.891 0.912 1.23 87% 13.4 8%"
    assert words(teacher) == "zoo:emoji euler 32 12.35 7.891 13.4 8%"
    detector, passes, compared, closed, last = notes
    assert detector == "* emoji-FID (not Inception), emoji-diversity (not Inception)"
    assert passes == "zoo:emoji: 2 passes through the network an evaluation, for guidance"
    assert "zoo:emoji euler 32 steps" in compared
    assert "gap closed: 0% is" in closed
    assert last == ("5000 pictures a row of 1200 prompts (emoji), detector emoji-cnn, reference emoji (3000), seed 0")


def test_doubts_are_said_below_the_table(capsys: pytest.CaptureFixture) -> None:
    table.print_result(replace(RESULT, doubts=("FID of 3 pictures is far too large",)))
    assert capsys.readouterr().out.splitlines()[-1] == "doubtful: FID of 3 pictures is far too large"


def test_numbers_have_as_many_digits_as_their_intervals_leave(capsys: pytest.CaptureFixture) -> None:
    intervals = {"fid": (12.123, 12.567), "fid_ratio": (1.04, 1.06), "gap_closed": (0.85, 0.9), "diversity": (0, 16)}
    row = replace(STUDENT, intervals=intervals)
    table.print_result(replace(RESULT, rows=(row, TEACHER), intervals="95%, by a jackknife of 20 parts"))
    lines = capsys.readouterr().out.splitlines()
    assert words(lines[2]) == "emoji-4nfe gmflow 4 12.3±0.2 1.051±0.010 8±8 0.912 1.23 87±3% 13.4 8%"
    assert any(line.startswith("intervals: 95%, by a jackknife of 20 parts") for line in lines)
    assert table.number(1.0, (1.0, 1.0), "{:.3g}") == "1"
    assert table.number(3e-8, (2e-8, 4e-8), "{:.3g}") == "3e-08±1e-08"


def test_arrows_become_words_where_stdout_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    assert "FID* (lower)" in [heading for heading, _ in table.columns_of(RESULT)]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert table.number(1.0, (0.5, 1.5), "{:.3g}") == "1.0+-0.5"


def test_columns_without_values_are_left_out(capsys: pytest.CaptureFixture) -> None:
    row = replace(TEACHER, scores={"fid": 2.0}, network_calls=32.0)
    bare = replace(RESULT, rows=(row,), titles={"fid": "FID"}, better={"fid": "lower"}, teacher_rows=(), prompts=None)
    table.print_result(bare)
    lines = capsys.readouterr().out.splitlines()
    assert words(lines[0]) == "model method NFE FID ↓ ms/pic policy"
    assert lines[3:] == ["5000 pictures a row, detector emoji-cnn, reference emoji (3000), seed 0"]
    table.print_result(replace(RESULT, rows=(replace(STUDENT, gap_closed=None), TEACHER)))
    assert "gap closed" not in capsys.readouterr().out


def test_stochasticity_has_a_column_where_a_student_has_any(capsys: pytest.CaptureFixture) -> None:
    table.print_result(replace(RESULT, rows=(STUDENT, replace(STUDENT, h=0.4), TEACHER)))
    heading, _, ode, stochastic, teacher, *notes = map(words, capsys.readouterr().out.splitlines())
    assert any(note.startswith("h: fresh noise between evaluations") for note in notes)
    assert heading.startswith("model method NFE h FID*")
    assert (ode.split()[3], stochastic.split()[3], teacher.split()[3]) == ("0", "0.4", "12.35")


def test_quantised_rows_say_what_changes_and_what_they_take(capsys: pytest.CaptureFixture) -> None:
    whole, scores = replace(STUDENT, weights_bytes=14_600_000), {"fid": 12.5, "diversity": 7.0}
    changes = {"fid": 0.155, "diversity": -0.891}
    row = replace(
        whole,
        quantization="torchao-int8",
        scores=scores,
        changes=changes,
        whole_error=0.026,
        weights_bytes=9_690_000,
        intervals={"fid_change": (0.055, 0.255)},
    )
    table.print_result(replace(RESULT, rows=(whole, row, TEACHER)))
    heading, _, unquantised, quantised, teacher, *notes = map(words, capsys.readouterr().out.splitlines())
    assert heading.startswith("model method NFE base FID* ↓ ratio change diversity* ↑ ratio change to whole to teacher")
    assert "MB ms/pic" in heading
    assert quantised.startswith(
        "emoji-4nfe gmflow 4 torchao-int8 12.5 1.05 0.15±0.10 7 0.912 -0.891 0.026 1.23 87% 9.69"
    )
    assert " whole " in unquantised
    assert " 14.6 " in unquantised
    assert " whole " in teacher
    assert any(note.startswith("change: of the score, to whole: distance to its picture") for note in notes)
    assert any(note.startswith("MB: the network's parameters as they are kept") for note in notes)


@pytest.mark.parametrize(("value", "code", "said"), [("0,x", 2, "numbers such as 0,0.5"), ("-1", 1, "h: ")])
def test_stochasticity_that_is_none_is_refused(value: str, code: int, said: str, tmp_path: Path) -> None:
    process = run("benchmark", "--metric", "fid", "--model", "digits-1nfe", "--h", value, cwd=tmp_path)
    assert process.returncode == code
    assert said in " ".join(process.stderr.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image student, prompts, real pictures and a detector."""
    from PIL import Image

    root = tmp_path_factory.mktemp("text")
    stored = text_student(tiny_flux(), gmflow(), sampling=SamplingSettings(nfe=1, shift=3.2, total_substeps=16))
    save_student(stored, root / "student")
    (root / "prompts.txt").write_text("a cat\na red dog\n")
    (root / "real").mkdir()
    for level in (10, 90, 200):
        Image.new("RGB", (16, 16), (level, 255 - level, 99)).save(root / "real" / f"{level}.png")
    return root


def test_text_students_are_measured_on_prompts(folder: Path) -> None:
    options = ["--model", "student", "--reference", "real", "--detector", save_detector(folder / "colours.pt")]
    options += ["--metric", "fid", "--metric", "diversity", "--samples", 8, "--teacher-steps", "1,2", "--device", "cpu"]
    process = run("benchmark", *options, "--prompts", "prompts.txt", cwd=folder)
    assert process.returncode == 0, process.stderr
    assert "8 pictures a row of 2 prompts (prompts.txt), detector torchscript-" in process.stdout
    assert "diversity* ↑" in process.stdout
    few = process.stdout.splitlines()[-1]
    assert few.startswith("doubtful: FID against 3 pictures (real) in ")
    assert "too large" in few
    refused = run("benchmark", *options, cwd=folder)
    assert refused.returncode == 1
    assert "pass --prompts" in refused.stderr


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ("none,int3", "no base is held as 'int3'; known are none, bnb-8bit, bnb-4bit, torchao-int8, torchao-fp8"),
        ("none,", "no base is held as ''"),
    ],
)
def test_ways_that_are_none_are_refused(ways: str, said: str, folder: Path) -> None:
    options = ["--model", "student", "--metric", "fid", "--prompts", "prompts.txt", "--device", "cpu"]
    process = run("benchmark", *options, "--quantize", ways, cwd=folder)
    assert process.returncode == 1
    assert said in " ".join(process.stderr.split())


def test_class_students_take_no_prompts(folder: Path) -> None:
    options = ["--model", "digits-1nfe", "--prompts", "prompts.txt", "--metric", "fid"]
    process = run("benchmark", *options, cwd=folder)
    assert process.returncode == 1
    assert "digits-1nfe draws classes and takes no prompts" in " ".join(process.stderr.split())


def test_class_students_are_measured_for_diversity_too(tmp_path: Path) -> None:
    options = ["--metric", "diversity", "--metric", "fid", "--samples", 80, "--teacher-steps", "1,4"]
    process = run("benchmark", "--model", "digits-1nfe", *options, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "digits-diversity (not Inception)" in process.stdout
    assert "gap closed" in process.stdout


@pytest.mark.parametrize(
    ("asked", "ignored"),
    [
        (("--compare", "a.json", "b.json", "--metric", "fid"), "--metric"),
        (
            ("--limits", "digits-1nfe", "--samples", "8", "--nfe", "1", "--num-processes", "2"),
            "--samples, --num-processes",
        ),
    ],
)
def test_what_measures_nothing_stands_alone(asked: tuple[str, ...], ignored: str, tmp_path: Path) -> None:
    process = run("benchmark", *asked, cwd=tmp_path)
    assert process.returncode == 2
    assert f"'{asked[0]}': measures nothing, and {ignored} would be ignored" in " ".join(process.stderr.split())


def test_two_results_are_compared(tmp_path: Path) -> None:
    options = ["--metric", "fid", "--model", "digits-1nfe", "--samples", 60, "--teacher-steps", 1]
    for seed in (0, 1):
        process = run("benchmark", *options, "--seed", seed, "--json", f"{seed}.json", cwd=tmp_path)
        assert process.returncode == 0, process.stderr
    process = run("benchmark", "--compare", "0.json", "1.json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    first, heading, _, *lines = map(words, process.stdout.splitlines())
    assert first == "protocol differs in seed: 0 and 1"
    assert heading == "row number 0.json 1.json difference"
    assert lines[0].startswith("digits-1nfe gmflow 1 NFE FID ")
    assert any(line.startswith("unpaired: ") for line in lines)
    assert lines[-2].startswith("doubtful in 0.json: FID of 60 pictures in 64 features is far too large")
    assert lines[-1].startswith("doubtful in 1.json: FID of 60 pictures")
    (tmp_path / "2.json").write_text((tmp_path / "1.json").read_text().replace('"paired_error": 0.', '"old": 0.'))
    less = run("benchmark", "--compare", "0.json", "2.json", cwd=tmp_path)
    assert "only in 0.json, of rows in both: paired error" in less.stdout
    same = run("benchmark", "--compare", "0.json", "0.json", "--json", "-", cwd=tmp_path)
    told = json.loads(same.stdout)
    assert told["same_protocol"] is True
    assert {(found["verdict"], found["paired"], found["half"]) for found in told["differences"]} == {
        ("within noise", True, 0.0)
    }


def test_several_seeds_are_means_with_intervals_between_them(tmp_path: Path) -> None:
    options = ["--metric", "fid", "--model", "digits-1nfe", "--samples", 20, "--teacher-steps", "none"]
    process = run("benchmark", *options, "--seeds", "0-2", "--json", "s.json", "--report", "s.html", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "means over seeds 0,1,2" in process.stdout
    assert "intervals: 95%, of the mean of 3 seeds, what other seeds of as many give" in process.stdout
    assert "means over seeds 0, 1, 2" in (tmp_path / "s.html").read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "s.json").read_text())["rows"][0]["by_seed"]["fid"]) == 3
    for given, said in ((["--seeds", "0-2", "--seed", 1], "leave out --seed"), (["--seeds", "2-0"], "ends before it")):
        refused = run("benchmark", *options, *given, cwd=tmp_path)
        assert refused.returncode == 2
        assert said in " ".join(refused.stderr.split())


def test_something_has_to_be_asked_for(tmp_path: Path) -> None:
    process = run("benchmark", cwd=tmp_path)
    assert process.returncode == 2
    assert "say what to measure, such as --metric fid" in process.stderr
