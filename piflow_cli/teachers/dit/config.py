"""A DiT's config, checked or inferred, and the form that config and weight names have in the authors' released files.

The released files name one shared embedding `emb.*`; diffusers holds a copy of it in every block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.io.bounds import MAX_LAYERS, MAX_STEPS, MAX_WIDTH, check_config
from piflow_cli.teachers.dit.loading.embedding import FIRST, PER_BLOCK
from piflow_cli.teachers.dit.loading.original import LAYER_NORM_EPS, from_original, is_original, side_of

if TYPE_CHECKING:
    from piflow_cli.teachers.dit.settings import DiTSettings

CLASS_NAMES = ("DiTTransformer2DModel", "DiTTransformer2DModelMod")
LEGACY_CLASS_NAME = "Transformer2DModel"
"""What the published facebook/DiT checkpoints call the class: they are older than its own name."""
FREQ_SHIFT = "downscale_freq_shift"
"""Config key of the time embedding's frequencies: 1 in diffusers' DiT, 0 in the original and the released weights."""
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMapSDEScheduler")
PICTURE_CHANNELS = (1, 3)
"""Channels of pictures, which a network without an autoencoder may work on."""
CARD_KEYS = ("in_channels", "patch_size", "sample_size", "num_embeds_ada_norm")
"""What a student's card says of its module's config at the least."""
ARCHITECTURES = {"DiT-S/2": (12, 6, 64), "DiT-B/2": (12, 12, 64), "DiT-L/2": (24, 16, 64), "DiT-XL/2": (28, 16, 72)}
"""Layers, attention heads and their width (arXiv 2212.09748, table 1), for ImageNet latents with patches of 2."""


Count = Annotated[int, Field(strict=True, ge=1, le=MAX_WIDTH)]
Layers = Annotated[int, Field(strict=True, ge=1, le=MAX_LAYERS)]
Side = Annotated[int, Field(strict=True, ge=1, le=4096)]
"""Of a network's latents or of its patches: the position table of all positions is built."""
Beta = Annotated[float, Field(gt=0, lt=1)]


class _Config(BaseModel):
    """Other keys are diffusers' own business."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class NetworkConfig(_Config):
    """Of a DiTTransformer2DModel."""

    num_attention_heads: Count = 16
    attention_head_dim: Count = 72
    in_channels: Count = 4
    out_channels: Count | None = None
    num_layers: Layers = 28
    dropout: float = Field(0.0, ge=0, lt=1)
    norm_num_groups: Count = 32
    attention_bias: bool = Field(True, strict=True)
    sample_size: Side = 32
    patch_size: Side = 2
    activation_fn: Literal["gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu"] = (
        "gelu-approximate"
    )
    num_embeds_ada_norm: Count = 1000
    upcast_attention: bool = Field(False, strict=True)
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"
    norm_elementwise_affine: bool = Field(False, strict=True)
    norm_eps: float = Field(1e-5, gt=0, lt=1)
    downscale_freq_shift: float = Field(1.0, ge=0, le=1)
    embedding_per_block: bool = Field(False, strict=True)


class SchedulerConfig(_Config):
    """Of a scheduler: what says how a network is called."""

    num_train_timesteps: Annotated[int, Field(strict=True, ge=2, le=MAX_STEPS)] = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    beta_schedule: str = "linear"
    prediction_type: str = "epsilon"
    trained_betas: tuple[Beta, ...] | None = Field(None, min_length=2, max_length=MAX_STEPS)
    use_flow_sigmas: bool = False


def checked_config(config: dict[str, Any], source: object) -> dict[str, Any]:
    """A DiT's config with its defaults filled in.

    Raises:
        ModelError: it is a config of another family, or of a size that no network has.
    """
    check_config(config, origin=source)
    name = config.get("_class_name")
    if name == LEGACY_CLASS_NAME and config.get("norm_type") == "ada_norm_zero":
        name = CLASS_NAMES[0]
    if name not in CLASS_NAMES:
        raise ModelError(
            f"{source} holds a {name}, not a {CLASS_NAMES[0]}: it is a teacher of another family. "
            "Check teacher.type and teacher.source."
        )
    defaults = {"patch_size": 2, "sample_size": 32, "in_channels": 4, "num_embeds_ada_norm": 1000, "out_channels": None}
    whole = defaults | {FREQ_SHIFT: 1 if name == CLASS_NAMES[0] else 0} | config | {"_class_name": CLASS_NAMES[0]}
    _check(NetworkConfig, whole, source)
    if whole["sample_size"] % whole["patch_size"]:
        raise ModelError(
            f"{source} says sample_size = {whole['sample_size']}, which is no multiple of patch_size "
            f"{whole['patch_size']}"
        )
    return whole


def named_config(settings: DiTSettings) -> dict[str, Any]:
    """The config of `settings.architecture` in its original form: what is known before any file is read."""
    layers, heads, width = ARCHITECTURES[settings.architecture]
    config = {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": width}
    return checked_config(
        {"_class_name": CLASS_NAMES[0], FREQ_SHIFT: 0, "sample_size": settings.sample_size, **config}, settings.source
    )


def infer_config(settings: DiTSettings, weights: dict[str, Tensor]) -> dict[str, Any]:
    """The config of released weights without one: widths from shapes, the rest from the settings.

    Raises:
        ModelError: these are no DiT weights.
    """
    own, side = {}, None
    if is_original(weights):
        own, side = {"norm_eps": LAYER_NORM_EPS}, side_of(weights)
        weights = from_original(weights, source=settings.source)
    weights = to_diffusers(weights)
    try:
        patch = weights["pos_embed.proj.weight"]  # (D, C, p, p)
        classes = weights[FIRST + "class_embedder.embedding_table.weight"].shape[0] - 1
        rows = weights["proj_out_2.bias"].shape[0] if "proj_out_2.bias" in weights else None
    except KeyError as error:
        raise ModelError(f"{settings.source} is no DiT: it has no {error.args[0]}") from None
    width, channels, size, _ = patch.shape
    blocks = {name.split(".")[1] for name in weights if name.startswith("transformer_blocks.")}
    heads = ARCHITECTURES[settings.architecture][1] if settings.architecture else settings.num_attention_heads
    if width % heads:
        raise ModelError(f"width {width} is not divisible by teacher.num_attention_heads {heads}")
    return {
        "_class_name": CLASS_NAMES[0],
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": rows // size**2 if rows else None,
        "num_layers": len(blocks),
        "sample_size": side * size if side else settings.sample_size,
        "patch_size": size,
        "num_embeds_ada_norm": classes,
        FREQ_SHIFT: 0,
    } | own


def prediction_of(scheduler: dict[str, Any] | None) -> str | None:
    """What a network predicts by its scheduler's config: flow, epsilon, or None where nothing says it."""
    if scheduler is None:
        return None
    as_flow = scheduler.get("use_flow_sigmas") or scheduler.get("prediction_type") == "flow_prediction"
    return "flow" if as_flow or scheduler.get("_class_name") in FLOW_SCHEDULERS else "epsilon"


def to_diffusers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the released `emb.*` to the first block's embedding; other names are diffusers' already."""
    return {FIRST + name.removeprefix("emb.") if name.startswith("emb.") else name: t for name, t in weights.items()}


def to_released(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_diffusers`."""
    return {"emb." + name.removeprefix(FIRST) if name.startswith(FIRST) else name: t for name, t in weights.items()}


@dataclass(frozen=True)
class ReleasedNetwork:
    """A DiT as the authors' files hold it.

    Args:
        weights: by released names.
        config: the module's config.
        caveats: what the authors' own code would get wrong about this network.
    """

    weights: dict[str, Tensor]
    config: dict[str, Any]
    caveats: tuple[str, ...]


def released_network(weights: dict[str, Tensor], network: dict[str, Any], *, diffusion: bool) -> ReleasedNetwork:
    """The released form of weights by diffusers' names and of the teacher's description of their module."""
    config, caveats = network["config"], []
    if config.get(FREQ_SHIFT, 1) != 0:
        caveats.append(
            f"this network embeds time with {FREQ_SHIFT} {config.get(FREQ_SHIFT, 1)} (diffusers' DiT); the authors' "
            f"code takes 0 for granted and would sample it wrongly. {FREQ_SHIFT} is written into config.json, and "
            "piflow obeys it"
        )
    if config.get(PER_BLOCK):
        caveats.append(
            "every block of this network has an embedding of its own; the authors' code knows one for all and would "
            "not load these weights. piflow reads them"
        )
    if diffusion:
        caveats.append(
            "this network was made from a diffusion teacher and takes scaled inputs at diffusion times; the authors' "
            "code feeds it as a flow network and would sample it wrongly. piflow reads it right"
        )
    config = {FREQ_SHIFT: 1} | config | {"out_channels": None}
    return ReleasedNetwork(weights=to_released(weights), config=config, caveats=tuple(caveats))


def describe_released(
    settings: DiTSettings, weights: dict[str, Tensor], config: dict[str, Any] | None
) -> dict[str, Any]:
    """The description of a module whose released weights, and config if any, are given: the inverse of the above.

    Raises:
        ModelError: these are no DiT weights.
    """
    if config is None:
        config = infer_config(settings, weights)
    config = checked_config({FREQ_SHIFT: 0} | config | {"_class_name": CLASS_NAMES[0]}, settings.source)
    return {"config": config | {"out_channels": None}, "scheduler": None, "labels": None}


def check_scheduler(config: dict[str, Any] | None, origin: object) -> None:
    """Raise ModelError for a scheduler's config with values that mean nothing."""
    if config is not None:
        _check(SchedulerConfig, config, origin)


def _check(model: type[_Config], config: Any, origin: object) -> None:
    try:
        model.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "a config"
        raise ModelError(f"{origin} says {where} = {repr(first['input'])[:80]}: {first['msg']}") from None
