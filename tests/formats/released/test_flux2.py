"""FLUX.2 students in the published layout: names and config of Lakonik/pi-FLUX.2, with our card or without."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from safetensors.torch import load_file, save_file
from text_students import FOUR_STEPS, LORA, text_student
from tiny_bases import tiny_flux2, tiny_flux2_dev
from tiny_models import dx, gmflow

from piflow_cli.engine.students.load import assemble, read_student
from piflow_cli.errors import ModelError
from piflow_cli.formats.released.comfyui import ComfyUIFormat
from piflow_cli.formats.released.lakonlab import LakonlabFormat
from piflow_cli.formats.released.layouts import CONFIG, POLICY_KEY, WEIGHTS
from piflow_cli.formats.released.merged import MergedFormat
from piflow_cli.formats.student import StoredStudent
from piflow_cli.preset import Preset, load_preset

K, TOKEN, WIDTH = 3, 16, 32
"""Components, numbers of a token (4 channels, 2x2) and width of the small student."""
PUBLISHED_KEYS = {
    "num_gaussians",
    "constant_logstd",
    "logstd_inner_dim",
    "gm_num_logstd_layers",
    "logweights_channels",
    "in_channels",
    "out_channels",
    "num_layers",
    "num_single_layers",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "timestep_guidance_channels",
    "mlp_ratio",
    "axes_dims_rope",
    "rope_theta",
    "eps",
    "guidance_embeds",
}
"""What the authors' class takes."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux2") / "base"
    tiny_flux2_dev(folder)
    return folder


def student_on(base: Path) -> StoredStudent:
    return text_student(tiny_flux2_dev(base), gmflow(), adapter=LORA, sampling=FOUR_STEPS)


def recipe_on(base: Path) -> Preset:
    preset = load_preset("flux2-dev-4nfe")
    return preset.model_copy(update={"teacher": tiny_flux2_dev(base)})


def test_a_mixture_is_written_as_published(base: Path, tmp_path: Path) -> None:
    LakonlabFormat().write(student_on(base), tmp_path)
    config, weights = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / WEIGHTS)
    assert config["_class_name"] == "GMFlux2Transformer2DModel"
    assert config.keys() - {"_class_name"} == PUBLISHED_KEYS
    assert config["logweights_channels"] == 4
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items() if name.startswith("proj_out")}
    assert shapes == {
        "proj_out_means.weight": (K * TOKEN, WIDTH),
        "proj_out_means.bias": (K * TOKEN,),
        "proj_out_logweights.weight": (K * 4, WIDTH),
        "proj_out_logweights.bias": (K * 4,),
        "proj_out_logstds.1.weight": (8, WIDTH),
        "proj_out_logstds.1.bias": (8,),
        "proj_out_logstds.3.weight": (1, 8),
        "proj_out_logstds.3.bias": (1,),
    }
    assert {name for name in weights if "lora" not in name and not name.startswith("proj_out")} == {
        "norm_out.linear.weight"
    }


@pytest.mark.parametrize("format_", [LakonlabFormat(), ComfyUIFormat()], ids=lambda format_: format_.name)
def test_a_file_without_our_card_is_read_by_the_published_recipe(
    base: Path, tmp_path: Path, format_: LakonlabFormat | ComfyUIFormat
) -> None:
    student = student_on(base)
    place = tmp_path / f"gmflux2_k3_piid_4step{format_.suffix}"
    if not format_.suffix:
        place.mkdir()
    format_.write(student, place)
    file = place / WEIGHTS if place.is_dir() else place
    save_file(load_file(file), file, metadata={POLICY_KEY: '{"type": "GMFlow"}'})
    assert format_.usual_preset(place) == "flux2-dev-4nfe"
    back, found = read_student(place, recipe=recipe_on(base))
    assert found.name == format_.name
    assert (back.card.policy.num_components, back.card.adapter.rank, back.card.adapter.targets) == (K, 4, None)
    assert (back.card.teacher.guidance_scale, back.card.sampling.shift, back.card.sampling.nfe) == (4.0, 3.2, 4)
    assert back.weights.keys() == student.weights.keys()
    x, sigma = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0)), torch.ones(2)
    ours, theirs = assemble(student, name="ours"), assemble(back, name="theirs")
    condition = ours.space.encode_prompts(["a red cat", "blue dog"])
    assert torch.equal(ours.network(x, sigma, condition)[0], theirs.network(x, sigma, condition)[0])
    tiny_flux2(tmp_path / "klein")
    with pytest.raises(ModelError, match="guidance_embeds is True in the student, False in the base"):
        assemble(back, name="theirs", base=str(tmp_path / "klein"))


def test_points_are_a_stock_transformer_of_more_channels(base: Path, tmp_path: Path) -> None:
    """Without a bias, as the base's projection has none."""
    student = text_student(tiny_flux2_dev(base), dx(), adapter=None)
    (tmp_path / "merged").mkdir()
    MergedFormat().write(student, tmp_path / "merged")
    module, said = Flux2Transformer2DModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert said["missing_keys"] == said["unexpected_keys"] == []
    assert module.proj_out.weight.shape == (3 * TOKEN, WIDTH)
