"""Only diffusers' and transformers' own classes are looked up, of the right kind; nothing else is even imported."""

import sys
from pathlib import Path

import diffusers
import pytest
import transformers

from piflow_cli.errors import ModelError
from piflow_cli.teachers.classes import check_entry, library_class


def test_classes_of_both_libraries_are_found() -> None:
    for entry, part, found in (
        (["diffusers", "AutoencoderKL"], "vae", diffusers.AutoencoderKL),
        (["diffusers", "FlowMatchEulerDiscreteScheduler"], "scheduler", diffusers.FlowMatchEulerDiscreteScheduler),
        (["transformers", "T5EncoderModel"], "text_encoder_2", transformers.T5EncoderModel),
        (["transformers", "CLIPTokenizer"], "tokenizer", transformers.CLIPTokenizer),
    ):
        assert library_class(entry, part=part, origin="index") is found


def test_no_other_library_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="only classes of diffusers and transformers"):
        library_class(["trap", "Model"], part="vae", origin="index")
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    "entry",
    [
        ["os", "system"],
        ["diffusers.utils", "logging"],
        ["diffusers", "utils.logging"],
        ["diffusers", "__loader__"],
        ["diffusers"],
        ["diffusers", None],
        [None, None],
        "diffusers",
        None,
        {"diffusers": "AutoencoderKL"},
    ],
)
def test_entries_that_name_no_class_are_refused(entry) -> None:
    with pytest.raises(ModelError, match=r"index says that vae is .*only classes of diffusers and transformers"):
        check_entry(entry, part="vae", origin="index")


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        (["diffusers", "FluxPipeline"], "vae"),
        (["diffusers", "AutoencoderKL"], "scheduler"),
        (["transformers", "T5EncoderModel"], "tokenizer"),
        (["transformers", "pipeline"], "text_encoder"),
        (["diffusers", "NoSuchModel"], "transformer"),
    ],
)
def test_classes_of_another_kind_are_refused(entry: list[str], part: str) -> None:
    with pytest.raises(ModelError, match=rf"{entry[1]}, which is no \w+ of this version"):
        library_class(entry, part=part, origin="index")
