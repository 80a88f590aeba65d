"""What comes and goes in a training step, by arithmetic; one set of constants for every model.

They were counted on simulated steps of FLUX.1, FLUX.2, Qwen-Image and DiT-XL/2 (docs/measurements.md).

Shapes: B micro-batch, T tokens of a sample (image and text), D width of a token, M width inside the MLP, L width of the
widest layer with LoRA, C latent channels, H, W latent size.
"""

from __future__ import annotations

from dataclasses import dataclass

from piflow_cli.core.interfaces import Part, Strategy
from piflow_cli.engine.plan.model import ModelFacts
from piflow_cli.engine.processes.gathered import GatheredBytes, gathered_bytes
from piflow_cli.preset import Preset

FP32 = 4
ITEM_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "float32": 4, "bf16": 2, "fp16": 2, "no": 4}
"""Of a teacher's dtype, auto being bfloat16 on a GPU, and of what mixed precision computes in."""
BLOCK_FP32_WIDTHS = 4
"""D-wide values a token that a block holds in float32: input and output of its two LayerNorms, as autocast has them."""
BLOCK_WIDTHS = 10
"""And in the precision of the computation: query, key, value and attention's output (4), query and key before their
norms (2), the two branches before their gates (2), the gradients on the way down (2). Attention itself keeps nothing
quadratic in T."""
OWN_TEACHER_WIDTHS, OWN_TEACHER_MLP_TENSORS = 2, 2
"""D-wide and M-wide values a token in a block of a teacher that has a module of its own, which no autocast wraps: the
residual and the normed input; the MLP before and after its activation."""
MLP_TENSORS, FROZEN_MLP_TENSORS = 3, 1
"""M-wide values a token: before and after the activation, and a gradient; frozen layers keep no inputs."""
FUSED_TENSORS = 2
"""Of what fused layers give beside their MLP's output, in a forward pass: the layer's own and its LoRA's."""
LORA_BYTES = 13
"""A token and feature of L: the input in bfloat16, cast to float32 by peft, after dropout, the mask, and cast back."""
FINAL_NORM_BYTES = 12
"""An image token and feature of D: input and output of the last norm in float32, and the inputs of a head's layers."""
POLICY_COPIES = 4
"""Of the network's output in float32: itself, the policy made of it, its gradient, and what a rollout works on."""
PIXEL_BYTES = 1024
"""A pixel in the autoencoder's encoder: four tensors of 128 channels in bfloat16 at full size."""
FRAME_PIXEL_BYTES = 2600
"""A pixel of the frames that Wan encodes at a time, in bfloat16: half of what 2.1's autoencoder took in float32."""


@dataclass(frozen=True)
class Item:
    """Something that takes memory, and the arithmetic that says how much."""

    name: str
    bytes: int
    arithmetic: str


@dataclass(frozen=True)
class Setup:
    """Where a step runs.

    Args:
        accumulates: whether gradients of several backward passes are added up on a GPU before they are exchanged.
        cached: whether embeddings come from a cache.
    """

    strategy: Strategy
    gpus: int
    micro_batch_size: int
    accumulates: bool
    cached: bool


def kept(preset: Preset, facts: ModelFacts, setup: Setup) -> list[Item]:
    """What lives from the student's forward pass to its backward pass."""
    batch, image, text = setup.micro_batch_size, facts.image_tokens, facts.condition.text_tokens
    beside = text + facts.reference_tokens
    positions, states = image * facts.positions, 2 * preset.objective.num_intermediates
    size = compute_bytes(preset)
    channels = POLICY_COPIES * facts.policy_channels + states * facts.channels
    condition = (
        batch
        * teacher_passes(preset, facts)
        * (text * facts.condition.text_width + facts.condition.pooled_width)
        * size
    )
    if preset.training.gradient_checkpointing:
        width, words = facts.width * size, f"{facts.width:,} x {size} bytes"
    else:
        width = _attention_bytes(preset, facts) + _mlp_bytes(preset, facts)
        words = f"{width:,} bytes, not checkpointed"
    items = [
        Item(
            "what the blocks keep",
            batch * facts.blocks * (image + beside) * width,
            f"{batch} x {facts.blocks} blocks x {image + beside:,} tokens x {words}",
        ),
        Item(
            "last norm",
            batch * (image + facts.reference_tokens) * facts.width * FINAL_NORM_BYTES,
            f"{batch} x {image + facts.reference_tokens:,} image tokens x {facts.width:,} x {FINAL_NORM_BYTES} bytes",
        ),
        Item(
            "policy, states, embeddings",
            batch * channels * positions * FP32 + condition,
            f"{batch} x ({POLICY_COPIES} x {facts.policy_channels} + {states} x {facts.channels}) channels x "
            f"{positions:,} x {FP32} bytes" + (f" + {condition:,}" if condition else ""),
        ),
    ]
    if not preset.training.offload_activations:
        return items
    hosted = [Item(item.name, 0, f"in main memory: {item.bytes:,} = {item.arithmetic}") for item in items[:2]]
    return [*hosted, *items[2:]]


def moments(preset: Preset, facts: ModelFacts, setup: Setup) -> list[Item]:
    """What a step needs beyond what it keeps, one moment after another."""
    sequence = facts.image_tokens + facts.reference_tokens + facts.condition.text_tokens
    tokens = setup.micro_batch_size * sequence
    passes, size = teacher_passes(preset, facts), compute_bytes(preset)
    wide, mlp = _attention_bytes(preset, facts), _mlp_bytes(preset, facts)
    going = mlp + FUSED_TENSORS * facts.fused * size
    teacher = wide if preset.adapter is not None else _own_teacher_bytes(preset, facts)
    layer, block = _dequantised(preset, facts)
    cast = gathered(preset).as_held if setup.strategy == "FSDP2" else facts.trainable  # others are gathered cast
    copies = cast * size if size < FP32 else 0
    return [
        Item(
            "student forward",
            copies + tokens * going + layer,
            f"{copies:,} bytes of weights cast by autocast + {tokens:,} tokens x {going:,} of an MLP" + _and(layer),
        ),
        Item(
            "teacher forward",
            tokens * passes * teacher + layer,
            f"{passes} x {tokens:,} tokens x {teacher:,} bytes of a block" + _and(layer),
        ),
        Item(
            "backward, one block again",
            tokens * (wide + mlp) + block,
            f"{tokens:,} tokens x ({wide:,} bytes of a block + {mlp:,} of its MLP and LoRA)" + _and(block),
        ),
    ]


def encoding(preset: Preset, facts: ModelFacts, parts: tuple[Part, ...], setup: Setup) -> list[Item]:
    """Offloaded text encoders and the autoencoder at work, before anything else of the step is there."""
    size, items = ITEM_BYTES[preset.training.teacher_dtype], []
    visiting = preset.teacher.offload_encoders
    encoders, others = (sum(p.parameters for p in parts if p.is_encoder == wanted) for wanted in (True, False))
    if encoders and not setup.cached and visiting:
        words = f"{encoders:,} x {size} bytes of encoders that visit the GPU; none with data.cache"
        items.append(Item("encoding prompts", encoders * size, words))
    if preset.data.encodes_pictures and parts:
        pixels, each, what = _encoded(preset, facts, setup)
        visitor = others if visiting else 0
        words = f"{visitor:,} x {size} + {pixels:,} pixels x {each} bytes"
        items.append(Item(f"encoding {what}", visitor * size + pixels * each, words))
    return items


def _encoded(preset: Preset, facts: ModelFacts, setup: Setup) -> tuple[int, int, str]:
    """Pixels that are encoded at a time, bytes of one, and of what: of one video the frames of a latent one."""
    frames = preset.teacher.num_frames
    if frames == 1:
        pixels = setup.micro_batch_size * facts.image_tokens * facts.positions * facts.pixels
        return pixels, PIXEL_BYTES, "pictures"
    sizes = preset.data.sizes_px or (preset.teacher.size_px,)
    largest = max(width * height for width, height in sizes)
    return largest * min(frames, preset.teacher.frame_factor), FRAME_PIXEL_BYTES, "videos"


def _dequantised(preset: Preset, facts: ModelFacts) -> tuple[int, int]:
    """Bytes of a quantised base's weights made whole: of a layer, and what a block's backward pass has.

    torchao's tensors are made whole for the forward pass and kept for the backward one, a block under checkpointing.
    """
    kind, size = preset.teacher.quantization, compute_bytes(preset)
    if kind == "none":
        return 0, 0
    depth = 1 if preset.training.gradient_checkpointing else facts.blocks
    whole = depth * facts.block_parameters if kind.startswith("torchao") else facts.largest_layer
    return facts.largest_layer * size, whole * size


def _and(num_bytes: int) -> str:
    return f" + {num_bytes:,} of weights made whole" if num_bytes else ""


def compute_bytes(preset: Preset) -> int:
    """Of a number in the precision that networks compute in."""
    return ITEM_BYTES[preset.training.mixed_precision]


def gathered(preset: Preset) -> GatheredBytes:
    """What FSDP2 has in full of a preset's networks."""
    return gathered_bytes(
        preset.teacher,
        preset.policy,
        preset.adapter,
        mixed_precision="no" if compute_bytes(preset) == FP32 else "bf16",
        frozen_bytes=ITEM_BYTES[preset.training.teacher_dtype],
    )


def teacher_passes(preset: Preset, facts: ModelFacts) -> int:
    """Network evaluations of one guided velocity of the teacher, done as one batch."""
    return 1 if facts.condition.embeds_guidance or preset.teacher.guidance_scale == 1 else 2


def _attention_bytes(preset: Preset, facts: ModelFacts) -> int:
    """Bytes a token of the D-wide values in a block, and of what fused layers give beside their MLP's output."""
    size = compute_bytes(preset)
    return facts.width * (BLOCK_FP32_WIDTHS * FP32 + BLOCK_WIDTHS * size) + facts.fused * size


def _own_teacher_bytes(preset: Preset, facts: ModelFacts) -> int:
    """Bytes a token in a block of a teacher that is no part of the student."""
    numbers = OWN_TEACHER_WIDTHS * facts.width + OWN_TEACHER_MLP_TENSORS * facts.hidden
    return numbers * ITEM_BYTES[preset.training.teacher_dtype]


def _mlp_bytes(preset: Preset, facts: ModelFacts) -> int:
    """Bytes a token of the MLP in a block and of its LoRA."""
    tensors = MLP_TENSORS if preset.adapter is None else FROZEN_MLP_TENSORS
    return facts.hidden * tensors * compute_bytes(preset) + facts.lora_input * LORA_BYTES
