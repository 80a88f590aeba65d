"""The pipeline of class-conditional students: called like DiTPipeline.

Shapes: B batch, C latent channels, H, W latent size.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import DIGIT_NAMES, dx, gmflow, stored_student, tiny_vae
from tiny_pipelines import aligned
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.core.sampling import sample_student
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.pipelines.dit import PiDiTPipeline
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import DataError, ModelError, PolicyError

POLICIES = {"gmflow": gmflow(), "dx": dx(segment_size=0.5)}


@pytest.fixture(params=POLICIES)
def pipe(request: pytest.FixtureRequest, tmp_path: Path) -> PiDiTPipeline:
    sampling = SamplingSettings(nfe=2, total_substeps=16, temperature=0.5)
    save_student(stored_student(POLICIES[request.param], sampling=sampling), tmp_path / "student", vae=tiny_vae())
    pipe = load_pipeline(tmp_path / "student")
    return aligned(pipe)


def noise(count: int) -> Tensor:
    return torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(0))


def latents(pipe: PiDiTPipeline, **arguments: Any) -> Tensor:
    return pipe(**({"class_labels": [3, 7], "latents": noise(2), "output_type": "latent"} | arguments)).images


def core_latents(pipe: PiDiTPipeline, **changes: Any) -> Tensor:
    student = pipe.student
    settings = student.card.sampling.model_copy(update=changes)
    return sample_student(student.network, student.card.policy, noise(2), torch.tensor([3, 7]), settings=settings)


def test_latents_are_those_of_the_core(pipe: PiDiTPipeline) -> None:
    assert torch.equal(latents(pipe), core_latents(pipe))
    assert pipe.num_timesteps == 2
    with pytest.warns(UserWarning, match="was trained for 2 NFE") as warned:
        changed = latents(pipe, num_inference_steps=4, temperature="auto", total_substeps=32)
    assert warned[0].filename == __file__  # it points at the call
    assert torch.equal(changed, core_latents(pipe, nfe=4, temperature="auto", total_substeps=32))


def test_classes_go_by_index_or_name(pipe: PiDiTPipeline) -> None:
    wanted = latents(pipe)
    for labels in (["three", 7], torch.tensor([3, 7]), ("3", "seven")):
        assert torch.equal(latents(pipe, class_labels=labels), wanted)
    one = latents(pipe, class_labels="three", latents=noise(2)[:1])
    torch.testing.assert_close(one, wanted[:1], rtol=0, atol=1e-5)
    assert pipe.labels == {name: i for i, name in sorted(enumerate(DIGIT_NAMES), key=lambda pair: pair[1])}
    assert pipe.get_label_ids("seven") == [7]
    assert pipe.get_label_ids(["one", "two"]) == [1, 2]
    for labels in ([10], "eleven", [-1]):
        with pytest.raises(DataError):
            latents(pipe, class_labels=labels)


def test_pictures_are_decoded(pipe: PiDiTPipeline) -> None:
    pictures = latents(pipe, output_type="pt")
    torch.testing.assert_close(pictures, pipe.student.space.decode(core_latents(pipe)))
    np.testing.assert_array_equal(latents(pipe, output_type="np"), pictures.permute(0, 2, 3, 1).numpy())
    assert [picture.size for picture in latents(pipe, output_type="pil")] == [(16, 16)] * 2
    assert isinstance(pipe([1], return_dict=False), tuple)
    pipe.vae = None
    with pytest.raises(ModelError, match="no autoencoder is known that decodes these latents"):
        latents(pipe, output_type="pt")
    latents(pipe)


def test_generators(pipe: PiDiTPipeline) -> None:
    def draw(seeds: list[int], labels: list[int], **arguments: Any) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return latents(pipe, class_labels=labels, latents=None, generator=generators, h=1.0, **arguments)

    both = draw([1, 2, 3, 4], [3, 7], num_images_per_prompt=2)
    torch.testing.assert_close(both[2:], draw([3, 4], [7, 7]), rtol=0, atol=1e-4)
    assert torch.equal(*(latents(pipe, latents=None, generator=torch.Generator().manual_seed(5)) for _ in range(2)))
    with pytest.raises(ValueError, match="there are 3 generators for 2 pictures"):
        draw([1, 2, 3], [3, 7])


def test_callbacks(pipe: PiDiTPipeline) -> None:
    times = []

    def move(called: PiDiTPipeline, i: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        times.append(float(timestep))
        return {"latents": given["latents"] + 1} if i == 1 else {}

    torch.testing.assert_close(latents(pipe, callback_on_step_end=move), core_latents(pipe) + 1)
    assert times == [1000.0, 500.0]
    with pytest.raises(ValueError, match="only latents can be had"):
        latents(pipe, callback_on_step_end=move, callback_on_step_end_tensor_inputs=["class_labels"])


def test_half_precision_latents_go_into_the_autoencoder(tmp_path: Path) -> None:
    save_student(stored_student(gmflow()), tmp_path / "student", vae=tiny_vae())
    pipe = load_pipeline(tmp_path / "student").to(torch.bfloat16)
    seen: list[Tensor] = []

    def look(_: PiDiTPipeline, __: int, ___: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(given["latents"])
        return given

    found = latents(pipe, callback_on_step_end=look)
    assert torch.equal(found, latents(pipe))
    assert torch.equal(found, seen[-1])
    picture = pipe.vae.decode(found / pipe.vae.config.scaling_factor).sample
    assert picture.dtype == torch.bfloat16
    assert picture.isfinite().all()


def test_what_cannot_be_done_is_refused(pipe: PiDiTPipeline) -> None:
    with pytest.warns(UserWarning, match="guidance_scale 4.0 is ignored") as warned:
        assert torch.equal(latents(pipe, guidance_scale=4.0), latents(pipe))
    assert warned[0].filename == __file__
    with pytest.raises(ValueError, match=r"latents are \(2, 4, 8, 8\); this call needs \(1, 4, 8, 8\)"):
        latents(pipe, class_labels=[1])
    if pipe.student.card.policy.type == "dx":
        with pytest.raises(PolicyError, match=r"trained on segments of 0\.5"):
            latents(pipe, num_inference_steps=1)


def test_embedded_student_draws_grey_digits() -> None:
    pipe = load_pipeline("digits-1nfe")
    assert pipe.vae is None
    assert set(pipe.components) == {"transformer", "vae"}
    pictures = pipe(list(range(10)), generator=torch.Generator().manual_seed(0)).images
    assert [(picture.mode, picture.size) for picture in pictures] == [("L", (8, 8))] * 10
