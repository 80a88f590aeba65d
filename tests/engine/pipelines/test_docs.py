"""The guide's examples run, and asking for a pipeline is all that makes the package heavy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runner import run
from PIL import Image
from tiny_pipelines import STYLES, base_folder, pipeline, student_folder, style

import piflow_cli

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on", "ignore:Already found a `peft_config` attribute")

GUIDE = (Path(__file__).parents[3] / "docs" / "pipeline.md").read_text()
README = (Path(__file__).parents[3] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
STANDINS = {
    "Lakonik/pi-FLUX.1/gmflux_k8_piid_4step": str(student_folder("flux")),
    "black-forest-labs/FLUX.1-dev": str(base_folder("flux")),
    '.to("cuda")': "",
    '"a photo of a cat"': '"a photo of a cat", height=64, width=48',
}
"""What has to be downloaded, or a GPU, and what stands for it."""


def standing_in(example: str) -> str:
    for real, standin in STANDINS.items():
        assert real in example
        example = example.replace(real, standin)
    return example


def test_five_lines_make_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, classes, _ = EXAMPLES
    assert first in README
    assert len([line for line in first.splitlines() if line]) == 5
    exec(standing_in(first), {})
    assert Image.open("cat.png").size == (48, 64)
    exec(classes, {})
    assert Image.open("three.png").size == (8, 8)


def test_readme_trains_and_draws_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert "training.steps=300" in example
    few = ["steps=2", "batch_size=4", "preview_every=0"]
    exec(example.replace('"training.steps=300"', ", ".join(f'"training.{key}"' for key in few)), {})
    assert Image.open("three.png").size == (8, 8)


def test_the_command_line_draws_the_same_picture(tmp_path: Path) -> None:
    line = ["sample", "a cat", "--device", "cpu", "--dtype", "float32", "--seed", 5, "--out", "cat.png"]
    assert run(*line, cwd=tmp_path).returncode == 0
    drawn = piflow_cli.load_pipeline("emoji-4nfe")("a cat", generator=torch.Generator().manual_seed(5)).images[0]
    with Image.open(tmp_path / "cat.png") as written:
        assert written.tobytes() == drawn.tobytes()


def test_style_example_runs(tmp_path: Path) -> None:
    pipe = pipeline("flux")
    layers = {k.removeprefix("transformer."): v for k, v in style(pipe, STYLES["flux"]["shared"], seed=0).items()}
    type(pipe).save_lora_weights(tmp_path, layers)
    exec(EXAMPLES[2].replace("somebody/style", str(tmp_path)), {"pipe": pipe})
    assert pipe.get_active_adapters() == ["piflow"]


def test_the_package_stays_light() -> None:
    code = (
        "import sys, piflow_cli\n"
        "assert not {'torch', 'diffusers', 'pydantic'} & set(sys.modules)\n"
        "from piflow_cli import load_pipeline\n"
        "assert 'diffusers.pipelines.flux' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'load_pipelines'"):
        _ = piflow_cli.load_pipelines
    assert "load_pipeline" in piflow_cli.__all__
