"""`piflow convert` of adapters as a user meets it: which proof was done, and one message for each mistake."""

import json
from pathlib import Path

import pytest
from cli_runner import run
from text_students import BASES, adapter_folder

ADAPTER = adapter_folder("flux", "dx")


def test_each_proof_is_named(tmp_path: Path) -> None:
    there = run("convert", ADAPTER, "pi.safetensors", "--to", "comfyui", "--verify", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert "verified: every tensor and the card, bit for bit" in there.stdout
    back = run("convert", "pi.safetensors", "mine", "--to", "native", "--verify", "--base", BASES["flux"], cwd=tmp_path)
    assert "verified: largest difference of outputs on random input 0\n" in back.stdout
    options = ["--to", "merged", "--base", BASES["flux"], "--dtype", "bfloat16", "--verify"]
    merged = run("convert", "mine", "merged", *options, cwd=tmp_path)
    assert "% of their size, rms)" in merged.stdout
    assert "warning: merging rounded base and LoRA to bfloat16" in merged.stderr
    answer = json.loads(run("convert", "mine", "again", "--to", "lakonlab", "--verify", "--json", cwd=tmp_path).stdout)
    assert (answer["proof"], answer["max_difference"]) == ("tensors", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([ADAPTER, "out", "--to", "comfyui"], "let DST end in .safetensors"),
        ([ADAPTER, "out", "--to", "merged"], "cannot be merged into its base (--base says where it is)"),
        (["digits-1nfe", "out.safetensors", "--to", "comfyui"], "none of type dit"),
        ([ADAPTER, "out", "--to", "merged", "--base", BASES["qwen"]], "another family"),
        ([ADAPTER, "out", "--to", "native", "--device", "tpu"], "unknown device 'tpu'"),
        (["cut.safetensors", "out", "--to", "native"], "cannot be read as weights"),
    ],
)
def test_mistakes_get_one_message_and_write_nothing(tmp_path: Path, arguments: list, message: str) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    ended = run("convert", *arguments, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("error: ") == 1
    assert message in " ".join(ended.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["cut.safetensors"]


def test_a_student_is_verified_where_it_lies(tmp_path: Path) -> None:
    there = run("convert", ADAPTER, "mine", "--to", "native", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    whole = run("convert", "mine", "--verify", cwd=tmp_path)
    assert "verified: weights are finite and fit the card; every file has its checksum" in whole.stdout
    foreign = run("convert", ADAPTER, "--verify", cwd=tmp_path)
    assert "it carries no checksums" in foreign.stdout
    answer = json.loads(run("convert", "mine", "--verify", "--json", cwd=tmp_path).stdout)
    assert (answer["format"], answer["checksums"], answer["warnings"]) == ("native", "files", [])
    file = tmp_path / "mine" / "student.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    damaged = run("convert", "mine", "--verify", cwd=tmp_path)
    assert damaged.returncode == 1
    assert "mine is damaged: student.safetensors is not what was written" in " ".join(damaged.stderr.split())
    aimless = run("convert", "mine", cwd=tmp_path)
    assert aimless.returncode == 2
    assert "say where to write" in " ".join(aimless.stderr.split())
