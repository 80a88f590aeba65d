"""What --fit changes: the least that fits, the batch as it was, and a word where nothing does."""

import pytest

from piflow_cli.engine.plan.fit import HEADROOM, fit, memory_words, parse_gpus
from piflow_cli.engine.plan.plan import plan
from piflow_cli.errors import PresetError
from piflow_cli.preset import load_preset

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"), [("1x24GB", (1, 24 * GB)), ("8 x 80GiB", (8, 80 * 2**30)), ("24gb", (1, 24 * GB))]
)
def test_gpus_in_words(text: str, expected: tuple[int, int]) -> None:
    assert parse_gpus(text) == expected


@pytest.mark.parametrize("text", ["24", "0x24GB", "1x0GB", "a card", "1x24MB", ""])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(PresetError, match="1x24GB"):
        parse_gpus(text)


@pytest.mark.parametrize(
    ("name", "gpus", "size", "settings"),
    [
        ("flux-4nfe", 1, 80, set()),
        ("flux-4nfe", 1, 24, {"micro_batch_size=1", "quantization=bnb-4bit", 'cache="cache/flux-4nfe"'}),
        ("qwen-4nfe", 1, 48, {"micro_batch_size=2", "quantization=torchao-int8", 'cache="cache/qwen-4nfe"'}),
        ("flux-4nfe", 8, 24, {"micro_batch_size=2"}),
    ],
)
def test_the_least_change_fits_and_keeps_the_batch(name: str, gpus: int, size: int, settings: set[str]) -> None:
    preset = load_preset(name)
    found = fit(preset, gpus=gpus, size_bytes=size * GB)
    assert {setting.partition(".")[2] for setting in found.settings} == settings
    assert found.memory.total_bytes <= size * GB * (1 - HEADROOM)
    assert found.preset.training.batch_size == preset.training.batch_size
    assert found.preset == load_preset(name, found.settings)
    planned = {(m.strategy, m.gpus): m.total_bytes for m in plan(found.preset, gpus=(gpus,)).memory}
    assert planned[found.memory.strategy, gpus] == found.memory.total_bytes
    assert f"{found.memory.total_bytes / GB:.1f} of {size}.0 GB" in memory_words(found)
    assert bool(found.costs) == any("quantization" in setting for setting in settings)


def test_a_smaller_lora_comes_after_everything_else_and_is_said() -> None:
    found = fit(load_preset("flux-4nfe-datafree"), gpus=1, size_bytes=16 * GB)
    assert "adapter.rank=128" in found.settings
    assert "the LoRA has rank 128, not 256" in found.costs


def test_what_cannot_fit_is_said_with_what_it_would_need() -> None:
    with pytest.raises(PresetError, match=r"does not fit 1 x 12 GB: .* still needs 1\d\.\d GB \(.*base weights"):
        fit(load_preset("qwen-4nfe"), gpus=1, size_bytes=12 * GB)
    with pytest.raises(PresetError, match="does not divide over 3 GPUs"):
        fit(load_preset("flux-4nfe"), gpus=3, size_bytes=80 * GB)
