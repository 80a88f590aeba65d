"""Configs whose values are each allowed and do not fit together: a known error, whatever class is built of them."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import CONFIG, TEACHERS, tiny_module

from piflow_cli.errors import ModelError

MISFITS: dict[str, dict[str, Any]] = {
    "sd3": {"attention_head_dim": 7, "num_attention_heads": 3},
    "z_image": {"axes_dims": [4, 6, 8]},
}


def test_a_dit_that_is_odd() -> None:
    with pytest.raises(ModelError, match=r"no network that can be built.*num_attention_heads 3"):
        tiny_module(**CONFIG | {"num_attention_heads": 3, "attention_head_dim": 7})


@pytest.mark.parametrize("family", MISFITS)
def test_a_transformer_whose_parts_do_not_fit(family: str, tmp_path: Path) -> None:
    settings = TEACHERS[family](tmp_path / family)
    config = dict(settings.describe()[0].config) | MISFITS[family]
    with pytest.raises(ModelError, match="describes no network that can be built"):
        settings.build(config)
