"""Manifests find what was changed, cut or lost, and nothing else; a digest of tensors depends on every bit of them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from piflow_cli.io.checksums import MANIFEST, check_manifest, has_manifest, tensors_sha256, write_manifest


def folder_of_three(path: Path) -> Path:
    (path / "sub").mkdir(parents=True)
    (path / "a.bin").write_bytes(b"a" * 1000)
    (path / "b.bin").write_bytes(b"b" * 1000)
    (path / "sub" / "c.bin").write_bytes(b"c" * 1000)
    write_manifest(path)
    return path


def test_manifest_holds_the_sha256_of_every_file(tmp_path):
    folder = folder_of_three(tmp_path / "x")
    digests = json.loads((folder / MANIFEST).read_text())["sha256"]
    assert digests == {
        name: hashlib.sha256(name[-5].encode() * 1000).hexdigest() for name in ("a.bin", "b.bin", "sub/c.bin")
    }
    assert has_manifest(folder)
    assert check_manifest(folder) == []


def test_flipped_bit_missing_and_cut_files_are_named(tmp_path):
    folder = folder_of_three(tmp_path / "x")
    data = bytearray((folder / "sub" / "c.bin").read_bytes())
    data[500] ^= 1
    (folder / "sub" / "c.bin").write_bytes(data)
    (folder / "a.bin").unlink()
    assert check_manifest(folder) == ["a.bin", "sub/c.bin"]
    assert check_manifest(folder, names=["b.bin"]) == []
    (folder / "b.bin").write_bytes(b"b" * 999)
    assert check_manifest(folder, names=["b.bin"]) == ["b.bin"]


def test_files_added_later_and_folders_without_manifest_are_whole(tmp_path):
    folder = folder_of_three(tmp_path / "x")
    (folder / "later.txt").write_text("of somebody else")
    assert check_manifest(folder) == []
    (folder / MANIFEST).unlink()
    (folder / "a.bin").unlink()
    assert not has_manifest(folder)
    assert check_manifest(folder) == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"sha256": []}', '{"sha256": {"a.bin": 1}}', "[" * 100_000, '{"sha256": {"../a": "x"}}']
)
def test_damaged_manifest_is_itself_damaged(tmp_path, text):
    folder = folder_of_three(tmp_path / "x")
    (folder / MANIFEST).write_text(text)
    assert check_manifest(folder) == [MANIFEST]


def test_digest_of_tensors_depends_on_names_dtypes_shapes_and_bits_but_not_on_order():
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    scalar = torch.tensor(2.0)
    digest = tensors_sha256({"a": weight, "b": scalar})
    assert tensors_sha256({"b": scalar, "a": weight}) == digest
    flipped = weight.clone()
    flipped.view(torch.int32)[1, 2] ^= 1
    others = [
        {"a": flipped, "b": scalar},
        {"c": weight, "b": scalar},
        {"a": weight.reshape(6, 4), "b": scalar},
        {"a": weight.view(torch.int32), "b": scalar},
        {"a": weight},
    ]
    assert len({digest, *map(tensors_sha256, others)}) == 6
    assert tensors_sha256({"a": weight.t().contiguous().t(), "b": scalar}) == digest
    assert tensors_sha256({"a": torch.zeros(0), "b": weight.bfloat16()}) != digest
