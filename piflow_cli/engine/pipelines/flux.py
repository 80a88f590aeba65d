"""FLUX students as a diffusers pipeline: called like FluxPipeline, but in a few evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import FluxPipeline
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.flux.pipeline_output import FluxPipelineOutput
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.engine.pipelines.loop import Generators
from piflow_cli.engine.pipelines.prompts import as_list, matched, one_batch
from piflow_cli.engine.pipelines.student import Callback
from piflow_cli.engine.pipelines.text import Draw, TextPipeline
from piflow_cli.teachers.flux import FluxBackbone


class PiFluxPipeline(TextPipeline, FluxPipeline):
    """FluxPipeline with a student for its transformer; the scheduler is not used."""

    teacher_type = "flux"
    projection_name = FluxBackbone.projection_name
    attention_argument = "joint_attention_kwargs"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        prompt_2: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        true_cfg_scale: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        negative_ip_adapter_image: PipelineImageInput | None = None,
        negative_ip_adapter_image_embeds: list[Tensor] | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        joint_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
        *,
        temperature: float | Literal["auto"] | None = None,
        total_substeps: int | None = None,
        h: float | None = None,
    ) -> FluxPipelineOutput | tuple:
        """Pictures of prompts. Arguments as FluxPipeline's, but for these.

        Args:
            height, width: pixels; None is the size of training, and what does not divide is cut with a warning.
            num_inference_steps: evaluations of the network; None is what the student was trained for.
            guidance_scale: embedded; None is what it was trained with, and another one is warned of.
            negative_prompt, negative_prompt_2, true_cfg_scale: guidance on top, of the policies' velocities, where
                true_cfg_scale > 1. It doubles the evaluations, and the student was not trained for it.
            latents: noise, packed (B, N, 4 C) or as it is, (B, C, H, W).
            output_type: pil, pt, np, or latent: packed, in the embeddings' dtype.
            joint_attention_kwargs: `scale` is the strength of style LoRA; the rest goes to the attention.
            max_sequence_length: None is that of training.
            temperature: sharpening of the policies, or auto; None is as trained.
            total_substeps: of the policies over the whole of time; None is as trained.
            h: stochasticity between evaluations; None is as trained, 0 is the ODE.

        Raises:
            ValueError: arguments that do not go together, or that students do not support (sigmas, IP adapters).
            DataError: a size below the smallest.
            PolicyError: the policy cannot be sampled so.
        """
        self._begin(
            output_type,
            sigmas=sigmas,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            negative_ip_adapter_image=negative_ip_adapter_image,
            negative_ip_adapter_image_embeds=negative_ip_adapter_image_embeds,
        )
        prompt, prompt_2 = matched(prompt=prompt, prompt_2=prompt_2)
        negatives = matched(negative_prompt=negative_prompt, negative_prompt_2=negative_prompt_2)
        negative_prompt, negative_prompt_2 = negatives
        shape = self._shape(width, height)
        self.check_inputs(
            prompt,
            prompt_2,
            *self._pixels(shape),
            negative_prompt=negative_prompt,
            negative_prompt_2=negative_prompt_2,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            max_sequence_length=max_sequence_length,
        )
        self._check_pairs(
            negative_prompt_2=(negative_prompt_2, "negative_prompt", negative_prompt),
            pooled_prompt_embeds=(pooled_prompt_embeds, "prompt_embeds", prompt_embeds),
            negative_pooled_prompt_embeds=(
                negative_pooled_prompt_embeds,
                "negative_prompt_embeds",
                negative_prompt_embeds,
            ),
        )
        one_batch(prompt_embeds=prompt_embeds, pooled_prompt_embeds=pooled_prompt_embeds)
        settings = self._settings(nfe=num_inference_steps, substeps=total_substeps, temperature=temperature, h=h)
        guidance = self._embedded_guidance(guidance_scale)
        self._joint_attention_kwargs, self._guidance_scale = joint_attention_kwargs, guidance
        length = self._text_length(as_list(prompt_2 or prompt), max_sequence_length)

        def encode(first: Any, second: Any, embeds: Tensor | None, pooled: Tensor | None) -> TextCondition:
            copies = 1 if embeds is None else num_images_per_prompt  # diffusers does not repeat what it is given
            embeds, pooled, _ = self.encode_prompt(
                prompt=first,
                prompt_2=second,
                device=self._execution_device,
                num_images_per_prompt=num_images_per_prompt,
                prompt_embeds=embeds,
                pooled_prompt_embeds=pooled,
                max_sequence_length=length,
                lora_scale=(joint_attention_kwargs or {}).get("scale"),
            )
            embeds, pooled = (part.repeat_interleave(copies, dim=0) for part in (embeds, pooled))
            return self._condition(embeds=embeds, pooled=pooled, guidance=guidance)

        condition, negative = encode(prompt, prompt_2, prompt_embeds, pooled_prompt_embeds), None
        has_negative = negative_prompt is not None or negative_prompt_embeds is not None
        if self._guides(true_cfg_scale, negative=has_negative):
            count = len(condition) // num_images_per_prompt
            texts = as_list(negative_prompt, count), as_list(negative_prompt_2, count)
            negative = encode(*texts, negative_prompt_embeds, negative_pooled_prompt_embeds)
        draw = Draw(condition, negative, true_cfg_scale, settings, shape, generator, latents, joint_attention_kwargs)
        x = self._draw(draw, callback_on_step_end, callback_on_step_end_tensor_inputs)
        images = self._finish(x, output_type, condition.embeds.dtype)
        return FluxPipelineOutput(images=images) if return_dict else (images,)

    def load_ip_adapter(self, *_: Any, **__: Any) -> None:
        """Refuse: students were not trained with image prompts.

        Raises:
            ValueError: always.
        """
        raise ValueError("students do not support IP adapters")
