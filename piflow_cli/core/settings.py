"""Settings that more than one floor shares: families by their `type`, how a student is sampled, and validated."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from piflow_cli import registry
from piflow_cli.core.schedule import Segments, Shift
from piflow_cli.errors import PiflowError


class Settings(BaseModel):
    """The ground of all settings: frozen; unknown keys, and numbers that are not finite, are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", allow_inf_nan=False)


def _family(kind: str) -> BeforeValidator:
    """A validator that turns a table with a `type`, or of the default one, into the settings registered under it."""

    def validate(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        named = {"type": registry.DEFAULTS[kind]} if kind in registry.DEFAULTS else {}
        if not isinstance(value, dict) or "type" not in named | value:
            raise ValueError(f"needs a type: one of {', '.join(registry.names(kind))}")
        value = named | value
        try:
            settings = registry.resolve(kind, value["type"])
        except PiflowError as error:
            raise ValueError(str(error)) from None
        return settings.model_validate(value)

    return BeforeValidator(validate)


PolicySettings = Annotated[SerializeAsAny[BaseModel], _family("policy")]
"""The settings of any registered policy; the object is the policy family itself."""
TeacherSettings = Annotated[SerializeAsAny[BaseModel], _family("teacher")]
"""The settings of any registered teacher family; the object loads the teacher."""
DataSettings = Annotated[SerializeAsAny[BaseModel], _family("data")]
"""The settings of any registered data source; the object opens it."""
ObjectiveSettings = Annotated[SerializeAsAny[BaseModel], _family("objective")]
"""The settings of any registered objective; the object gives the losses of a step."""

MAX_SEED = 2**64 - 1
"""The largest seed that PyTorch's generators take."""


def _check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"from the lower noise level to the higher one, such as [{interval[1]:g}, {interval[0]:g}]")
    return interval


def _check_temperature(value: object) -> object:
    if value == "auto" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1):
        return value
    raise ValueError("a number from 0 to 1, or auto")


NoiseLevel = Annotated[float, Field(ge=0, le=1)]
NoiseInterval = Annotated[tuple[NoiseLevel, NoiseLevel], AfterValidator(_check_interval)]
"""Two noise levels in [0, 1], the lower one first."""
Temperature = Annotated[Annotated[float, Field(ge=0, le=1)] | Literal["auto"], BeforeValidator(_check_temperature)]

AUTO_TEMPERATURE_SLOPE = 0.1
"""Temperature per evaluation beyond the first under `auto` (pi-Flow, appendix B.1)."""


class SamplingSettings(Settings):
    """How a student is sampled, and what it was trained for."""

    nfe: int = Field(ge=1, le=128, description="network evaluations")
    shift: float = Field(1.0, gt=0, le=100, description="m in sigma = m tau / (1 + (m - 1) tau)")
    final_step_scale: float = Field(1.0, gt=0, le=1, description="length of the last segment relative to the others")
    total_substeps: int = Field(128, ge=1, le=4096, description="policy substeps over the whole of raw time")
    temperature: Temperature = Field(1.0, description="sharpening of the policy, or auto = 0.1 (nfe - 1)")
    h: float = Field(
        0.0, ge=0, allow_inf_nan=True, description="stochasticity between segments; 0 is the ODE, inf re-noises fully"
    )

    @property
    def segments(self) -> Segments:
        """The intervals of raw time, one an evaluation."""
        return Segments(self.nfe, self.final_step_scale)

    @property
    def time_shift(self) -> Shift:
        """The map from raw time to sigma."""
        return Shift(self.shift)

    def resolved_temperature(self) -> float:
        """The temperature of every step but the last, in [0, 1]."""
        if self.temperature == "auto":
            return min(max(AUTO_TEMPERATURE_SLOPE * (self.nfe - 1), 0.0), 1.0)
        return float(self.temperature)


MAX_PICTURES = 256
"""Prompts times seeds: more are no longer looked at."""

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Evaluations = Annotated[int, Field(ge=1, le=128)]


def _check_metric(name: str) -> str:
    if name not in registry.names("metric"):
        raise ValueError(f"one of {', '.join(registry.names('metric'))}")
    return name


MetricName = Annotated[str, AfterValidator(_check_metric)]


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class AskedPrompt(Settings):
    """A prompt, or a class by name or number: a text, or a table where it is about reference pictures."""

    prompt: str
    references: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"prompt": value}
        if not isinstance(value, dict | AskedPrompt):
            raise ValueError('a text, or a table such as {prompt = "make it red", references = "cat.png"}')
        return value

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        return handler(self) if self.references else self.prompt


class ValidationSettings(Settings):
    """Pictures of a student beside its teacher's, from the same noise, and how far they are apart, over the steps."""

    every: int = Field(0, ge=0, le=10**9, description="steps between validations, and after the last; 0 is none")
    prompts: tuple[AskedPrompt, ...] = Field(
        (),
        max_length=MAX_PICTURES,
        description="prompts, or classes by name or number, or tables {prompt, references} that name the files of "
        "pictures a prompt is about; none takes those of previews",
    )
    seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, max_length=MAX_PICTURES, description="of the noise: a picture of each prompt from each"
    )
    nfe: tuple[Evaluations, ...] = Field(
        (), max_length=8, description="numbers of evaluations, the one that counts for the best first; none: its own"
    )
    width: int | None = Field(None, ge=1, le=16384, description="of pictures in pixels; unset: the teacher's")
    height: int | None = Field(None, ge=1, le=16384, description="of pictures in pixels; unset: the teacher's")
    teacher_steps: int = Field(32, ge=1, le=1000, description="Euler steps of the teacher, drawn once")
    samples: int = Field(
        0, ge=0, le=10**6, description="pictures that metrics are measured on, of the data's first conditions; 0: none"
    )
    metrics: tuple[MetricName, ...] = Field(("fid",), description="what to measure, as `piflow benchmark --metric`")
    detector: str | None = Field(None, description="network of the features; unset: what ships for the teacher")
    reference: str | None = Field(None, description="real pictures or statistics; unset: what ships for the teacher")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("set width and height, or neither for the teacher's own size")
        if len(self.prompts) * len(self.seeds) > MAX_PICTURES:
            count = len(self.prompts) * len(self.seeds)
            raise ValueError(f"{MAX_PICTURES} pictures at most; prompts times seeds makes {count}")
        return self

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the pictures, None for the teacher's own."""
        return None if self.width is None or self.height is None else (self.width, self.height)

    def samplings(self, trained: SamplingSettings) -> list[SamplingSettings]:
        """How students are sampled, by the ODE, so that the noise alone decides a picture; the first counts."""
        return [trained.model_copy(update={"nfe": nfe, "h": 0.0}) for nfe in self.nfe or (trained.nfe,)]
