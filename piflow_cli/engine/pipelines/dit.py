"""DiT students as a diffusers pipeline: called like DiTPipeline, but in a few evaluations and without guidance.

Shapes: B batch (labels x pictures a label), C latent channels, H, W latent size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, DiTTransformer2DModel, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from torch import Tensor

from piflow_cli.engine.pipelines.evaluation import evaluate
from piflow_cli.engine.pipelines.loop import Generators, denoise
from piflow_cli.engine.pipelines.prompts import as_tensor
from piflow_cli.engine.pipelines.student import Callback, StudentPipeline
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import ModelError
from piflow_cli.teachers.dit.config import PICTURE_CHANNELS


class PiDiTPipeline(StudentPipeline, DiffusionPipeline):
    """A class-conditional student and its autoencoder, which is None for students on pixels."""

    teacher_type = "dit"
    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ("vae",)
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        transformer: DiTTransformer2DModel,
        vae: AutoencoderKL | None = None,
        id2label: dict[int, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae)
        self.image_processor = VaeImageProcessor()
        named = ((name.strip(), index) for index, names in (id2label or {}).items() for name in names.split(","))
        self.labels = dict(sorted(named))

    @classmethod
    def _build(cls, student: LoadedStudent) -> Self:
        return cls(student.network.module, student.space.vae, student.space.labels)

    def get_label_ids(self, label: str | list[str]) -> list[int]:
        """Class indices of class names."""
        return self._labels([label] if isinstance(label, str) else label).tolist()

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | Tensor,
        guidance_scale: float | None = None,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        num_images_per_prompt: int = 1,
        latents: Tensor | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        temperature: float | Literal["auto"] | None = None,
        total_substeps: int | None = None,
        h: float | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Pictures of classes.

        Args:
            class_labels: class indices or names, or one.
            guidance_scale: has no effect, because the teacher's guidance is in the student; warned of.
            generator: source of all noise; one for the batch or one a picture.
            num_inference_steps: evaluations of the network; None is what the student was trained for.
            output_type: pil, pt, np, or latent: (B, C, H, W), in the autoencoder's dtype, or float32 without one.
            num_images_per_prompt: pictures a class.
            latents: noise, (B, C, H, W).
            callback_on_step_end: called after each evaluation with (pipeline, index, timestep, tensors), and returns
                tensors to go on with; `callback_on_step_end_tensor_inputs` may name "latents".
            temperature: sharpening of the policies, or auto; None is as trained.
            total_substeps: of the policies over the whole of time; None is as trained.
            h: stochasticity between evaluations; None is as trained, 0 is the ODE.

        Raises:
            ValueError: arguments of another shape, or that do not go together.
            DataError: an unknown class.
            PolicyError: the policy cannot be sampled so.
            ModelError: latents that nothing decodes.
        """
        student = self._begin(output_type)
        if guidance_scale is not None:
            warnings.warn(f"guidance_scale {guidance_scale} is ignored: guidance is in the student", stacklevel=3)
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callback_on_step_end_tensor_inputs {sorted(unknown)}: only latents can be had")
        if output_type != "latent" and self.vae is None and student.space.latent_shape[0] not in PICTURE_CHANNELS:
            raise ModelError(
                "no autoencoder is known that decodes these latents; set pipe.vae, or output_type='latent'"
            )
        settings = self._settings(nfe=num_inference_steps, substeps=total_substeps, temperature=temperature, h=h)
        condition = self._labels(class_labels).to(self._execution_device).repeat_interleave(num_images_per_prompt)

        latents_dtype = self.vae.dtype if self.vae is not None else torch.float32

        def report(i: int, timestep: Tensor, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            shown = x.to(latents_dtype)
            given = dict.fromkeys(callback_on_step_end_tensor_inputs, shown.clone())
            changed = callback_on_step_end(self, i, timestep, given).get("latents", shown)
            return x if torch.equal(changed, shown) else changed.to(x.dtype), labels

        x = denoise(
            self,
            self._noise(len(condition), generator, latents),
            condition,
            settings=settings,
            policy_at=lambda x, sigma, labels: evaluate(student.network, self.transformer, x, sigma, labels),
            generator=generator,
            on_step_end=report if callback_on_step_end is not None else None,
        )
        images = x.to(latents_dtype) if output_type == "latent" else self._pictures(x, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, labels: int | str | Sequence[int | str] | Tensor) -> Tensor:
        """Class indices (B,) of indices or names."""
        listed = labels.reshape(-1).tolist() if isinstance(labels, Tensor) else labels
        listed = [listed] if isinstance(listed, int | str) else listed
        return self.student.space.encode_prompts([str(label) for label in listed])

    def _noise(self, batch: int, generator: Generators, given: Tensor | None) -> Tensor:
        """Noise (B, C, H, W) in float32."""
        shape = (batch, *self.student.space.latent_shape)
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"there are {len(generator)} generators for {batch} pictures; pass one, or one a picture")
        if given is None:
            return randn_tensor(shape, generator, self._execution_device, torch.float32)
        given = as_tensor(given, "latents")
        if tuple(given.shape) != shape:
            raise ValueError(f"latents are {tuple(given.shape)}; this call needs {shape}")
        return given.to(self._execution_device, torch.float32)

    def _pictures(self, latents: Tensor, output_type: str) -> Any:
        """Pictures of latents (B, C, H, W) in the form asked for."""
        if (vae := self.vae) is not None:
            scaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)
            latents = vae.decode(scaled.to(get_module_execution_device(vae), vae.dtype)).sample
        return self.image_processor.postprocess(self._finite(latents), output_type=output_type)
