"""Pages in headless Chromium: drawn without a complaint or a request, readable on a phone, and the slider moves."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from browser import CHROMIUM, WITHOUT, Tab, browser
from made_runs import COLOURS, make_run
from PIL import Image

from piflow_cli.engine.report.runs import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
WIDTHS = (1200, 400)
SHOWN = """
[...document.querySelector('.strip').querySelectorAll('img')].filter(i => i.offsetWidth).map(i => +i.dataset.step)
"""
"""Steps of the pictures that are seen."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    first, second = make_run(folder / "first"), make_run(folder / "second", steps=100, pictures=2)
    found = {"one": folder / "one.html", "two": folder / "two.html"}
    write_report([first], found["one"])
    write_report([first, second], found["two"])
    return found


def colours(screenshot: bytes) -> set[int]:
    """Which of the previews' colours fill a good part of a picture."""
    counts = Image.open(BytesIO(screenshot)).convert("RGB").getcolors(1 << 24)
    near = {
        i: sum(n for n, seen in counts if all(abs(a - b) < 12 for a, b in zip(seen, colour, strict=True)))
        for i, colour in enumerate(COLOURS)
    }
    return {i for i, n in near.items() if n > 10_000}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "two"])
def test_a_page_is_drawn_in_peace(
    tab: Tab, pages: dict[str, Path], name: str, width: int, dark: bool, tmp_path: Path
) -> None:
    tab.open(pages[name], width=width, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    assert tab.value("document.querySelectorAll('.chart').length") == 7
    drawn = "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v))"
    assert tab.value(f"[...document.querySelectorAll('.chart')].every(b => {drawn}(b.querySelector('canvas')))")
    picture = Image.open(BytesIO(tab.screenshot(tmp_path / "page.png"))).convert("RGB")
    assert picture.width == width
    assert (sum(picture.getpixel((2, 2))) < 3 * 64) == dark
    assert tab.requested() == {pages[name].as_uri()}
    assert tab.complaints() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_slider_moves(tab: Tab, pages: dict[str, Path], width: int, tmp_path: Path) -> None:
    tab.open(pages["one"], width=width)
    assert tab.value(SHOWN) == [200]
    assert colours(tab.screenshot(tmp_path / "last.png")) == {3}
    tab.value("document.querySelector('.strip input').focus()")
    key = {"key": "ArrowLeft", "code": "ArrowLeft", "windowsVirtualKeyCode": 37}
    for kind in ("keyDown", "keyUp"):
        tab.ask("Input.dispatchKeyEvent", type=kind, **key)
    assert tab.value(SHOWN) == [150]
    assert tab.value("document.querySelector('.strip output').textContent") == "step 150"
    assert colours(tab.screenshot(tmp_path / "earlier.png")) == {2}
    tab.value("document.querySelector('.strip .back').click()")
    assert tab.value(SHOWN) == [100]
    assert tab.complaints() == []


def test_one_slider_moves_the_pictures_of_all_runs(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["two"], width=1200)
    assert tab.value(SHOWN) == [200, 100]
    tab.value("{const s = document.querySelector('.strip input'); s.value = 0; s.dispatchEvent(new Event('input'))}")
    assert tab.value(SHOWN) == [50, 50]
    assert tab.complaints() == []


def test_an_axis_becomes_logarithmic_and_pointing_says_numbers(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["one"], width=1200)
    pressed = "document.querySelector('.log').getAttribute('aria-pressed')"
    before = tab.value(pressed)
    tab.value("document.querySelector('.log').click()")
    assert tab.value(pressed) != before
    legend = "document.querySelector('.u-legend .u-series .u-value').textContent"
    assert tab.value(legend) == "200"
    tab.value("document.querySelector('.chart').scrollIntoView()")
    place = "(b => [b.left + b.width / 2, b.top + 50])(document.querySelector('.u-over').getBoundingClientRect())"
    x, y = tab.value(place)
    tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert abs(int(tab.value(legend)) - 100) < 10
    assert tab.complaints() == []
