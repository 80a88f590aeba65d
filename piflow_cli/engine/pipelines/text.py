"""What the pipelines of students of prompts share: sizes, latents, guidance, callbacks.

Shapes: B batch (prompts x pictures a prompt), N image tokens, C latent channels, S spatial dims (H, W or T, H, W).
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from diffusers import CacheMixin
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.guidance import GuidedPolicy
from piflow_cli.core.interfaces import Policy, PromptSpace
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.pipelines.evaluation import evaluate
from piflow_cli.engine.pipelines.loop import Generators, OnStepEnd, denoise
from piflow_cli.engine.pipelines.prompts import as_tensor
from piflow_cli.engine.pipelines.student import Callback, StudentPipeline
from piflow_cli.engine.pipelines.style.layers import styles_scaled
from piflow_cli.engine.pipelines.style.loras import StyleLoras
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.teachers.text.tokens import TextBackbone


@dataclass(frozen=True)
class Draw:
    """One call, once its prompts are encoded.

    Args:
        condition, negative: of every picture; `negative` is None without extra guidance.
        scale: extra guidance.
        settings: how the student is sampled.
        shape: (C, *S) of a picture's latents.
        generator: source of all noise.
        latents: noise that was given, None to draw it.
        attention_kwargs: what the transformer's attention is called with, and `scale` of the style LoRA.
    """

    condition: TextCondition
    negative: TextCondition | None
    scale: float
    settings: SamplingSettings
    shape: tuple[int, ...]
    generator: Generators
    latents: Tensor | None
    attention_kwargs: Mapping[str, Any] | None


class TextPipeline(StudentPipeline, StyleLoras):
    """A text-to-image pipeline of diffusers whose transformer is a student."""

    attention_argument: ClassVar[str]
    """What the transformer calls its attention arguments."""

    @classmethod
    def _build(cls, student: LoadedStudent) -> Self:
        base = student.space.pipeline
        pipeline = cls(**(base.components | {"transformer": student.network.module}))
        pipeline.hf_device_map = base.hf_device_map
        student.space.pipeline = pipeline  # so that parts put into the pipeline are used by the space too
        return pipeline

    @property
    def _space(self) -> PromptSpace:
        """Encoders, autoencoder and sizes, over this very pipeline."""
        return self.student.space

    @property
    def _backbone(self) -> TextBackbone:
        """How the student's module is called, and its latents lie."""
        return self.student.network.backbone

    def register_modules(self, **parts: Any) -> None:
        """As diffusers' method, with the student that the transformer belongs to."""
        super().register_modules(**parts)
        if "transformer" in parts:
            self._remember_own_lora()

    def _taking(self, student: LoadedStudent) -> LoadedStudent:
        """The student over this pipeline's encoders and autoencoder."""
        space = copy.copy(student.space)
        space.pipeline = self
        return replace(student, space=space)

    def _shape(self, width: int | None, height: int | None, frames: int | None = None) -> tuple[int, ...]:
        """(C, *S) of the latents; the size the student was trained for where none is given.

        Sides that do not divide are cut to the next smaller ones that do, with a warning.
        """
        space = self._space
        down, across = (space.factor * side for side in self._backbone.side_steps())
        asked = {"width": width or space.settings.width, "height": height or space.settings.height}
        steps = {"width": across, "height": down}
        cut = {name: int(value) // steps[name] * steps[name] or value for name, value in asked.items()}
        if cut != asked:
            sides, fitting = (" x ".join(str(side) for side in sizes.values()) for sizes in (asked, cut))
            step = across if across == down else f"{across} x {down}"
            warnings.warn(
                f"{sides} pixels (width x height) are not divisible by {step}: pictures are {fitting}", stacklevel=4
            )
        return space.latent_shape_of(cut["width"], cut["height"], frames)

    def _pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Height and width of the pictures, and the frames of videos."""
        sides, step = [side * self._space.factor for side in shape[-2:]], self._space.settings.frame_factor
        return tuple(sides) if step is None else (*sides, 1 + step * (shape[1] - 1))

    def _text_length(self, prompts: list[str] | None, asked: int | None) -> int:
        """Tokens a prompt is cut to, as trained where it is not said; prompts that are longer are warned of."""
        space = self._space
        length = asked or space.settings.max_sequence_length
        for prompt, tokens in zip(prompts or (), space.prompt_lengths(prompts) if prompts else (), strict=True):
            if tokens > length:
                warnings.warn(
                    f"the last {tokens - length} of {tokens} tokens of the prompt {prompt[:40]!r} are dropped: the "
                    f"student reads {length} (max_sequence_length)",
                    stacklevel=4,
                )
        return length

    def _embedded_guidance(self, asked: float | None) -> float | None:
        """The guidance scale for the network to embed: the trained one, or another with a warning; None without.

        A scale for a network that embeds none is warned of and has no effect, as in the bases.
        """
        trained = self.student.card.teacher.guidance_scale
        if self._space.embedded_guidance:
            if asked is not None and asked != trained:
                warnings.warn(
                    f"guidance_scale {asked} is not what {self.student.name} was trained with ({trained}): pictures "
                    "become noisy. Leave it out.",
                    stacklevel=4,
                )
            return float(trained if asked is None else asked)
        if asked is not None:
            warnings.warn(
                f"guidance_scale {asked} is ignored: the network of this student embeds none, and the guidance "
                f"of its teacher ({trained}) is in its weights. negative_prompt with true_cfg_scale > 1 guides on top.",
                stacklevel=4,
            )
        return None

    def _condition(self, *, guidance: float | None, **parts: Tensor | None) -> TextCondition:
        """Encoded prompts where the transformer works, with the guidance scale to embed."""
        moved = {name: part.to(self._execution_device) for name, part in parts.items() if part is not None}
        condition = TextCondition(**moved)
        if guidance is None:
            return condition
        return replace(condition, guidance=torch.full((len(condition),), guidance, device=self._execution_device))

    def _check_pairs(self, **pairs: tuple[object, str, object]) -> None:
        """Raise ValueError for an argument, (itself, name of another, the other), that needs another and is alone."""
        for name, (value, other_name, other) in pairs.items():
            if value is not None and other is None:
                raise ValueError(f"{name} means nothing without {other_name}")

    def _guides(self, scale: float, *, negative: bool) -> bool:
        """Whether to guide by a negative prompt; half of a request is warned of."""
        if scale > 1 and not negative:
            warnings.warn(f"true_cfg_scale {scale} does nothing without a negative_prompt", stacklevel=4)
        if negative and not scale > 1:
            warnings.warn(f"negative_prompt does nothing at true_cfg_scale {scale}; pass one > 1", stacklevel=4)
        return negative and scale > 1

    def _draw(self, draw: Draw, callback: Callback | None, names: Sequence[str]) -> Tensor:
        """Latents x_0, (B, C, *S), in float32."""
        if draw.negative is not None and len(draw.negative) != len(draw.condition):
            raise ValueError(f"there are {len(draw.negative)} negative prompts for {len(draw.condition)} pictures")
        arguments = dict(draw.attention_kwargs or {})
        style_scale = arguments.pop("scale", 1.0)
        arguments = {self.attention_argument: arguments} if arguments else {}

        def one(context: str, *at: Any) -> Policy:
            with self._cached_as(context):
                network, backbone = self.student.network, self._backbone
                return evaluate(network, self.transformer, *at, arguments=arguments, reading=backbone)

        def policy_at(x: Tensor, sigma: Tensor, condition: TextCondition) -> Policy:
            policy = one("cond", x, sigma, condition)
            if draw.negative is None:
                return policy
            return GuidedPolicy(policy, one("uncond", x, sigma, draw.negative), scale=draw.scale)

        with self._own_lora_acting(), styles_scaled(self._module, style_scale):
            return denoise(
                self,
                self._noise(draw),
                draw.condition,
                settings=draw.settings,
                policy_at=policy_at,
                generator=draw.generator,
                on_step_end=self._reporting(callback, names) if callback is not None else None,
            )

    def _cached_as(self, context: str) -> AbstractContextManager[None]:
        """Whose evaluation it is, for transformers that diffusers' caches know."""
        return self.transformer.cache_context(context) if isinstance(self._module, CacheMixin) else nullcontext()

    def _noise(self, draw: Draw) -> Tensor:
        """Noise (B, C, *S), drawn as the base draws it but in float32, or given: packed, or as it is.

        Raises:
            ValueError: noise of another shape.
        """
        (channels, *sides), batch = draw.shape, len(draw.condition)
        height, width = sides[-2:]
        device, given, backbone = self._execution_device, as_tensor(draw.latents, "latents"), self._backbone
        if given is None:
            size = self._pixels(draw.shape)
            first = next(iter(inspect.signature(self.prepare_latents).parameters))
            pictures = (None,) if first.startswith("image") else ()  # of editing, which comes first in some bases
            packed = self.prepare_latents(*pictures, batch, channels, *size, torch.float32, device, draw.generator)
            return backbone.from_base(packed[0] if isinstance(packed, tuple) else packed, height, width)
        given = given.to(device, torch.float32)
        whole = (batch, *draw.shape)
        one_frame = ((batch, channels, 1, *sides), (batch, 1, channels, *sides))
        base = tuple(backbone.to_call(given.new_empty(whole, device="meta")).shape)
        if given.shape == base:
            return backbone.from_base(given, height, width)
        if given.shape == whole or tuple(given.shape) in one_frame:
            return given.reshape(whole)
        raise ValueError(f"latents are {tuple(given.shape)}; this call needs {base} (packed) or {whole}")

    def _reporting(self, callback: Callback, names: Sequence[str]) -> OnStepEnd:
        """A caller of the user's callback: it sees latents as calls take them, and may change them and embeddings."""
        backbone = self._backbone

        def report(i: int, timestep: Tensor, x: Tensor, condition: TextCondition) -> tuple[Tensor, TextCondition]:
            shown = backbone.to_base(x).to(condition.embeds.dtype)
            known = {"latents": shown.clone(), "prompt_embeds": condition.embeds}
            changed = callback(self, i, timestep, {name: known[name] for name in names})
            latents, embeds = (changed.get(name, tensor) for name, tensor in known.items())
            if not torch.equal(latents, shown):  # else x goes on in float32
                x = backbone.from_base(latents.to(x.dtype), *x.shape[-2:])
            return x, replace(condition, embeds=embeds)

        return report

    def _finish(self, latents: Tensor, output_type: str, dtype: torch.dtype) -> Any:
        """Latents as the base returns them, in `dtype`, the embeddings' own, or pictures; parts go home."""
        space = self._space
        if output_type == "latent":
            images = space.base_result(latents).to(dtype)
        else:
            pictures = space.to_pixels(latents.to(get_module_execution_device(self.vae)))
            images = self._processed(self._finite(pictures), output_type)
        self.maybe_free_model_hooks()
        return images

    def _processed(self, pictures: Tensor, output_type: str) -> Any:
        """Pictures (B, 3, H, W), or videos (B, 3, F, H, W), in [-1, 1] as the base gives them."""
        if pictures.ndim == 5:
            return self.video_processor.postprocess_video(pictures, output_type=output_type)
        return self.image_processor.postprocess(pictures, output_type=output_type)
