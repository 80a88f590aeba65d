"""What the page of `piflow ui` makes of a drawing and of a benchmark, without a browser."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from piflow_cli.engine.sample.beside import Other
from piflow_cli.engine.studio.studio import Studio
from piflow_cli.engine.studio.wanted import Opening, Wanted

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'piflow[ui]'")


def test_pictures_say_who_drew_them_and_in_how_many_steps(tmp_path: Path) -> None:
    from piflow_cli.cli.playing.drawing import _shown

    wanted = Wanted(("a cat",), "emoji-1nfe", others=(Other(None, 2), Other("emoji-2nfe")))
    _, captioned, *_ = _shown(Studio(Opening(device="cpu"), tmp_path).draw(wanted), [])
    assert [caption for _, caption in captioned] == [
        "emoji-1nfe, 1 evaluation",
        "teacher zoo:emoji, 2 steps",
        "emoji-2nfe, 2 evaluations",
    ]


def test_a_benchmark_says_how_bases_are_held_and_what_is_doubtful(tmp_path: Path) -> None:
    """As on the terminal: rows that differ in their base alone, whose detector it was, and doubts."""
    from piflow_cli.cli.playing.reading import benchmark_table

    row: dict[str, Any] = {"model": "m", "kind": "student", "method": "gmflow", "nfe": 4, "scores": {"fid": 2.0}}
    held = row | {"quantization": "torchao-int8", "scores": {"fid": 2.5}, "whole_error": 0.25}
    told = {"rows": [row, held], "titles": {"fid": "emoji-FID (not Inception)"}, "better": {"fid": "lower"}}
    (tmp_path / "a.json").write_text(json.dumps(told | {"doubts": ["FID of 2 pictures is far too large"]}))
    page = benchmark_table(str(tmp_path / "a.json"))
    assert re.findall("<th>(.*?)</th>", page) == ["model", "method", "NFE", "h", "base", "FID* ↓", "to whole"]
    cells = re.findall("<td>(.*?)</td>", page)
    assert cells == ["m", "gmflow", "4", "0", "whole", "2", "", "m", "gmflow", "4", "0", "torchao-int8", "2.5", "0.25"]
    assert "<p>* emoji-FID (not Inception)</p>" in page
    assert '<p class="warning">doubtful: FID of 2 pictures is far too large</p>' in page
