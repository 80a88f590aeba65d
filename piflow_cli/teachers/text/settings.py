"""What a preset says of a text-to-image teacher: the leaf that its other files import."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from piflow_cli.core.schedule import Shift
from piflow_cli.core.settings import NoiseInterval, Settings
from piflow_cli.io.hub import local_path
from piflow_cli.teachers.schedules import scheduler_shift
from piflow_cli.teachers.text.tokens import BackboneClass

Quantization = Literal["none", "bnb-8bit", "bnb-4bit", "torchao-int8", "torchao-fp8"]


class TextSettings(Settings):
    """The keys of a diffusers text-to-image pipeline: its folder or hub id, and how it is used."""

    source: str = Field(description="pipeline's folder or hub id, or zoo:NAME")
    transformer: str | None = Field(
        None, description="another transformer for it: a folder, or a .safetensors or .gguf file"
    )
    variant: str | None = Field(None, description="weight variant, such as fp16")
    revision: str | None = Field(None, description="hub revision")
    local_files_only: bool = Field(False, description="never ask the hub")
    quantization: Quantization = Field("none", description="of the frozen transformer, while it loads")
    device_map: str | None = Field(None, description="diffusers' device map over several devices, such as balanced")
    offload_encoders: bool = Field(False, description="keep text encoders and autoencoder off the device while unused")
    guidance_scale: float = Field(ge=0, le=100, description="embedded where the network takes it, else by two passes")
    guidance_interval: NoiseInterval = Field((0.0, 1.0), description="noise levels where two-pass guidance acts")
    normalized_guidance: bool = Field(
        False, description="rescale two-pass guidance, patch by patch, to the norm of the velocity without it"
    )
    orthogonal: float = Field(0.0, ge=0, le=1, description="part of two-pass guidance parallel to x_0 that is removed")
    negative_prompt: str = Field("", description="of two-pass guidance")
    width: int = Field(1024, ge=16, le=16_384, description="pixels")
    height: int = Field(1024, ge=16, le=16_384, description="pixels")
    max_sequence_length: int = Field(512, ge=1, le=65_536, description="text tokens a prompt is cut to")
    architecture: str | None = Field(None, description="lets --plan reckon while the source is not on this machine")

    students_need_base: ClassVar[bool] = True
    num_pictures: ClassVar[tuple[int, int]] = (0, 0)
    """The fewest and the most reference pictures that a prompt may have."""
    base_normalizes: ClassVar[bool] = False
    """Whether the base's own pipeline normalises guidance."""
    pipeline_classes: ClassVar[tuple[str, ...]]
    """The pipelines of diffusers that it reads; the index of a folder says which one is there."""
    transformer_class: ClassVar[str]
    backbone_class: ClassVar[BackboneClass]
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """The networks that encode prompts, by the names of their folders; their configs name the cache of embeddings."""
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    """What prepares prompts for them; the last one decides how much of a prompt is read."""
    essential: ClassVar[tuple[str, ...]] = ()
    """Of both, what a pipeline of the class cannot be made without, where embeddings are cached too."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the pipeline needs to be whole, by the names of its folders."""
        return ("scheduler", "vae", *self.tokenizers, *self.encoders, "transformer")

    @property
    def pipelines(self) -> str:
        """The classes that its pipelines may have, in words."""
        return " or ".join(self.pipeline_classes)

    def check_index(self, index: dict[str, Any]) -> None:  # noqa: ARG002
        """Raise ModelError for a pipeline that is of one of the classes, but by its index is no teacher."""
        return

    def own_shift(self, scheduler: Mapping[str, Any], positions: int, *, num_steps: int) -> Shift:  # noqa: ARG002
        """The time grid of its pipeline with a scheduler of this config; further arguments as `Teacher.own_shift`.

        Raises:
            ModelError: it is none that a shift makes.
        """
        return scheduler_shift(scheduler, positions, origin=f"the scheduler of {self.source}")

    @classmethod
    def said_by(cls, source: str) -> frozenset[str]:  # noqa: ARG003
        """Nothing: another transformer or variant may be meant for the new source too."""
        return frozenset()

    def check_prompts(self, network: dict[str, Any], prompts: Sequence[str]) -> None:
        """Nothing: every text can be encoded."""

    def class_names(self, network: dict[str, Any]) -> dict[int, str]:  # noqa: ARG002
        """None: conditions are prompts."""
        return {}

    def source_paths(self) -> dict[str, Path]:
        """The local files and folders that its weights are read from, by the key that names them."""
        found = {"source": local_path(self.source, revision=self.revision)}
        if self.transformer is not None:
            found["transformer"] = local_path(self.transformer)
        return {key: path for key, path in found.items() if path is not None}
