"""Names of the families and where they live: a newcomer is one file and one line. Nothing is imported until used."""

import difflib
from importlib import import_module
from typing import Any

from piflow_cli.errors import PiflowError

ENTRIES: dict[str, dict[str, str]] = {
    "policy": {
        "gmflow": "piflow_cli.policies.gmflow.family:GMFlow",
        "dx": "piflow_cli.policies.dx:DX",
    },
    "teacher": {
        "dit": "piflow_cli.teachers.dit.family:DiT",
        "flux": "piflow_cli.teachers.flux:Flux",
        "qwen_image": "piflow_cli.teachers.qwen_image:QwenImage",
        "qwen_image_edit": "piflow_cli.teachers.qwen_image_edit.family:QwenImageEdit",
        "qwen_image_2": "piflow_cli.teachers.qwen_image_2:QwenImage2",
        "sd3": "piflow_cli.teachers.sd3:SD3",
        "z_image": "piflow_cli.teachers.z_image:ZImage",
        "flux2": "piflow_cli.teachers.flux2.family:Flux2",
        "wan": "piflow_cli.teachers.wan.family:Wan",
    },
    "objective": {
        "imitation": "piflow_cli.objectives.imitation:Imitation",
    },
    "data": {
        "noise": "piflow_cli.data.noise:Noise",
        "digits": "piflow_cli.data.digits:Digits",
        "images": "piflow_cli.data.images:Images",
        "latents": "piflow_cli.data.latents:Latents",
        "prompts": "piflow_cli.data.prompts:Prompts",
        "captioned": "piflow_cli.data.captioned:Captioned",
    },
    "prompts": {
        "hpsv2": "piflow_cli.data.published.hpsv2:SET",
        "hpsv3": "piflow_cli.data.published.hpsv3:SET",
        "geneval": "piflow_cli.data.published.geneval:SET",
        "dpg": "piflow_cli.data.published.dpg:SET",
        "oneig": "piflow_cli.data.published.oneig:SET",
        "parti": "piflow_cli.data.published.parti:SET",
        "coco": "piflow_cli.data.published.coco:SET",
    },
    "format": {
        "native": "piflow_cli.formats.native:NativeFormat",
        "lakonlab": "piflow_cli.formats.released.lakonlab:LakonlabFormat",
        "comfyui": "piflow_cli.formats.released.comfyui:ComfyUIFormat",
        "merged": "piflow_cli.formats.released.merged:MergedFormat",
    },
    "metric": {
        "fid": "piflow_cli.metrics.frechet.fid:METRIC",
        "kid": "piflow_cli.metrics.kid:METRIC",
        "is": "piflow_cli.metrics.inception_score:METRIC",
        "precision-recall": "piflow_cli.metrics.precision_recall:METRIC",
        "accuracy": "piflow_cli.metrics.accuracy:METRIC",
        "diversity": "piflow_cli.metrics.diversity:METRIC",
        "patch-fid": "piflow_cli.metrics.frechet.patch_fid:METRIC",
        "grid-energy": "piflow_cli.metrics.texture.grid_energy:METRIC",
        "fd-dinov2": "piflow_cli.metrics.frechet.fd_dinov2:METRIC",
        "cmmd": "piflow_cli.metrics.cmmd:METRIC",
        "vendi": "piflow_cli.metrics.variety.vendi:METRIC",
        "clip-score": "piflow_cli.metrics.prompted.clip_score:METRIC",
        "pickscore": "piflow_cli.metrics.prompted.pickscore:METRIC",
        "hpsv2": "piflow_cli.metrics.prompted.hpsv2:METRIC",
        "hpsv3": "piflow_cli.metrics.prompted.hpsv3:METRIC",
        "image-reward": "piflow_cli.metrics.prompted.image_reward:METRIC",
        "vqa-score": "piflow_cli.metrics.prompted.vqa_score:METRIC",
        "dino-diversity": "piflow_cli.metrics.variety.dino_diversity:METRIC",
        "temporal-diversity": "piflow_cli.metrics.moving.temporal_diversity:METRIC",
        "frame-consistency": "piflow_cli.metrics.moving.frame_consistency:METRIC",
    },
}


MAX_SHOWN = 80
"""Characters of an unknown name that a message repeats."""
DEFAULTS = {"objective": "imitation"}
"""The `type` of a family whose table names none."""


def names(kind: str) -> list[str]:
    """Names registered under a kind: policy, teacher, objective, data, prompts, format or metric."""
    return list(ENTRIES[kind])


def resolve(kind: str, name: str) -> Any:
    """Import and return the class or object behind a name.

    Raises:
        PiflowError: the name is not registered; near names are suggested.
    """
    if not isinstance(name, str) or name not in ENTRIES[kind]:  # a file may say anything
        raise PiflowError(unknown_name(kind, str(name), names(kind)))
    module, attribute = ENTRIES[kind][name].split(":")
    return getattr(import_module(module), attribute)


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """The message for a name that does not exist, with the near ones first."""
    name = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}..."
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."
