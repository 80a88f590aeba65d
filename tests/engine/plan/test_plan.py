"""Plans: arithmetic checked by hand, against built students, and against what was published."""

import json
import socket
from typing import Any

import pytest
import torch
from tiny_models import PARITY

from piflow_cli.engine.distill.build import build_student
from piflow_cli.engine.plan.plan import Plan, plan, run_bytes
from piflow_cli.engine.plan.report import report, size
from piflow_cli.errors import DataError
from piflow_cli.preset import load_preset
from piflow_cli.teachers.dit.family import AUTOENCODER
from piflow_cli.teachers.flux import Flux
from piflow_cli.teachers.qwen_image import QwenImage

GB = 1_000_000_000
FLUX_LORA = (
    19 * 4 * 256 * (3072 + 12288)  # two MLPs of a double block, in and out
    + 38 * 256 * ((3072 + 12288) + (3072 + 12288 + 3072))  # proj_mlp; proj_out takes attention and MLP
    + 256 * ((256 + 3072) + (3072 + 3072))  # time embedding
)
QWEN_LORA = (60 + 59) * 2 * 256 * (3072 + 12288) + 256 * ((256 + 3072) + (3072 + 3072))
NORM_OUT = 3072 * 6144 + 6144
MIXTURE_HEAD = (3072 + 1) * 8 * 64 + (3072 + 1) * 8 * 4 + (3072 + 1) * 1024 + (1024 + 1)
FLUX_TRAINABLE = FLUX_LORA + NORM_OUT + MIXTURE_HEAD


def items(estimate: Plan, strategy: str, gpus: int) -> dict[str, int]:
    memory = next(m for m in estimate.memory if (m.strategy, m.gpus) == (strategy, gpus))
    return {item.name: item.bytes for item in memory.items}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_counts_are_those_of_the_real_student() -> None:
    preset = load_preset("digits-1nfe")
    estimate = plan(preset)
    teacher = preset.teacher.load()
    student = build_student(preset, teacher, generator=torch.Generator().manual_seed(0))
    trainable = sum(p.numel() for p in student.parameters())
    assert estimate.facts.frozen == sum(p.numel() for p in teacher.module.parameters())
    assert estimate.facts.trainable == trainable
    assert estimate.facts.head == sum(p.numel() for p in student.head.parameters())
    found = items(estimate, "one GPU", 1)
    assert {found[f"{what}, fp32"] for what in ("trainable weights", "gradients", "average of the weights")} == {
        4 * trainable
    }
    assert found["optimiser"] == 8 * trainable
    assert run_bytes(preset) == estimate.disk_bytes == 3 * 16 * trainable + 2 * 4 * trainable


@pytest.mark.parametrize(
    ("name", "frozen", "lora"), [("flux-4nfe", 11_901_408_320, FLUX_LORA), ("qwen-4nfe", 20_430_401_088, QWEN_LORA)]
)
def test_published_sizes(name: str, frozen: int, lora: int, no_network: None) -> None:
    facts = plan(load_preset(name)).facts
    assert (facts.frozen, facts.lora, facts.modules, facts.head) == (frozen, lora, {"norm_out": NORM_OUT}, MIXTURE_HEAD)
    assert (facts.width, facts.hidden) == (3072, 12288)
    assert (facts.blocks, facts.lora_layers) == ((57, 154) if name.startswith("flux") else (60, 240))


def test_published_parts() -> None:
    """The sizes of encoders and autoencoders, from the configs that their pipelines publish."""
    from diffusers import AutoencoderKL, AutoencoderKLQwenImage
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    sides = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sides["block_out_channels"] = (128, 256, 512, 512)
    t5 = T5Config(d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        flux = [
            T5EncoderModel(t5),
            CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)),
            AutoencoderKL(
                latent_channels=16, layers_per_block=2, use_quant_conv=False, use_post_quant_conv=False, **sides
            ),
        ]
        dit, qwen = AutoencoderKL(latent_channels=4, layers_per_block=2, **sides), AutoencoderKLQwenImage()

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert [part.parameters for part in Flux.published_parts] == [count(module) for module in flux]
    assert AUTOENCODER[0].parameters == count(dit)
    assert QwenImage.published_parts[1].parameters == count(qwen)


@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_parts_of_a_local_pipeline_are_counted(family: str) -> None:
    name = {"flux": "flux-4nfe", "qwen": "qwen-4nfe"}[family]
    preset = load_preset(name, [f"teacher.source={PARITY / f'e2e_{family}' / 'pipeline'}", "teacher.width=48"])
    pipeline = preset.teacher.load().space.pipeline
    loaded = {"vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    if family == "flux":
        loaded["text_encoder_2"] = pipeline.text_encoder_2
    parts = preset.teacher.pipeline_parts()
    assert sorted(part.parameters for part in parts) == sorted(
        sum(p.numel() for p in module.parameters()) for module in loaded.values()
    )
    assert [part.is_encoder for part in parts].count(False) == 1


def test_flux_under_ddp_by_hand() -> None:
    found = items(plan(load_preset("flux-4nfe")), "DDP", 32)
    tokens = 8 * (64 * 64 + 512)
    assert found["base weights, for teacher and student"] == 2 * 11_901_408_320
    assert found["trainable weights, fp32"] == found["gradient buckets of DDP"] == 4 * FLUX_TRAINABLE
    assert found["optimiser"] == 2 * FLUX_TRAINABLE
    assert found["text encoders, autoencoder"] == found["gradients yet to be exchanged"] == 0
    assert found["what the blocks keep"] == tokens * 57 * 3072 * 2
    assert found["last norm"] == 8 * 64 * 64 * 3072 * 12
    policy, states, embeddings = 4 * 8 * 17 * 128 * 128 * 4, 8 * 16 * 128 * 128 * 4, (512 * 4096 + 768) * 2
    assert found["policy, states, embeddings"] == 8 * (policy + states + embeddings)
    assert found["largest moment"] == tokens * (3072 * (4 * 4 + 10 * 2) + 12288 * 2 + 15360 * 13)
    moving = sum(found[name] for name in ("what the blocks keep", "last norm", "policy, states, embeddings"))
    assert found["allocator's slack"] == int(0.1 * (moving + found["largest moment"]))
    assert found["CUDA context, libraries, NCCL"] == 2 * GB


def test_qwen_under_fsdp_by_hand() -> None:
    preset = load_preset("qwen-4nfe-datafree", ["training.micro_batch_size=1"])
    found, trainable = items(plan(preset), "FSDP2", 8), QWEN_LORA + NORM_OUT + MIXTURE_HEAD
    assert found["base weights, for teacher and student"] == 2 * 20_430_401_088 // 8
    assert found["gradients, fp32"] == 4 * trainable // 8
    assert found["gradients yet to be exchanged"] == 2 * trainable
    assert found["optimiser"] == 8 * trainable // 8
    assert found["gradient buckets of DDP"] == 0
    tokens, block = 64 * 64 + 512, 339_831_296
    assert found["what the blocks keep"] == tokens * 60 * 3072 * 2
    assert found["largest moment"] == tokens * (3072 * 36 + 12288 * 2 + 12288 * 13)
    lora = 4 * 256 * (3072 + 12288)  # two MLPs of a block, in and out; the rest is the time embedding's
    outside = 20_430_401_088 - 60 * block + 256 * ((256 + 3072) + (3072 + 3072)) + NORM_OUT + MIXTURE_HEAD
    assert found["gathered weights of FSDP2"] == 2 * (3 * (block + lora) + outside)


def test_wan_by_hand_where_much_of_it_stays_float32() -> None:
    """Each block of 1.3B holds a norm and a table in float32, and is gathered as it is held; D 1536, MLP 8960."""
    preset = load_preset("wan-4nfe-datafree")
    time_embedding = 256 * 1536 + 1536 + 1536 * 1536 + 1536
    block_exact = 2 * 1536 + 6 * 1536
    exact = 30 * block_exact + 2 * 1536 + time_embedding
    base = 2 * 1_418_996_800 + 2 * exact
    adapted, lora = items(plan(preset), "FSDP2", 8), 2 * 256 * (1536 + 8960)
    assert items(plan(preset), "DDP", 8)["base weights, for teacher and student"] == base
    assert adapted["base weights, for teacher and student"] == base // 8
    block = 8 * (1536 * 1536 + 1536) + 4 * 1536 + 2 * 1536 * 8960 + 8960 + 1536 + block_exact
    inside = 2 * block + 2 * block_exact + 4 * lora
    own = plan(preset).facts.head + 256 * ((256 + 1536) + (1536 + 1536))
    outside = base - 30 * (2 * block + 2 * block_exact) + 4 * own
    assert adapted["gathered weights of FSDP2"] == 3 * inside + outside
    whole = items(plan(preset.model_copy(update={"adapter": None})), "FSDP2", 8)
    assert whole["teacher's weights"] == base // 8
    rest = 1_418_996_800 - 30 * block
    projection = 1536 * 64 + 64
    student = 4 * (rest - projection + plan(preset).facts.head)
    assert whole["gathered weights of FSDP2"] == 3 * 4 * block + student + base - 30 * (2 * block + 2 * block_exact)


def test_weights_that_are_gathered_whole_are_cast_for_the_passes() -> None:
    for name, held in (("wan-4nfe-datafree", True), ("flux-4nfe", False)):
        estimate = plan(load_preset(name), gpus=(8,))
        ddp, sharded = (
            next(moment.bytes for moment in memory.moments if moment.name == "student forward")
            for memory in estimate.memory
        )
        assert ddp - sharded == (0 if held else 2 * estimate.facts.trainable)


def test_offloaded_encoders_visit_unless_embeddings_are_cached() -> None:
    estimate = plan(load_preset("qwen-4nfe"), gpus=(8,))
    ddp = estimate.memory[0]
    moments = {moment.name: moment.bytes for moment in ddp.moments}
    assert moments["encoding prompts"] == 2 * 8_292_166_656
    assert moments["teacher forward"] == 2 * 4 * (64 * 64 + 512) * 3072 * 36  # guidance doubles the batch
    assert ddp.cached_bytes < ddp.total_bytes
    cached = plan(load_preset("qwen-4nfe", ["data.cache=somewhere"]), gpus=(8,)).memory[0]
    assert "encoding prompts" not in {moment.name for moment in cached.moments}
    assert cached.total_bytes == cached.cached_bytes == ddp.cached_bytes
    resident = plan(load_preset("qwen-4nfe", ["teacher.offload_encoders=false"]), gpus=(8,))
    parts = sum(part.parameters for part in resident.parts)
    assert items(resident, "DDP", 8)["text encoders, autoencoder"] == 2 * parts


PUBLISHED_GB = {
    "flux-4nfe": {
        "DDP, 8 images at a time": 65,
        "DDP, 1 image at a time": 45,
        "FSDP2 on 8 GPUs, 1 image at a time": 16,
        "FSDP2 on 2 GPUs, 1 image at a time": 24,
        "embeddings of 768,128 prompts": 1100,
    },
    "qwen-4nfe": {
        "DDP, 4 images at a time": 70,
        "FSDP2 on 8 GPUs, 1 image at a time": 20,
        "embeddings of 2,304,128 prompts": 380,
    },
}


@pytest.mark.parametrize("name", ["flux-4nfe", "flux-4nfe-datafree", "flux-4nfe-dx", "qwen-4nfe", "qwen-4nfe-dx"])
def test_within_a_fifth_of_what_was_published(name: str, no_network: None) -> None:
    found = plan(load_preset(name), gpus=(8,)).published
    assert {case.what: case.published_bytes / GB for case in found} == PUBLISHED_GB[name[: len("flux-4nfe")]]
    for case in found:
        assert abs(case.difference) < 0.2, case
        assert not case.estimated_parts or sum(case.estimated_parts) == case.estimated_bytes


@pytest.mark.parametrize(
    "changed", ["teacher.width=512", "adapter.rank=64", "optimizer.name=adamw", "data.resolutions=['1360x768']"]
)
def test_other_cases_are_held_against_nothing(changed: str) -> None:
    assert plan(load_preset("flux-4nfe", [changed]), gpus=(8,)).published == ()


def test_of_a_video_the_frames_of_a_latent_one_are_encoded_at_a_time() -> None:
    kept = plan(load_preset("wan-4nfe"), gpus=(1,)).memory[0]
    each = plan(load_preset("wan-4nfe", ["data.latents=", "teacher.offload_encoders=false"]), gpus=(1,)).memory[0]
    assert not any(item.name.startswith("encoding videos") for item in kept.items)
    assert [item.bytes for item in each.moments if item.name == "encoding videos"] == [4 * 832 * 480 * 2600]


def test_guidance_and_segments_are_counted_as_work() -> None:
    size_of_run = ["training.steps=10", "training.batch_size=8"]
    assert plan(load_preset("digits-1nfe", size_of_run)).teacher_evaluations == 10 * 8 * 2
    guided = [*size_of_run, "teacher.guidance_scale=2", "data.type=noise", "sampling.nfe=4"]
    assert plan(load_preset("digits-1nfe", guided)).teacher_evaluations == 10 * 8 * 2 * 2 * 4
    assert plan(load_preset("flux-4nfe")).teacher_evaluations == 3000 * 256 * 4  # guidance is embedded
    walking = plan(load_preset("flux-4nfe-datafree"))
    assert (walking.student_evaluations, walking.teacher_evaluations) == (3000 * 256 * 4, 3000 * 256 * 4 * 4)
    assert plan(load_preset("qwen-4nfe-datafree")).teacher_evaluations == 9000 * 256 * 4 * 2 * 2


def test_gpus_share_the_batch() -> None:
    estimate = plan(load_preset("flux-4nfe"))
    made = {share.gpus: (share.micro_batch_size, share.accumulation) for share in estimate.shares}
    assert made == {1: (8, 32), 2: (8, 16), 4: (8, 8), 8: (8, 4), 32: (8, 1)}
    assert estimate.gpus_without_accumulation == 32
    assert {(m.strategy, m.gpus) for m in estimate.memory} == {
        ("one GPU", 1),
        *(("DDP", n) for n in (2, 4, 8, 32)),
        *(("FSDP2", n) for n in (2, 4, 8, 32)),
    }
    assert items(estimate, "FSDP2", 32)["gradients yet to be exchanged"] == 0
    assert items(estimate, "FSDP2", 8)["gradients yet to be exchanged"] == 2 * FLUX_TRAINABLE


def test_a_batch_that_does_not_divide_is_refused_with_what_does() -> None:
    preset = load_preset("flux-4nfe")
    with pytest.raises(DataError, match=r"not divisible by 3 processes. 2 or 4 GPUs share it; 3 share .* 240 or 264"):
        plan(preset, gpus=(3,))
    with pytest.raises(DataError, match=r"micro_batch_size 8\. Use --set training.micro_batch_size=4"):
        plan(preset, gpus=(64,))
    estimate = plan(load_preset("flux-4nfe", ["training.batch_size=64", "training.micro_batch_size=8"]))
    assert [bool(share.problem) for share in estimate.shares] == [False, False, False, False, True]
    assert 32 not in {memory.gpus for memory in estimate.memory}


def test_a_teacher_of_its_own_is_sharded_too() -> None:
    estimate = plan(load_preset("dit-1nfe"))
    ddp, sharded = items(estimate, "DDP", 8), items(estimate, "FSDP2", 8)
    assert ddp["teacher's weights"] == 8 * sharded["teacher's weights"] == 2 * 674_816_272
    assert sharded["trainable weights, fp32"] == 4 * 676_717_441 // 8
    assert estimate.facts.lora == 0


@pytest.mark.parametrize(
    "name", ["flux-4nfe", "flux-8nfe", "flux-4nfe-datafree", "flux-4nfe-dx", "qwen-4nfe", "qwen-4nfe-datafree"]
)
def test_every_item_adds_up_and_shows_its_arithmetic(name: str) -> None:
    estimate = plan(load_preset(name))
    for memory in estimate.memory:
        assert memory.total_bytes == sum(item.bytes for item in memory.items)
        assert all(item.arithmetic for item in memory.items if item.bytes)
        assert [item.name for item in memory.items] == [item.name for item in estimate.memory[0].items]
    titles = [section.title for section in report(estimate)]
    assert titles[:2] == ["Parameters", "Memory of each GPU"]
    assert any("Held against what was published" in title for title in titles)
    json.dumps(estimate.to_dict())


def test_sizes_in_words() -> None:
    assert (size(999), size(1_500), size(2.5e9), size(1.1e12)) == ("999 B", "1.5 kB", "2.5 GB", "1.1 TB")
