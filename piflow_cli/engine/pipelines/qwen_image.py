"""Qwen-Image students as a diffusers pipeline: called like QwenImagePipeline, but in a few evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_output import QwenImagePipelineOutput
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.engine.pipelines.loop import Generators
from piflow_cli.engine.pipelines.prompts import as_list, matched, one_batch
from piflow_cli.engine.pipelines.student import Callback
from piflow_cli.engine.pipelines.text import Draw, TextPipeline
from piflow_cli.teachers.qwen_image import QwenImageBackbone


class PiQwenImagePipeline(TextPipeline, QwenImagePipeline):
    """QwenImagePipeline with a student for its transformer; the scheduler is not used."""

    teacher_type = "qwen_image"
    projection_name = QwenImageBackbone.projection_name
    attention_argument = "attention_kwargs"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
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
        prompt_embeds_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
        *,
        temperature: float | Literal["auto"] | None = None,
        total_substeps: int | None = None,
        h: float | None = None,
    ) -> QwenImagePipelineOutput | tuple:
        """Pictures of prompts. Arguments as QwenImagePipeline's, but for these.

        Args:
            negative_prompt, true_cfg_scale: the guidance of the teacher is in the student, so that none is needed.
                Where true_cfg_scale > 1 this guides on top, by the policies' velocities u_n + scale (u_c - u_n). It
                doubles the evaluations, and the student was not trained for it.
            height, width: pixels; None is the size of training, and what does not divide is cut with a warning.
            num_inference_steps: evaluations of the network; None is what the student was trained for.
            guidance_scale: the network embeds none, so that it has no effect; warned of.
            latents: noise, packed (B, N, 4 C) or as it is, (B, C, H, W) or (B, C, 1, H, W).
            output_type: pil, pt, np, or latent: packed, in the embeddings' dtype.
            attention_kwargs: `scale` is the strength of style LoRA; the rest goes to the attention.
            max_sequence_length: None is that of training.
            temperature: sharpening of the policies, or auto; None is as trained.
            total_substeps: of the policies over the whole of time; None is as trained.
            h: stochasticity between evaluations; None is as trained, 0 is the ODE.

        Raises:
            ValueError: arguments that do not go together, or that students do not support (sigmas).
            DataError: a size below the smallest.
            PolicyError: the policy cannot be sampled so.
        """
        self._begin(output_type, sigmas=sigmas)
        (prompt,), (negative_prompt,) = matched(prompt=prompt), matched(negative_prompt=negative_prompt)
        shape = self._shape(width, height)
        self.check_inputs(
            prompt,
            *self._pixels(shape),
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            prompt_embeds_mask=prompt_embeds_mask,
            negative_prompt_embeds_mask=negative_prompt_embeds_mask,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            max_sequence_length=max_sequence_length,
        )
        self._check_pairs(
            prompt_embeds_mask=(prompt_embeds_mask, "prompt_embeds", prompt_embeds),
            negative_prompt_embeds_mask=(negative_prompt_embeds_mask, "negative_prompt_embeds", negative_prompt_embeds),
        )
        one_batch(prompt_embeds=prompt_embeds, prompt_embeds_mask=prompt_embeds_mask)
        settings = self._settings(nfe=num_inference_steps, substeps=total_substeps, temperature=temperature, h=h)
        guidance = self._embedded_guidance(guidance_scale)
        self._attention_kwargs, self._guidance_scale = attention_kwargs, guidance
        length = self._text_length(as_list(prompt), max_sequence_length)

        def encode(texts: Any, embeds: Tensor | None, mask: Tensor | None) -> TextCondition:
            embeds, mask = self.encode_prompt(
                prompt=texts,
                device=self._execution_device,
                num_images_per_prompt=num_images_per_prompt,
                prompt_embeds=embeds,
                prompt_embeds_mask=mask,
                max_sequence_length=length,
            )
            mask = mask.bool() if mask is not None else None
            return self._condition(embeds=embeds, mask=mask, guidance=guidance)

        condition, negative = encode(prompt, prompt_embeds, prompt_embeds_mask), None
        has_negative = negative_prompt is not None or negative_prompt_embeds is not None
        if self._guides(true_cfg_scale, negative=has_negative):
            texts = as_list(negative_prompt, len(condition) // num_images_per_prompt)
            negative = encode(texts, negative_prompt_embeds, negative_prompt_embeds_mask)
        draw = Draw(condition, negative, true_cfg_scale, settings, shape, generator, latents, attention_kwargs)
        x = self._draw(draw, callback_on_step_end, callback_on_step_end_tensor_inputs)
        images = self._finish(x, output_type, condition.embeds.dtype)
        return QwenImagePipelineOutput(images=images) if return_dict else (images,)
