"""The recipe of a distillation: its schema, and loading it from a name or a TOML file with overrides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from piflow_cli import registry
from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.problems import explain
from piflow_cli.core.settings import (
    MAX_SEED,
    DataSettings,
    ObjectiveSettings,
    PolicySettings,
    SamplingSettings,
    Settings,
    TeacherSettings,
    ValidationSettings,
)
from piflow_cli.errors import PiflowError, PresetError
from piflow_cli.io.presets import merge_tables, parse_overrides, read_table, shipped_name

FAMILIES = ("teacher", "policy", "objective", "data")
WORDS = frozenset({"summary", "source", "expected", "needs", "name", "made_from", "attribution"})
"""Keys that say something of a recipe and change nothing of it."""


Beta = Annotated[float, Field(ge=0, lt=1)]
MAX_COUNT = 10**9
"""Of steps and samples: more is a slip of the finger, and would end in memory that does not exist."""


class OptimizerSettings(Settings):
    """The optimiser, its schedule, and what guards it."""

    name: Literal["auto", "adamw", "adamw8bit", "paged-adamw8bit", "muon"] = Field(
        "auto",
        description="auto is 8-bit AdamW on CUDA where bitsandbytes is installed, else AdamW; "
        "paged-adamw8bit keeps its state where the GPU can do without it; "
        "muon is Muon for the matrices of the blocks, scaled to AdamW's rate, and AdamW for the rest",
    )
    learning_rate: float = Field(5e-5, gt=0, le=1, description="after warm-up")
    warmup_steps: int = Field(500, ge=0, le=MAX_COUNT, description="linear warm-up")
    decay: Literal["constant", "cosine"] = Field("constant", description="learning rate after warm-up")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="AdamW betas")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm after warm-up")
    max_bad_steps: int = Field(20, ge=1, le=MAX_COUNT, description="non-finite steps in a row before training stops")


class TrainingSettings(Settings):
    """How long, how large and in which precision; what is kept on the way."""

    steps: int = Field(ge=1, le=MAX_COUNT, description="optimiser steps")
    batch_size: int = Field(ge=1, le=MAX_COUNT, description="samples a step, over all processes and accumulation")
    micro_batch_size: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="samples a forward pass and process; unset: all"
    )
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        "no", description="autocast of the student's passes; auto is bf16 where the device has instructions for it"
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32", description="of the frozen teacher; auto is bfloat16 where the device has instructions for it"
    )
    gradient_checkpointing: bool = Field(False, description="recompute the student's blocks in the backward pass")
    offload_activations: bool = Field(
        False, description="keep in main memory what the student's forward pass leaves for the backward pass"
    )
    compile: bool = Field(False, description="run the blocks of student and teacher through torch.compile")
    data_workers: int = Field(
        0, ge=0, le=64, description="processes that read pictures and embeddings ahead; 0 reads in the training process"
    )
    ema_gamma: float = Field(7.0, ge=0, le=1000, description="beta = (1 - 1/t)^(gamma + 1)")
    init: str | None = Field(
        None, description="student to begin with: a folder, run, RUN@STEP, name or hub id; unset: its teacher"
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of every random draw")
    checkpoint_every: int = Field(500, ge=1, le=MAX_COUNT, description="steps between checkpoints")
    checkpoints_kept: int = Field(2, ge=1, le=MAX_COUNT, description="newest checkpoints kept")
    preview_every: int = Field(500, ge=0, le=MAX_COUNT, description="steps between preview pictures; 0 is none")
    preview_images: int = Field(16, ge=1, le=256, description="pictures in a preview")
    hang_timeout_s: float = Field(
        45.0,
        ge=1,
        le=1e6,
        description="seconds that one of several processes may read a batch, or give no sign of life, before all end",
    )
    exchange_timeout_s: float = Field(
        1800.0, ge=1, le=1e6, description="seconds that processes wait for one another, such as for one that saves"
    )
    trackers: tuple[str, ...] = Field((), description="accelerate trackers, such as tensorboard or wandb")


class Preset(Settings):
    """A recipe: which teacher becomes which student, how, and what score to expect."""

    name: str = Field(min_length=1, description="name of the recipe")
    summary: str = Field("", description="one line")
    source: str = Field("", description="where the hyperparameters come from")
    expected: str = Field("", description="the score to expect")
    needs: str = Field("", description="hardware, data and time, in words")
    made_from: str = Field("", description="the preset that ships which this one extends; noted by itself")
    attribution: str = Field("", description="whose works an embedded teacher learnt from, and their licences")
    teacher: TeacherSettings
    policy: PolicySettings
    adapter: AdapterSettings | None = None
    sampling: SamplingSettings
    objective: ObjectiveSettings = Field(default_factory=dict, validate_default=True)
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings
    validation: ValidationSettings = ValidationSettings()
    data: DataSettings

    @model_validator(mode="after")
    def _adapter_fits_precision(self) -> Self:
        training = self.training
        if self.adapter is not None and (training.teacher_dtype == "auto") != (training.mixed_precision == "auto"):
            raise ValueError(
                "training.teacher_dtype: an adapter shares the teacher's network, so that teacher_dtype and "
                f"mixed_precision are both auto or both named (got {training.teacher_dtype!r} and "
                f"{training.mixed_precision!r})"
            )
        if self.adapter is not None and training.teacher_dtype != "float32" and training.mixed_precision == "no":
            raise ValueError(
                f"training.mixed_precision: an adapter's float32 weights on a {training.teacher_dtype} teacher need "
                "bf16 or fp16, or training.teacher_dtype float32 (got 'no')"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        batch, micro = self.training.batch_size, self.training.micro_batch_size
        if micro is not None and batch % micro:
            fitting = max(size for size in range(1, min(batch, micro) + 1) if batch % size == 0)
            raise ValueError(
                f"training.micro_batch_size: divides training.batch_size {batch}, such as {fitting}: each step "
                f"accumulates whole micro-batches (got {micro})"
            )
        return self

    @model_validator(mode="after")
    def _objective_fits_sampling(self) -> Self:
        try:
            self.objective.check_sampling(self.sampling)
        except PiflowError as error:
            raise ValueError(str(error)) from None
        return self

    def doubts(self) -> list[str]:
        """What is allowed and seldom meant."""
        found, warmup = self.objective.doubts(self.sampling), self.optimizer.warmup_steps
        if warmup >= self.training.steps:
            found.append(
                f"optimizer.warmup_steps {warmup} is not below training.steps {self.training.steps}: the rate never "
                f"comes to {self.optimizer.learning_rate}, and the average is a copy of the weights"
            )
        return found

    @model_validator(mode="after")
    def _policy_fits_sampling(self) -> Self:
        try:
            self.policy.check_sampling(segments=self.sampling.segments, shift=self.sampling.shift)
            for settings in self.validation.samplings(self.sampling):
                self.policy.check_sampling(segments=settings.segments, shift=settings.shift)
        except PiflowError as error:
            raise ValueError(str(error)) from None
        return self


def read_preset_table(name_or_path: str | Path) -> dict[str, Any]:
    """The raw table of a preset by name or path, over the preset that it extends.

    Raises:
        PresetError: no such name or file, no TOML, or a chain of `extends` that goes in a circle.
    """
    tables = [read_table(name_or_path)]
    while "extends" in tables[-1].values:
        parent = tables[-1].values.pop("extends")
        if not isinstance(parent, str):
            raise PresetError(f"{tables[-1].path}: extends is {parent!r}; it takes the name or the path of a preset")
        tables.append(read_table(parent, beside=tables[-1].path))
        if tables[-1].path in [table.path for table in tables[:-1]]:
            raise PresetError(f"{tables[0].path}: extends goes in a circle, by {tables[-1].path}")
    merged: dict[str, Any] = {}
    for table in reversed(tables):
        own = {"expected": "", "summary": f"after {merged['name']}"} if merged else {}
        merged = _over(merged, own | {"name": table.path.stem} | table.values)
    return {"made_from": shipped_name([table.path for table in tables])} | merged


def load_preset(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """Load and validate a preset.

    Args:
        name_or_path: a name from `piflow presets list`, or a TOML file.
        overrides: `key.path=value` settings, values in TOML's notation (bare words are strings); `key.path=` unsets.

    Raises:
        PresetError: each problem with its full key path, the value and what is allowed.
    """
    table = _over(read_preset_table(name_or_path), parse_overrides(overrides))
    return parse_preset(table, origin=str(name_or_path))


def _over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with changes put over it; with another teacher's source falls away what was said of the former one."""
    merged = merge_tables(base, changes, known_keys=_known_keys)
    old, new = base.get("teacher"), changes.get("teacher")
    if not (isinstance(old, Mapping) and isinstance(new, Mapping) and isinstance(new.get("source"), str)):
        return merged
    if new["source"] == old.get("source"):
        return merged
    try:
        said = registry.resolve("teacher", str(merged["teacher"].get("type"))).said_by(new["source"])
    except PiflowError:
        return merged  # reported with its path by the validation that follows
    kept = {key: value for key, value in merged["teacher"].items() if key in new or key not in said}
    return merged | {"teacher": kept}


def _known_keys(kind: str, name: str) -> set[str]:
    """The keys of a family's table; none where the name is not registered, which validation then says."""
    if kind not in FAMILIES:
        return set()
    try:
        return set(registry.resolve(kind, name).model_fields)
    except PiflowError:
        return set()


def changed_preset(preset: Preset, settings: Sequence[str]) -> Preset:
    """A preset with `key.path=value` settings in place of its own. Raises PresetError as `load_preset` does."""
    table = _over(preset.model_dump(mode="json"), parse_overrides(settings))
    return parse_preset(table, origin=f"{preset.name} with {', '.join(settings)}")


def parse_preset(table: Mapping[str, Any], *, origin: str = "preset") -> Preset:
    """Validate a table. Raises PresetError as `load_preset` does."""
    values, problems = dict(table), []
    _fill_policy(values)
    for kind in FAMILIES:
        problems += _build_family(values, kind)
    try:
        if not problems:
            return Preset.model_validate(values)
    except ValidationError as error:
        problems += [explain(item, Preset, ()) for item in error.errors()]
    raise PresetError(f"{origin} is not a valid preset:\n" + "\n".join(f"  {problem}" for problem in problems))


def _fill_policy(values: dict[str, Any]) -> None:
    """Give a policy the keys that the sampling table says already: no preset says them twice."""
    policy, sampling = values.get("policy"), values.get("sampling")
    if not (isinstance(policy, dict) and isinstance(sampling, dict)):
        return
    try:
        family = registry.resolve("policy", policy.get("type", ""))
    except PiflowError:
        return  # reported with its path by the validation that follows
    try:
        settings = SamplingSettings.model_validate(sampling)
    except ValidationError:
        settings = SamplingSettings(nfe=1)  # refused for its sampling table, so that what follows is never used
    values["policy"] = family.derived_keys(settings) | policy


def _build_family(values: dict[str, Any], kind: str) -> list[str]:
    """Replace the table of a family by its settings; return the problems, with full key paths."""
    table = values.get(kind)
    if table is None or isinstance(table, BaseModel):
        return []
    if isinstance(table, dict) and kind in registry.DEFAULTS:
        table = {"type": registry.DEFAULTS[kind]} | table
    if not isinstance(table, dict) or "type" not in table:
        return [f"{kind}.type: missing; one of {', '.join(registry.names(kind))}"]
    try:
        family = registry.resolve(kind, str(table["type"]))
    except PiflowError as error:
        return [f"{kind}.type: {error}"]
    try:
        values[kind] = family.model_validate(table)
    except ValidationError as error:
        return [explain(item, family, (kind,)) for item in error.errors()]
    return []
