"""Pictures of latents, refused where either is not finite: NaN would be written as black, and measured as a picture.

Shapes: B batch, C latent channels, S spatial dims, H, W size in pixels.
"""

from __future__ import annotations

from torch import Tensor

from piflow_cli.core.interfaces import Space
from piflow_cli.errors import SamplingError


def decode_finite(space: Space, latents: Tensor, *, name: str, dtype: object, option: str = "--dtype") -> Tensor:
    """Pictures (B, 1 or 3, H, W) in [0, 1] of latents (B, C, *S).

    Args:
        space: whose autoencoder decodes.
        latents: what a student or a teacher drew.
        name: who drew them, for the message.
        dtype: its network's, for the message.
        option: what sets it, for the message.

    Raises:
        SamplingError: latents or pictures hold NaN or infinity.
    """
    advice = _advice(_plain(dtype), option)
    _require_finite(latents, f"{name} drew latents", f"its network computed in {_plain(dtype)}", advice)
    return require_finite_pictures(space.decode(latents), name=name, dtype=dtype, option=option)


def require_finite_pictures(pictures: Tensor, *, name: str, dtype: object, option: str) -> Tensor:
    """The pictures, (B, ...), that an autoencoder made; the arguments are those of `decode_finite`.

    Raises:
        SamplingError: they hold NaN or infinity.
    """
    where = f"from latents of {name}, computed in {_plain(dtype)}"
    _require_finite(pictures, "the autoencoder made pictures", where, _advice(_plain(dtype), option))
    return pictures


def _require_finite(values: Tensor, what: str, where: str, advice: str) -> None:
    bad = int((~values.isfinite()).flatten(1).any(dim=1).sum())
    if bad:
        raise SamplingError(
            f"{what} that are not finite (NaN or infinity) for {bad} of {len(values)}, {where}: {advice}."
        )


def _advice(dtype: str, option: str) -> str:
    if dtype == "float16":
        return f"float16 ends at 65,504: use bfloat16 or float32 ({option})"
    return (
        "its weights are damaged or its training diverged: load them anew, take an earlier checkpoint, or try float32 "
        f"({option})"
    )


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
