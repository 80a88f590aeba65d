"""The page of `piflow ui` in headless Chromium: draw, compare, copy, err and go on, wide and on a phone."""

import json
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest
from browser import CHROMIUM, WITHOUT, Tab, browser
from cli_runner import run
from made_runs import make_run
from PIL import Image
from text_students import text_student
from tiny_bases import tiny_flux2
from tiny_models import gmflow

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.students.save import save_student

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT),
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed: pip install 'piflow[ui]'"),
]
WIDTHS = (1200, 400)
SAID = "document.querySelector('#said').innerText"
CLOSED = "'value': 'Method not implemented.'"
"""What gradio warns itself of where it closes the stream of an upload that is done."""
COMMANDS = "document.querySelector('#commands textarea').value"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("played")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "piflow_cli", "ui", "--port", str(port), "--model", "emoji-1nfe"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        line = next((line for line in process.stderr if "shows the page" in line), None)
        assert line is not None, "the page has not started"
        yield line.split()[0]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0, "Ctrl-C is how a page is ended"
    finally:
        process.kill()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def show(tab: Tab, address: str, width: int) -> None:
    tab.open(address, width=width)
    tab.wait_for("!!document.querySelector('#prompt textarea')")


def draw(tab: Tab, prompt: str, expected: str) -> str:
    """Ask for a prompt, and wait until the page says what is expected."""
    tab.fill("#prompt textarea", prompt)
    tab.click("#draw")
    tab.wait_for(f"{SAID}.includes({json.dumps(expected)})")
    return tab.value(SAID)


def choose(tab: Tab, selector: str, text: str) -> None:
    """Type into a list to choose from."""
    tab.fill(f"{selector} input", text)
    tab.press("Enter")
    tab.value("document.activeElement.blur()")


def in_peace(tab: Tab, address: str, width: int) -> None:
    """Nothing sticks out, nothing was complained about, and nobody else was asked for anything."""
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert {url for url in tab.requested() if not url.startswith((address, "blob:", "about:"))} == set()
    assert [said for said in tab.complaints() if CLOSED not in said] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_draw_compare_and_copy(tab: Tab, address: str, folder: Path, width: int, tmp_path: Path) -> None:
    show(tab, address, width)
    tab.ask("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    tab.fill("#seed input, #seed textarea", str(width))
    for other in ("teacher@3", "emoji-2nfe"):
        choose(tab, "#beside", other)
    said = draw(tab, "a cat\na red heart", "emoji-2nfe at 2 NFE")
    assert "2 pictures by emoji-1nfe at 1 NFE: network" in said
    assert "2 pictures by zoo:emoji at 3 NFE: network" in said
    tab.wait_for("document.querySelectorAll('#pictures .grid-container img').length === 6")
    tab.wait_for("document.querySelectorAll('#sheet img').length === 1")
    tab.wait_for("document.querySelectorAll('#files a[href]').length === 7")
    first = "document.querySelector('#pictures .grid-container img')"
    tab.value(f"{first}.scrollIntoView()")
    tab.wait_for(f"{first}.complete && {first}.naturalWidth === 64")
    links = tab.value("[...document.querySelectorAll('#files a[href]')].map(link => link.href)")
    with urlopen(tab.value("document.querySelector('#pictures .grid-container img').src")) as shown:
        seen = shown.read()
    downloads = []
    for link in links:
        with urlopen(link) as found:
            downloads.append(found.read())
    assert seen == downloads[0], "what is shown is the file, which may be saved"
    tab.click("#commands button")
    tab.wait_for(f"navigator.clipboard.readText().then(text => text === {COMMANDS})")
    commands = tab.value("navigator.clipboard.readText()").splitlines()
    assert len(commands) == 4
    again = []
    for i, command in enumerate(commands):
        (tmp_path / str(i)).mkdir()
        process = run(*shlex.split(command)[1:], cwd=tmp_path / str(i))
        assert process.returncode == 0, process.stderr
        again += [(tmp_path / str(i) / line) for line in process.stdout.splitlines() if line.endswith(".png")]
    assert [path.read_bytes() for path in again] == downloads
    with Image.open(again[0]) as picture:
        assert (picture.text["prompt"], picture.text["seed"]) == ("a cat", str(width))
    tab.click("#kept .grid-container button")
    tab.wait_for("document.querySelector('#facts').innerText.includes('sampling')")
    assert tab.value("document.querySelector('#again textarea').value") == commands[0]
    tab.screenshot(folder / f"draw-{width}.png")
    in_peace(tab, address, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_wrong_is_said_and_the_next_drawing_works(tab: Tab, address: str, width: int) -> None:
    show(tab, address, width)
    draw(tab, "", "no prompt was given")
    tab.fill("#nfe input, #nfe textarea", "four")
    draw(tab, "a cat", "NFE is 'four'; write a whole number, or leave it empty")
    tab.fill("#nfe input, #nfe textarea", "0")
    draw(tab, "a cat", "greater than or equal to 1 (got 0)")
    tab.fill("#nfe input, #nfe textarea", "")
    choose(tab, "#model", "emoji-9nfe<img src=x onerror=alert(1)>${1+1}{{2}}")
    said = draw(tab, "a cat", "emoji-9nfe<img")
    assert "${1+1}{{2}}" in said
    choose(tab, "#model", "digits-1nfe")
    draw(tab, "a cat", "a cat")
    draw(tab, "7", "1 picture by digits-1nfe at 1 NFE: network")
    tab.wait_for("document.querySelectorAll('#pictures .grid-container img').length === 1")
    in_peace(tab, address, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_runs_and_benchmarks_are_read(tab: Tab, address: str, folder: Path, width: int, tmp_path: Path) -> None:
    made = make_run(tmp_path / "first")
    show(tab, address, width)
    tab.value("[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText === 'Run').click()")
    tab.wait_for("!!document.querySelector('#folders textarea')?.offsetWidth")
    tab.fill("#folders textarea", str(tmp_path / "none"))
    tab.click("#open")
    tab.wait_for("document.querySelector('#report')?.innerText.includes('none')")
    tab.fill("#folders textarea", str(made))
    tab.click("#open")
    tab.wait_for("!!document.querySelector('#report iframe')")
    assert tab.value("document.querySelector('#report iframe').getAttribute('sandbox')") == "allow-scripts"
    assert "uPlot" in tab.value("document.querySelector('#report iframe').srcdoc")
    tab.value("new Promise(done => setTimeout(done, 1000))")
    tab.screenshot(folder / f"run-{width}.png")
    in_peace(tab, address, width)
    row = {"model": "<b>m</b>", "kind": "student", "method": "gmflow", "nfe": 4, "scores": {"fid": 2.0}}
    row |= {"intervals": {"fid": [1.9, 2.1]}, "network_s": 0.004, "policy_s": 0.001}
    good = {"rows": [row], "titles": {"fid": "FID"}, "better": {"fid": "lower"}}
    for name, content in (("bad", {"rows": 3}), ("good", good)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    tab.value("[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText === 'Benchmark').click()")
    read = "document.querySelector('#benchmark').innerText"
    upload(tab, "#benchmark-file", tmp_path / "bad.json")
    tab.wait_for(f"{read}.includes('bad.json is no benchmark')")
    tab.click("#benchmark-file button[aria-label='Clear'], #benchmark-file button[aria-label='Remove']")
    upload(tab, "#benchmark-file", tmp_path / "good.json")
    tab.wait_for(f"{read}.includes('gmflow')")
    cells = tab.value("[...document.querySelectorAll('#benchmark td')].map(cell => cell.innerText)")
    assert cells == ["<b>m</b>", "gmflow", "4", "0", "2.00±0.10", "5"]
    tab.screenshot(folder / f"benchmark-{width}.png")
    in_peace(tab, address, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_student_that_edits_takes_a_picture(tab: Tab, address: str, width: int, tmp_path: Path) -> None:
    sampling = SamplingSettings(nfe=2, total_substeps=8)
    save_student(text_student(tiny_flux2(tmp_path / "base"), gmflow(), sampling=sampling), tmp_path / "student")
    Image.new("RGB", (96, 64), "red").save(tmp_path / "cat.png")
    show(tab, address, width)
    tab.click("#about button")
    upload(tab, "#references", tmp_path / "cat.png")
    tab.wait_for("document.querySelector('#references').innerText.includes('cat')")
    draw(tab, "a cat", "takes no reference pictures")
    choose(tab, "#model", str(tmp_path / "student"))
    draw(tab, "a red cat", f"1 picture by {tmp_path / 'student'} at 2 NFE: network")
    words = shlex.split(tab.value(COMMANDS))
    picture = Path(words[words.index("--image") + 1])
    assert (picture.name, picture.read_bytes()) == ("cat.png", (tmp_path / "cat.png").read_bytes())
    process = run(*words[1:], cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    in_peace(tab, address, width)


def upload(tab: Tab, field: str, path: Path) -> None:
    """Hand a file to a field for files."""
    selector = f"{field} input[type=file]"
    tab.wait_for(f"!!document.querySelector({json.dumps(selector)})")
    root = tab.ask("DOM.getDocument")["root"]["nodeId"]
    found = tab.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    tab.ask("DOM.setFileInputFiles", nodeId=found, files=[str(path)])
