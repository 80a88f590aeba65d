# The rows that feature networks are compared over: samplers of students and teacher, and real pictures made worse.
# N pictures.

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from piflow_cli.data.prompt_lists import read_prompt_list
from piflow_cli.engine.benchmark.questions import Prompts, Questions
from piflow_cli.engine.benchmark.samplers import Meter, Sampler, student_sampler, teacher_of, teacher_sampler
from piflow_cli.engine.sample.open import open_student
from piflow_cli.engine.students.settings import sampling_settings
from piflow_cli.engine.students.shared import Bases
from piflow_cli.io.files import write_atomic
from piflow_cli.io.pictures import to_uint8
from piflow_cli.zoo.emoji.build.prompt_list import PROMPT_LIST

NUM_PICTURES = 1500
"""A row; FID of other numbers cannot be compared."""
BATCH_SIZE = 250
STUDENT = "emoji-4nfe"
"""Whose teacher and time grid the teacher's rows use."""
BLUR_RADIUS_PX = 4


@dataclass(frozen=True)
class Drawn:
    """A row that a student or its teacher draws: `steps` are evaluations of a student, or steps of a solver."""

    model: str
    steps: int
    solver: str = ""
    h: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """For example "emoji-4nfe, 4 NFE, h 0.6" or "teacher, euler 32"."""
        what = f"{self.solver} {self.steps}" if self.solver else f"{self.steps} NFE"
        return f"{self.model}, {what}" + f", h {self.h:g}" * bool(self.h) + f", seed {self.seed}" * bool(self.seed)


def _students() -> tuple[Drawn, ...]:
    by_ode = [("emoji-1nfe", 1), ("emoji-2nfe", 2), ("emoji-4nfe", 4), ("emoji-4nfe-dx", 4)]
    return (
        *(Drawn(name, nfe) for name, nfe in by_ode),
        *(Drawn(name, nfe, h=0.6) for name, nfe in by_ode[1:]),
        *(Drawn(name, nfe, seed=1) for name, nfe in by_ode[:3]),
        Drawn("emoji-4nfe", 4, h=1.0),
        Drawn("emoji-4nfe", 2),
        Drawn("emoji-2nfe", 1),
    )


def _teachers() -> tuple[Drawn, ...]:
    euler = [1, 2, 4, 8, 16, 32]
    return (
        *(Drawn("teacher", steps, "euler") for steps in euler[:4]),
        Drawn("teacher", 4, "euler", seed=1),
        Drawn("teacher", 4, "unipc"),
        Drawn("teacher", 4, "dpmsolver++"),
        Drawn("teacher", 4, "heun"),
        Drawn("teacher", 8, "unipc"),
        *(Drawn("teacher", steps, "euler") for steps in euler[4:]),
    )


DRAWN = (*_students(), *_teachers())
LONGEST = Drawn("teacher", 32, "euler")


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """(N, 3, H, W) in [0, 1], smoothed by a Gaussian; edges are repeated."""
    places = torch.arange(-BLUR_RADIUS_PX, BLUR_RADIUS_PX + 1).float()
    line = torch.exp(-places.square() / (2 * sigma_px**2))
    kernel = (line[:, None] * line / line.sum() ** 2).expand(3, 1, -1, -1)
    padded = nn.functional.pad(images, [BLUR_RADIUS_PX] * 4, mode="replicate")
    return nn.functional.conv2d(padded, kernel, groups=3)


def noise(images: Tensor, strength: float) -> Tensor:
    """The same with white noise of a standard deviation, within [0, 1]; always the same noise."""
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + strength * drawn).clamp(0, 1)


def grey(images: Tensor, share: float) -> Tensor:
    """The same with a share of its colour taken out."""
    return torch.lerp(images, images.mean(dim=1, keepdim=True).expand_as(images), share)


def shift(images: Tensor, pixels: int) -> Tensor:
    """The same moved right and down; white comes in."""
    return nn.functional.pad(images, (pixels, 0, pixels, 0), value=1.0)[..., : images.shape[-2], : images.shape[-1]]


def swap(images: Tensor, share: float) -> Tensor:
    """The same with the lower part of every picture another's."""
    begun = round(images.shape[-2] * (1 - share))
    return torch.cat([images[..., :begun, :], images.roll(1, dims=0)[..., begun:, :]], dim=-2)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "blurred 0.5 px": lambda images: blur(images, 0.5),
    "blurred 1 px": lambda images: blur(images, 1.0),
    "blurred 2 px": lambda images: blur(images, 2.0),
    "noise 0.02": lambda images: noise(images, 0.02),
    "noise 0.05": lambda images: noise(images, 0.05),
    "noise 0.1": lambda images: noise(images, 0.1),
    "mirrored": lambda images: images.flip(-1),
    "half grey": lambda images: grey(images, 0.5),
    "moved 4 px": lambda images: shift(images, 4),
    "lower third another's": lambda images: swap(images, 1 / 3),
}
"""By what pictures of the teacher's longest row are made worse."""
_WORSE = (
    *[tuple(f"teacher, euler {steps}" for steps in (32, 16, 8, 4, 2, 1))],
    *[(f"{model}, {nfe} NFE", f"{model}, {nfe // 2} NFE") for model, nfe in (("emoji-2nfe", 2), ("emoji-4nfe", 4))],
    (LONGEST.name, "noise 0.02", "noise 0.05", "noise 0.1"),
    (LONGEST.name, "blurred 0.5 px", "blurred 1 px", "blurred 2 px"),
    *[(LONGEST.name, name) for name in ("mirrored", "half grey", "moved 4 px", "lower third another's")],
)
KNOWN = tuple(pair for names in _WORSE for pair in itertools.pairwise(names))
"""Pairs of rows of which the first must be better whoever judges: the same model with more steps, or less damage."""


def draw_rows(folder: Path, on_row: Callable[[str], None]) -> None:
    """Draw every row that is not there yet into a folder, a file a row of (N, 3, 64, 64) uint8."""
    names = sorted({STUDENT, *(row.model for row in DRAWN)} - {"teacher"})
    students = {name: open_student(name, device="cpu") for name in names}
    base, bases = students[STUDENT], Bases()
    settings, grid = teacher_of(base), base.card.sampling.time_shift
    questions = Questions.in_turn(Prompts(read_prompt_list(str(PROMPT_LIST), name="emoji"), base.space), NUM_PICTURES)
    for row in DRAWN:
        if path_of(folder, row.name).exists() and len(read_row(folder, row.name)) == NUM_PICTURES:
            continue
        if row.solver:
            teacher = bases.teacher(settings, device=torch.device("cpu"), dtype=torch.float32)
            sampler = teacher_sampler(teacher, row.solver, row.steps, settings=settings, shift=grid)
        else:
            student = students[row.model]
            changed, _ = sampling_settings(student, nfe=row.steps, h=row.h)
            sampler = student_sampler(student, changed, seed=row.seed)
        write_atomic(path_of(folder, row.name), save({"images": _draw(sampler, questions, seed=row.seed)}))
        on_row(row.name)


def read_row(folder: Path, name: str) -> Tensor:
    """(N, 3, 64, 64) uint8 of a row that was drawn."""
    return load_file(path_of(folder, name))["images"]


def path_of(folder: Path, name: str) -> Path:
    """The file of a row."""
    return folder / f"{name.replace(', ', '_').replace(' ', '-')}.safetensors"


@torch.inference_mode()
def _draw(sampler: Sampler, questions: Questions, *, seed: int) -> Tensor:
    device = torch.device("cpu")
    batches = sampler.pictures(questions, batch_size=BATCH_SIZE, seed=seed, device=device, meter=Meter())
    return torch.cat([to_uint8(batch) for batch in batches])
