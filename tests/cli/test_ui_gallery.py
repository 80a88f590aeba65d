"""What the page of `piflow ui` makes of a drawing, without a browser."""

from pathlib import Path

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
