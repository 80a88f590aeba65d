"""Tiny DiT teachers and students, written to disk as diffusers and as the authors write theirs.

Shapes: C latent channels, D network width.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from safetensors.torch import save_file
from sensible import sensible
from tiny_bases import tiny_flux2, tiny_flux2_dev, tiny_sd3, tiny_wan, tiny_z_image
from tiny_qwen_edit import tiny_qwen_edit, tiny_qwen_edit_single
from tiny_qwen_image_2 import tiny_qwen_image_2
from torch import Tensor, nn

from piflow_cli import registry
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.core.student import Student
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.formats.student import StoredStudent, StudentCard
from piflow_cli.policies.dx import DX
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.teachers.dit.config import FREQ_SHIFT, to_released
from piflow_cli.teachers.dit.family import DiT
from piflow_cli.teachers.dit.loading.weights import build
from piflow_cli.teachers.flux import Flux
from piflow_cli.teachers.qwen_image import QwenImage

CONFIG: dict[str, Any] = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 10,
    "norm_type": "ada_norm_zero",
}
DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def randomise(module: nn.Module, *, seed: int = 0, std: float = 0.1) -> nn.Module:
    """Every parameter drawn anew, so that nothing is zero by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module


def tiny_module(*, seed: int = 0, **config: Any) -> nn.Module:
    """A random DiTTransformer2DModel with one embedding for all blocks, as the loader builds it."""
    return randomise(build(CONFIG | config), seed=seed).eval()


def save_teacher(
    folder: Path,
    *,
    seed: int = 0,
    scheduler: str | None = "flow",
    labels: list[str] | None = None,
    vae: bool = False,
    **config: Any,
) -> Path:
    """A diffusers pipeline folder; each block holds its own copy of the embedding, as diffusers saves it."""
    config = CONFIG | config
    plain = DiTTransformer2DModel(**{key: value for key, value in config.items() if not key.startswith("_")})
    source = tiny_module(seed=seed, **config)
    plain.load_state_dict(source.state_dict())
    plain.save_pretrained(folder / "transformer")
    if scheduler == "flow":
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000).save_pretrained(folder / "scheduler")
    elif scheduler == "ddim":
        DDIMScheduler(num_train_timesteps=1000, clip_sample=False).save_pretrained(folder / "scheduler")
    if vae:
        tiny_vae().save_pretrained(folder / "vae")
    index = {"_class_name": "DiTPipeline"}
    if labels is not None:
        index["id2label"] = {str(i): name for i, name in enumerate(labels)}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def save_stock_teacher(
    folder: Path, *, seed: int = 0, scheduler: str = "flow", labels: list[str] | None = None, **config: Any
) -> tuple[Path, DiTTransformer2DModel]:
    """A pipeline that diffusers itself made and wrote, an embedding of its own in every block; and its network."""
    options = {"num_layers": 3, "out_channels": 8 if scheduler == "ddim" else 4} | config
    module = DiTTransformer2DModel(**{k: v for k, v in (CONFIG | options).items() if not k.startswith("_")})
    randomise(module, seed=seed).eval()
    schedulers = {"flow": FlowMatchEulerDiscreteScheduler, "ddim": DDIMScheduler}
    DiTPipeline(module, tiny_vae(), schedulers[scheduler]()).save_pretrained(folder)
    if labels is not None:
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = {str(i): name for i, name in enumerate(labels)}
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder, module


def tiny_vae(*, latent_channels: int = 4) -> AutoencoderKL:
    """An autoencoder that halves height and width, with a scale and a shift that show where they are forgotten."""
    vae = AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=latent_channels,
        scaling_factor=0.5,
        shift_factor=0.25,
        sample_size=16,
    )
    return randomise(vae, seed=3, std=0.2).eval()


def released_weights(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters, each once, by the authors' names."""
    return to_released({name: p.detach().clone() for name, p in module.named_parameters()})


def save_released(path: Path, weights: dict[str, Tensor], *, metadata: dict[str, str] | None = None) -> Path:
    """A .safetensors, or a pickled .pth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata=metadata)
    else:
        torch.save(weights, path)
    return path


def gmflow(**settings: Any) -> GMFlow:
    """A small mixture."""
    return GMFlow(**{"num_components": 3, "logstd_inner_dim": 8} | settings)


def dx(**settings: Any) -> DX:
    """A small grid for one segment."""
    return DX(**{"num_points": 3, "segment_size": 1.0, "shift": 1.0} | settings)


def stored_student(
    policy: GMFlow | DX, *, sampling: SamplingSettings | None = None, seed: int = 0, **config: Any
) -> StoredStudent:
    """A student of a random teacher, its head drawn anew, so that every weight matters."""
    config = {FREQ_SHIFT: 1} | CONFIG | config
    teacher = DiT(source="tiny", prediction="flow", timestep_scale=1000.0, guidance_scale=1.5)
    student = Student(build(config), backbone=teacher.backbone(config, None), family=policy)
    randomise(student, seed=seed)
    card = StudentCard(
        piflow_version="0.0.0",
        preset="tiny",
        steps=7,
        teacher=teacher,
        network={"config": config, "scheduler": None, "labels": {str(i): n for i, n in enumerate(DIGIT_NAMES)}},
        policy=policy,
        sampling=sampling or SamplingSettings(nfe=1, total_substeps=16),
    )
    weights = {name: p.detach().clone() for name, p in student.module.named_parameters()}
    return StoredStudent(card=card, weights=weights)


def student_of(teacher: DiT, policy: GMFlow | DX | None = None, **sampling: Any) -> LoadedStudent:
    """An untrained student: it is the teacher, seen through a policy."""
    policy = policy or gmflow(bias_noise=0.0)
    loaded = teacher.load()
    network = Student.from_teacher(
        loaded.module, backbone=loaded.backbone, family=policy, generator=torch.Generator().manual_seed(0)
    )
    card = StudentCard(
        piflow_version="0",
        preset="tiny",
        teacher=teacher,
        network=loaded.network,
        policy=policy,
        sampling=SamplingSettings(**{"nfe": 1, "total_substeps": 8} | sampling),
    )
    network = network.requires_grad_(False).eval()
    return LoadedStudent(name="tiny", network=network, card=card, space=loaded.space, family=card.teacher)


def _tiny_dit(folder: Path) -> DiT:
    return DiT(source=str(save_teacher(folder, labels=DIGIT_NAMES, in_channels=1, out_channels=1)), guidance_scale=1.5)


PARITY = Path(__file__).parent / "fixtures" / "parity"


def tiny_flux(**settings: Any) -> Flux:
    """A FLUX pipeline of random weights whose tokenizers know a few words."""
    options = {"width": 48, "height": 64, "max_sequence_length": 12} | settings
    return Flux(**{"source": str(PARITY / "e2e_flux" / "pipeline")} | options)


def tiny_qwen(**settings: Any) -> QwenImage:
    """A Qwen-Image pipeline of random weights whose tokenizer knows a few words."""
    options = {"width": 48, "height": 64} | settings
    return QwenImage(**{"source": str(PARITY / "e2e_qwen" / "pipeline")} | options)


TEACHERS = {
    "dit": _tiny_dit,
    "flux": lambda _: tiny_flux(),
    "qwen_image": lambda _: tiny_qwen(),
    "qwen_image_2": tiny_qwen_image_2,
    "sd3": tiny_sd3,
    "z_image": tiny_z_image,
    "flux2": tiny_flux2,
    "flux2-dev": tiny_flux2_dev,
    "qwen_image_edit": tiny_qwen_edit,
    "qwen_image_edit-single": tiny_qwen_edit_single,
    "wan": tiny_wan,
}
"""A small teacher of every registered family, written into an empty folder; its settings are returned.

Where a family reads pipelines of several classes, there is one of each, named by the family and a dash.
"""


def type_of(name: str) -> str:
    """The registered family of one of these."""
    return name.partition("-")[0]


EDITING = [name for name in TEACHERS if registry.resolve("teacher", type_of(name)).num_pictures[0]]
"""Those whose prompts are always about pictures."""


POLICIES = {
    name: sensible(family, family.derived_keys(SamplingSettings(nfe=1))).still()
    for name, family in ((name, registry.resolve("policy", name)) for name in registry.names("policy"))
}
POLICIES |= {"gmflow": gmflow(bias_noise=0.0), "dx": dx()}
"""A small policy of every registered family, without the noise that tells a new student's components apart."""
