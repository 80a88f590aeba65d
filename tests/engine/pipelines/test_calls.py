"""Text-to-image pipelines: the published latents, the base's noise and prompts, and pictures that no batch changes.

Shapes: B batch, N image tokens, C latent channels, H, W latent size.
"""

import inspect
import json
from typing import Any

import pytest
import torch
from tiny_models import PARITY
from tiny_pipelines import BASES, FAMILIES, KINDS, SIZE, Pipes, base_folder, embeddings, expected, latents
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.sampling import sample_student
from piflow_cli.engine.pipelines.flux import PiFluxPipeline
from piflow_cli.engine.pipelines.qwen_image import PiQwenImagePipeline
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.teachers.text.tokens import pack, unpack

BATCH_ATOL = 5e-5
"""Of latents after a whole run in float32: sums are in another order in another batch; up to 2.1e-5 here."""

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on black-forest-labs", "ignore:.*was trained on Qwen/")

PUBLISHED_ATOL = 1e-4


def runs() -> list[Any]:
    """Runs of the fixtures that differ from the students' own settings in arguments of a call."""
    found = []
    for family in FAMILIES:
        described = json.loads((PARITY / f"e2e_{family}" / "expected.json").read_text())["runs"]
        found += [pytest.param(family, run, id=f"{family}-{run['name']}") for run in described if "sched" not in run]
    return found


def arguments_of(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_inference_steps": run["nfe"],
        "temperature": run["temperature"],
        "total_substeps": run.get("total_substeps"),
    }


def core_latents(
    pipe: StudentPipeline, family: str, *, generator: torch.Generator | None = None, **changes: Any
) -> Tensor:
    """Packed latents by `core.sampling`, without any pipeline."""
    tensors, student = expected(family), pipe.student
    condition = student.space.conditions(
        TextCondition(embeds=tensors["prompt_embeds"], pooled=tensors.get("pooled_prompt_embeds"))
    )
    settings = student.card.sampling.model_copy(update={k: v for k, v in changes.items() if v is not None})
    noise = tensors["init_latents_unpacked"]
    found = sample_student(
        student.network, student.card.policy, noise, condition, settings=settings, generator=generator
    )
    return pack(found)


@pytest.mark.parametrize(("family", "run"), runs())
@pytest.mark.filterwarnings("ignore:.*was trained for")
def test_published_latents_and_pictures(pipes: Pipes, family: str, run: dict[str, Any]) -> None:
    pipe, tensors = pipes[family, run["kind"]], expected(family)
    samples = slice(None) if run["kind"] == "gm" else slice(1)  # see tests/teachers/test_text_parity.py
    steps: list[Tensor] = []
    times: list[float] = []

    def note(_: Any, i: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        assert i == len(steps)
        times.append(float(timestep))
        steps.append(given["latents"])
        return given

    found = latents(pipe, family, callback_on_step_end=note, **arguments_of(run))
    name = f"v0_1_2/{run['name']}"
    torch.testing.assert_close(found[samples], tensors[f"{name}.latents"][samples], rtol=0, atol=PUBLISHED_ATOL)
    if f"{name}.steps" in tensors:
        stacked = torch.stack(steps)[:, samples]
        torch.testing.assert_close(stacked, tensors[f"{name}.steps"][:, samples], rtol=0, atol=PUBLISHED_ATOL)
    if f"{run['name']}.timesteps" in tensors:
        torch.testing.assert_close(torch.tensor(times), tensors[f"{run['name']}.timesteps"], rtol=0, atol=1e-2)
    if f"{name}.image" in tensors:
        pictures = latents(pipe, family, output_type="pt", **arguments_of(run))[samples]
        torch.testing.assert_close(pictures, tensors[f"{name}.image"][samples], rtol=0, atol=PUBLISHED_ATOL)
    changes = {"nfe": run["nfe"], "temperature": run["temperature"], "total_substeps": run.get("total_substeps")}
    torch.testing.assert_close(found, core_latents(pipe, family, **changes), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_defaults_are_those_of_training(pipes: Pipes, family: str, kind: str) -> None:
    pipe = pipes[family, kind]
    assert torch.equal(latents(pipe, family), core_latents(pipe, family))
    assert pipe.num_timesteps == pipe.student.card.sampling.nfe == 4
    assert pipe.current_timestep is None


@pytest.mark.parametrize("family", FAMILIES)
def test_signature_goes_on_where_the_bases_ends(family: str) -> None:
    theirs = list(inspect.signature(BASES[family].__call__).parameters)
    ours = list(inspect.signature((PiFluxPipeline if family == "flux" else PiQwenImagePipeline).__call__).parameters)
    assert ours[: len(theirs)] == theirs
    assert ours[len(theirs) :] == ["temperature", "total_substeps", "h"]


def test_it_is_a_pipeline_of_the_bases_class(pipes: Pipes) -> None:
    for (family, _), pipe in pipes.items():
        assert isinstance(pipe, BASES[family])
        assert pipe.transformer is pipe.student.network.module
        assert set(pipe.components) == set(BASES[family].from_pretrained(base_folder(family)).components)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_encoded_by_the_base(pipes: Pipes, family: str) -> None:
    pipe, tensors = pipes[family, "gm"], expected(family)
    if family == "flux":
        prompts, length = json.loads((PARITY / "e2e_flux/expected.json").read_text())["setting"]["prompts"], 12
        found = pipe(
            prompts, **SIZE, latents=tensors["init_latents_packed"], max_sequence_length=length, output_type="latent"
        )
        want, name = tensors["v0_1_2/gm_4step_auto.latents"], "gm_4step_auto"
    else:
        noise = tensors["init_latents_packed"][:1]
        prompt, name = "the cat on a red house", "gm_4step_t03.prompt_run"
        found = pipe(prompt, **SIZE, latents=noise, temperature=0.3, output_type="latent")
        want = tensors[f"v0_1_2/{name}.latents"]
    torch.testing.assert_close(found.images, want, rtol=0, atol=PUBLISHED_ATOL)


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_the_bases_own(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    base = BASES[family].from_pretrained(base_folder(family))
    drawn = base.prepare_latents(2, 4, 64, 48, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(3))
    noise = drawn[0] if isinstance(drawn, tuple) else drawn
    seeded = latents(pipe, family, latents=None, generator=torch.Generator().manual_seed(3))
    assert torch.equal(seeded, latents(pipe, family, latents=noise))
    assert torch.equal(seeded, latents(pipe, family, latents=unpack(noise, 8, 6)))
    assert torch.equal(seeded, latents(pipe, family, latents=unpack(noise, 8, 6).unsqueeze(2)))
    with pytest.raises(ValueError, match=r"latents are \(2, 12, 8\); this call needs \(2, 12, 16\) \(packed\)"):
        latents(pipe, family, latents=noise[..., :8])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("h", [0.0, 1.0])
def test_a_generator_a_picture_makes_it_independent_of_the_batch(pipes: Pipes, family: str, h: float) -> None:
    pipe = pipes[family, "gm"]

    def draw(seeds: list[int], rows: slice, **arguments: Any) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        call = {name: tensor[rows] for name, tensor in embeddings(family).items()}
        return latents(pipe, family, latents=None, generator=generators, h=h, **call, **arguments)

    both = draw([1, 2, 3, 4], slice(None), num_images_per_prompt=2)
    second = draw([3, 4], slice(1, 2), num_images_per_prompt=2)  # pictures of a prompt lie together
    torch.testing.assert_close(both[2:], second, rtol=0, atol=BATCH_ATOL)
    torch.testing.assert_close(draw([2], slice(1)), both[1:2], rtol=0, atol=BATCH_ATOL)
    assert torch.equal(draw([1, 2], slice(None)), draw([1, 2], slice(None)))
    with pytest.raises(ValueError, match="list of generators of length 3"):
        draw([1, 2, 3], slice(None))


@pytest.mark.parametrize("family", FAMILIES)
def test_stochastic_sampling_is_that_of_the_core(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    ours, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
    found = latents(pipe, family, h=1.0, generator=ours)
    assert torch.equal(found, core_latents(pipe, family, h=1.0, generator=theirs))
    assert float((found - latents(pipe, family)).abs().max()) > 0.1
