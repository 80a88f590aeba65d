"""What a preset says of a DiT teacher: the leaf that its other files import."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from piflow_cli.core.settings import NoiseInterval, Settings
from piflow_cli.io.hub import WEIGHT_SUFFIXES, local_path

FACTS = frozenset(
    {"prediction", "timestep_scale", "vae", "architecture", "sample_size", "num_attention_heads", "revision"}
)
"""Keys that are of one source and no other."""


class DiTSettings(Settings):
    """The keys of a class-conditional DiT: a diffusers folder, a hub id, or a released weight file."""

    type: Literal["dit"] = "dit"
    source: str = Field(description="diffusers folder, hub id, .safetensors or .pth file, or zoo:NAME")
    prediction: Literal["flow", "reversed-flow", "epsilon"] | None = Field(
        None,
        description="what the network predicts; left out, the folder's scheduler says it. reversed-flow, as in SiT, is "
        "data - noise, at the time scale * (1 - sigma)",
    )
    timestep_scale: float | None = Field(
        None, gt=0, description="network time = scale * sigma; left out, the folder's scheduler says it"
    )
    guidance_scale: float = Field(1.0, ge=0, le=100, description="classifier-free guidance of the teacher")
    guidance_interval: NoiseInterval = Field((0.0, 1.0), description="noise levels where guidance acts")
    orthogonal: float = Field(0.0, ge=0, le=1, description="part of the guidance parallel to x_0 that is removed")
    vae: str | None = Field(None, description="autoencoder's folder or hub id, where the source holds none")
    architecture: Literal["DiT-S/2", "DiT-B/2", "DiT-L/2", "DiT-XL/2"] | None = Field(
        None, description="what a weight file without a config holds; also lets --plan reckon before it is there"
    )
    sample_size: int = Field(32, ge=1, le=4096, description="latent height and width, for files without a config")
    num_attention_heads: int = Field(16, ge=1, le=1024, description="attention heads, for files without a config")
    revision: str | None = Field(None, description="hub revision")

    pipeline_classes: ClassVar[tuple[str, ...]] = ("DiTPipeline",)
    num_pictures: ClassVar[tuple[int, int]] = (0, 0)
    students_need_base: ClassVar[bool] = False
    size_px: ClassVar[None] = None
    num_frames: ClassVar[int] = 1
    frame_rate: ClassVar[int] = 1
    frame_factor: ClassVar[None] = None
    quantization: ClassVar[str] = "none"
    offload_encoders: ClassVar[bool] = False

    @classmethod
    def said_by(cls, source: str) -> frozenset[str]:
        """Keys that are of one source, where a source of this name says them itself: a folder, and no weight file."""
        return frozenset() if source.endswith(WEIGHT_SUFFIXES) else FACTS

    def source_paths(self) -> dict[str, Path]:
        """The local files and folders that its weights are read from, by the key that names them."""
        found = {"source": local_path(self.source, revision=self.revision)}
        if self.vae is not None:
            found["vae"] = local_path(self.vae)
        return {key: path for key, path in found.items() if path is not None}
