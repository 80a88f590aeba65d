"""Documents that are too deep, too long or hold too large a number are refused in words, and configs of no network."""

import json
from pathlib import Path

import pytest

from piflow_cli.errors import ModelError, PresetError
from piflow_cli.io.bounds import MAX_DEPTH, MAX_LAYERS, MAX_TEXT_BYTES, bounded_json, bounded_toml, check_config
from piflow_cli.io.weights import read_json
from piflow_cli.preset import load_preset

INSIDE = '{"a": [1, -9223372036854775807, 1.5, "x", true, null], "b": {"c": []}}'


def test_ordinary_documents_are_read() -> None:
    assert bounded_json(INSIDE) == json.loads(INSIDE)
    assert bounded_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert bounded_toml("a = 1\n[b]\nc = [[1], [2]]\n") == {"a": 1, "b": {"c": [[1], [2]]}}


BAD = {
    "nested more than 64 deep": ["[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "[" * 100_000, '{"a":' * 100_000],
    "more than 63 bits": ["9" * 5000, "[1, {" + '"a": ' + "9" * 20 + "}]", str(2**63), str(-(2**63))],
    "MB are read": [" " * (MAX_TEXT_BYTES + 1) + "1"],
    "Expecting": ["", "{", "nan nan"],
}


@pytest.mark.parametrize(("message", "text"), [(message, text) for message, texts in BAD.items() for text in texts])
def test_json_out_of_bounds_is_refused_with_the_reason(message: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        bounded_json(text)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("nested more than 64 deep", "a = " + "[" * 20_000 + "]" * 20_000),
        ("nested more than 64 deep", "a = " + "[" * 100 + "]" * 100),
        ("limit|more than 63 bits", "a = " + "9" * 5000),
        ("more than 63 bits", "a = 0x" + "f" * 5000),
        ("nested more than 64 deep", "[" + ".".join("a" * 1 for _ in range(200)) + "]"),
    ],
)
def test_toml_out_of_bounds_is_refused_with_the_reason(message: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        bounded_toml(text)
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(PresetError, match=message):
        load_preset(tmp_path / "mine.toml")
    if text.startswith("a = "):
        with pytest.raises(PresetError, match=message):
            load_preset("digits-1nfe", [f"training.steps={text.removeprefix('a = ')}"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_layers": MAX_LAYERS + 1}, "num_layers = 1025; no network of more than 1024"),
        ({"a": {"num_hidden_layers": 10**6}}, "num_hidden_layers = 1000000"),
        ({"layers_per_block": [2] * 10_000}, "10000 layers_per_block"),
        ({"attention_head_dim": 2**40}, "attention_head_dim = 1099511627776"),
        ({"block_out_channels": [64, 2**30]}, "block_out_channels = 1073741824"),
        ({"norm_eps": float("inf")}, "norm_eps = inf"),
    ],
)
def test_configs_of_no_network_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_config(config, origin="config.json")


def test_configs_of_real_networks_pass() -> None:
    check_config({"num_layers": 60, "vocab_size": 152064, "sample_size": 1024, "rope_theta": 1e6}, origin="x")
    check_config({"image_token_id": 151655, "norm_eps": 1e-6, "cross_attention": None, "flip": True}, origin="x")
