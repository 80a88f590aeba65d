"""Where and in which precision to work: names of devices and dtypes, checked."""

import torch

from piflow_cli.errors import DeviceError

KINDS = ("cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        DeviceError: no such device here.
    """
    if device == "auto":
        available = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(available)
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in KINDS or (chosen.type != "cuda" and chosen.index):
        raise DeviceError(f"unknown device {device!r}; use auto, cpu, cuda, cuda:N or mps")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {device} was asked for, but this PyTorch finds no CUDA device; use --device auto")
    count = torch.cuda.device_count() if chosen.type == "cuda" else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise DeviceError(
            f"device {device} was asked for, but this machine has {count} CUDA device{'s' * (count != 1)}, counted "
            "from cuda:0"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps was asked for, but this machine has none; use --device auto")
    return chosen


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a name; `auto` is bfloat16 where the device has instructions for it, else float32."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def resolve_precision(name: str, device: torch.device) -> str:
    """accelerate's mixed precision of a name; `auto` is bf16 where `resolve_dtype` gives it, else none."""
    if name != "auto":
        return name
    return "bf16" if resolve_dtype("auto", device) == torch.bfloat16 else "no"
