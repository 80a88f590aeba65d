"""Settings that more than one floor shares: families by their `type`, and how a student is sampled."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

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
