"""The time grid of a base's own scheduler, as the shift that it amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from piflow_cli.core.schedule import Shift, dynamic_shift
from piflow_cli.errors import ModelError

SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def scheduler_shift(config: Mapping[str, Any], positions: int, *, origin: object) -> Shift:
    """The shift of a FlowMatchEulerDiscreteScheduler: fixed, or by the number of positions where it says so.

    Of a solver of higher order (UniPC, DPM-Solver) it is that of its flow sigmas.

    A `shift_terminal`, which stretches the last steps (Qwen-Image), is no part of a shift and left out.

    Args:
        config: of the scheduler.
        positions: of latents that the network sees, one a patch.
        origin: of the config, for the message.

    Raises:
        ModelError: it spaces its steps by no shift.

    Source: arXiv 2403.03206, section 5.3.2, by the keys of diffusers.
    """
    if spacing := next((key for key in SPACINGS if config.get(key)), None):
        raise ModelError(f"{origin} spaces its steps by {spacing}, which is no shift; name a number")
    if config.get("use_flow_sigmas"):  # a solver of higher order, on the grid of Euler's
        return Shift(float(config.get("flow_shift", 1.0)))
    if not config.get("use_dynamic_shifting"):
        return Shift(float(config.get("shift", 1.0)))
    shift = dynamic_shift(
        positions,
        base_seq_len=config.get("base_image_seq_len", 256),
        max_seq_len=config.get("max_image_seq_len", 4096),
        base_logshift=config.get("base_shift", 0.5),
        max_logshift=config.get("max_shift", 1.15),
    )
    return shift if config.get("time_shift_type", "exponential") == "exponential" else Shift(shift.log)


def as_euler(scheduler: Any) -> Any:
    """A scheduler itself where it is Euler's; Euler's on the grid of a solver of flows; None for any other."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return scheduler
    config = scheduler.config
    if not config.get("use_flow_sigmas") or config.get("prediction_type") != "flow_prediction":
        return None
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=config.num_train_timesteps, shift=config.get("flow_shift", 1.0)
    )
