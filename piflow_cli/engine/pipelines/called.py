"""Students of any family of prompts as a pipeline that is called as their base's own is, by its own signature.

Families whose calls have more to them (FLUX.1, Qwen-Image) have pipelines written out beside this one.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from piflow_cli.core.conditions import Instruction, TextCondition
from piflow_cli.core.interfaces import PromptSpace
from piflow_cli.engine.pipelines.loop import OnStepEnd
from piflow_cli.engine.pipelines.prompts import as_list, matched
from piflow_cli.engine.pipelines.student import Callback
from piflow_cli.engine.pipelines.text import Draw, TextPipeline
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.pictures import check_number, check_taken

NEGATIVE = "negative_"
PICTURES = "image"
ATTENTION = ("joint_attention_kwargs", "attention_kwargs")
COPIES = ("num_images_per_prompt", "num_videos_per_prompt")
COMMON = (
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "true_cfg_scale",
    *COPIES,
    "num_frames",
    "generator",
    "latents",
    "output_type",
    "return_dict",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "max_sequence_length",
    "use_kv_cache",  # which changes how long the base takes, and no picture
    *ATTENTION,
)
"""Arguments of a base's call that mean the same to its students, beside prompts and embeddings."""


class CalledAsBase(TextPipeline):
    """A base's pipeline with a student for its transformer; the scheduler is not used.

    Arguments are the base's, and three more by name: `temperature`, `total_substeps` and `h`, which are as trained
    where they are None. A size or a length that is not given is that of training; the guidance of the teacher is in the
    student, so that guidance acts against a negative prompt alone, on top, at the price of twice the evaluations.
    """

    base_call: ClassVar[inspect.Signature]
    """Of the base's own `__call__`."""

    @torch.no_grad()
    def __call__(
        self,
        *args: Any,
        temperature: float | Literal["auto"] | None = None,
        total_substeps: int | None = None,
        h: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Pictures or videos of prompts.

        Raises:
            TypeError: an argument that the base does not know.
            ValueError: arguments that do not go together, or that students do not support.
            DataError: a size below the smallest, or reference pictures that are not taken.
            PolicyError: the policy cannot be sampled so.
        """
        given = self._given(args, kwargs)
        texts, embeddings = self._taken(given)
        output_type = given.get("output_type", self.base_call.parameters["output_type"].default)
        self._begin(output_type, **self._unsupported(given, texts, embeddings))
        if (len(texts) > 0) == (len(embeddings) > 0):
            raise ValueError("pass either prompt, or the embeddings of prompts")
        width, height = self._size(given)
        shape = self._shape(width, height, given.get("num_frames"))
        nfe = given.get("num_inference_steps")
        settings = self._settings(nfe=nfe, substeps=total_substeps, temperature=temperature, h=h)
        condition, negative = self._conditions(given, texts, embeddings)
        attention = next((given[name] for name in ATTENTION if given.get(name)), None)
        scale = self._negative_scale(given) if negative is not None else 1.0
        draw = Draw(
            condition, negative, scale, settings, shape, given.get("generator"), given.get("latents"), attention
        )
        names = given.get("callback_on_step_end_tensor_inputs", ("latents",))
        latents = self._draw(draw, given.get("callback_on_step_end"), names)
        images = self._finish(latents, output_type, condition.embeds.dtype)
        return self._space.base_output(images) if given.get("return_dict", True) else (images,)

    def _given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What was passed and is not the base's default, by name."""
        first, given = list(self.base_call.parameters)[1], args[0] if args else None
        if first != "prompt" and isinstance(given[0] if isinstance(given, list) and given else given, str):
            raise ValueError(f"the first argument is {first}, as the base's; pass prompt by name")
        bound = self.base_call.bind(self, *args, **kwargs).arguments
        defaults = {name: parameter.default for name, parameter in self.base_call.parameters.items()}
        return {name: value for name, value in bound.items() if name != "self" and value is not defaults[name]}

    def _taken(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Prompts and embeddings among the arguments, negative ones aside."""
        known = self._space.embedding_arguments
        texts = {name: given[name] for name in _prompts(self.base_call) if given.get(name) is not None}
        return texts, {name: given[name] for name in known if given.get(name) is not None}

    def _unsupported(
        self, given: Mapping[str, Any], texts: Mapping[str, Any], embeddings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Arguments of the base that mean nothing to a student, unless they ask for what the base does anyway."""
        taken = {*COMMON, *texts, *embeddings}
        taken |= {PICTURES} if self._space.num_pictures[1] else set()
        taken |= {NEGATIVE + name for name in (*_prompts(self.base_call), *self._space.embedding_arguments)}
        left = {name: value for name, value in given.items() if name not in taken}
        return {
            name: value for name, value in left.items() if not _same(value, self.base_call.parameters[name].default)
        }

    def _conditions(
        self, given: Mapping[str, Any], texts: Mapping[str, Any], embeddings: Mapping[str, Any]
    ) -> tuple[TextCondition, TextCondition | None]:
        """What the network is conditioned on, and what it is steered away from, for every picture."""
        copies, guidance = next((given[name] for name in COPIES if name in given), 1), None
        if self._space.embedded_guidance:
            guidance = self._embedded_guidance(given.get("guidance_scale"))
        negative_texts = {n: given.get(NEGATIVE + n) for n in _prompts(self.base_call)}
        negative_texts = {name: value for name, value in negative_texts.items() if value is not None}
        names = self._space.embedding_arguments
        negative_given = {n: given[NEGATIVE + n] for n in names if given.get(NEGATIVE + n) is not None}
        length = self._text_length(
            as_list(list(texts.values())[-1]) if texts else None, given.get("max_sequence_length")
        )
        pictures = self._pictures(given)
        condition = self._encoded(texts, embeddings, length, guidance, pictures)
        negative = None
        if self._acts_against(given, negative=bool(negative_texts or negative_given)):
            count = len(condition)
            alone = {name: as_list(value, count) for name, value in negative_texts.items()}
            negative = self._encoded(alone, negative_given, length, guidance, pictures)
            negative = negative.expand(count) if len(negative) == 1 != count else negative
        return tuple(None if part is None else _repeated(part, copies) for part in (condition, negative))

    def _pictures(self, given: Mapping[str, Any]) -> tuple[Image, ...]:
        """The reference pictures, all of every prompt as in the base."""
        images = given.get(PICTURES)
        listed = tuple(images) if isinstance(images, list | tuple) else () if images is None else (images,)
        for i, image in enumerate(listed):
            if not isinstance(image, Image):
                raise ValueError(f"{PICTURES}[{i}] is a {type(image).__name__}; reference pictures are of PIL")
        check_number(self._space.num_pictures, [listed], name=self.student.name)
        return tuple(image if image.mode == "RGB" else image.convert("RGB") for image in listed)

    def _size(self, given: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Width and height as they are asked for, or with reference pictures as the base makes them of those."""
        width, height, pictures = given.get("width"), given.get("height"), self._pictures(given)
        if not pictures:
            return width, height
        check_taken([Instruction("", pictures)], self._space.check_reference)
        usual = self._space.size_about(pictures)
        return width or usual[0], height or usual[1]

    def _encoded(
        self,
        texts: Mapping[str, Any],
        embeddings: Mapping[str, Any],
        length: int,
        guidance: float | None,
        pictures: Sequence[Image],
    ) -> TextCondition:
        """The condition of prompts or of embeddings, where the transformer works."""
        space, device = self._working_space(), self._execution_device
        if embeddings:
            condition = space.condition_of(embeddings)
            condition = replace(condition, references=space.references([pictures] * len(condition)))
        else:
            names, lists = list(texts), [as_list(value) for value in matched(**texts)]
            others = dict(zip(names[1:], lists[1:], strict=True))
            if "prompt" not in texts:
                raise ValueError(f"{names[0]} means nothing without prompt")
            condition = space.embed_about(lists[0], [pictures] * len(lists[0]), length=length, others=others)
        condition = condition.to(device)
        if guidance is None:
            return condition
        return replace(condition, guidance=torch.full((len(condition),), guidance, device=device))

    def _working_space(self) -> PromptSpace:
        """The space where the pipeline works now, which offloading may have changed."""
        space = copy.copy(self._space)
        space.device = self._execution_device
        return space

    def _acts_against(self, given: Mapping[str, Any], *, negative: bool) -> bool:
        """Whether to guide by a negative prompt; half of a request is warned of."""
        name = next(iter(self._space.base_guidance(1.0)))
        if self._space.embedded_guidance:
            if negative:
                warnings.warn("a negative prompt does nothing where the network embeds its guidance", stacklevel=5)
            return False
        if not negative:
            if name in given:
                trained = self.student.card.teacher.guidance_scale
                warnings.warn(
                    f"{name} {given[name]} is ignored: the guidance of the teacher ({trained}) is in the student's "
                    f"weights. With a negative prompt it guides on top.",
                    stacklevel=5,
                )
            return False
        if name not in given or not self._negative_scale(given) > 1:
            warnings.warn(f"a negative prompt does nothing without {name}; pass one", stacklevel=5)
            return False
        return True

    def _negative_scale(self, given: Mapping[str, Any]) -> float:
        """Guidance against the negative prompt, u_n + scale (u_c - u_n), of the base's argument."""
        (name, unit), *_ = self._space.base_guidance(1.0).items()
        return given[name] - unit + 1

    def _reporting(self, callback: Callback, names: Sequence[str]) -> OnStepEnd:
        """As the base shows latents and embeddings to a callback, and takes them from it."""
        backbone, space = self._backbone, self._space

        def report(i: int, timestep: Tensor, x: Tensor, condition: TextCondition) -> tuple[Tensor, TextCondition]:
            shown = backbone.to_base(x).to(condition.embeds.dtype)
            known = {"latents": shown.clone()} | space.base_arguments(condition)
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"callbacks are shown {', '.join(known)}, not {unknown[0]}")
            changed = callback(self, i, timestep, {name: known[name] for name in names})
            latents = changed.get("latents", shown)
            if not torch.equal(latents, shown):  # else x goes on in float32
                x = backbone.from_base(latents.to(x.dtype), *x.shape[-2:])
            embeddings = {name: changed.get(name, known[name]) for name in space.embedding_arguments}
            kept = {"guidance": condition.guidance, "references": condition.references}
            return x, replace(space.condition_of(embeddings), **kept)

        return report


def _prompts(call: inspect.Signature) -> list[str]:
    """Names of the arguments that take prompts: prompt, and prompt_2 and so on."""
    return [name for name in call.parameters if name == "prompt" or name.removeprefix("prompt_").isdecimal()]


def _same(value: Any, default: Any) -> bool:
    """Whether a plain value is the default, written out."""
    return isinstance(value, bool | int | float | str | tuple) and value == default


def _repeated(condition: TextCondition, copies: int) -> TextCondition:
    """Every row several times, one after the other."""
    index = torch.arange(len(condition), device=condition.embeds.device)
    return condition if copies == 1 else condition[index.repeat_interleave(copies)]


@cache
def pipeline_class(family: type[TextFamily], base: type[DiffusionPipeline]) -> type[CalledAsBase]:
    """The class of pipelines of a family's students on a base of some class, called as that is."""
    import diffusers

    transformer: Callable[..., Any] = getattr(diffusers, family.transformer_class).forward
    call, forward = inspect.signature(base.__call__), inspect.signature(transformer).parameters
    facts = {
        "teacher_type": family.model_fields["type"].default,
        "projection_name": family.backbone_class.projection_name,
        "attention_argument": next((name for name in ATTENTION if name in forward), ATTENTION[0]),
        "base_call": call,
        "__doc__": f"{base.__name__} with a student for its transformer. {CalledAsBase.__doc__}",
    }
    return type(f"Pi{base.__name__}", (CalledAsBase, base), facts)
