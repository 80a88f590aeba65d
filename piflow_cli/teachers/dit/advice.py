"""What a preset for a DiT's source should say, read off the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piflow_cli.core.interfaces import Advice
from piflow_cli.teachers.dit.config import prediction_of
from piflow_cli.teachers.dit.loading.source import SCHEDULER, VAE, Description

if TYPE_CHECKING:
    from piflow_cli.teachers.dit.settings import DiTSettings


def advice(settings: DiTSettings, said: Description) -> tuple[Advice, ...]:
    """What is decided by the source as comments, and what stays a choice as keys."""
    size, classes = said.config["sample_size"], said.config["num_embeds_ada_norm"]
    found = []
    if said.scheduler is not None:
        kind = prediction_of(said.scheduler)
        found.append(Advice("teacher.prediction", None, f"{kind}, by its {SCHEDULER}"))
        if kind == "flow":
            time = said.scheduler.get("num_train_timesteps")
            found.append(Advice("teacher.timestep_scale", None, f"{time}, by its {SCHEDULER}"))
    else:
        found.append(Advice("teacher.prediction", settings.prediction, "nothing in the source says it"))
        if settings.timestep_scale is not None:
            found.append(Advice("teacher.timestep_scale", settings.timestep_scale, "nothing in the source says it"))
    if said.has_vae:
        found.append(Advice("teacher.vae", None, f"its own, in {VAE}/"))
    elif said.works_on_pixels:
        found.append(Advice("teacher.vae", None, "none: the network works on pixels"))
    elif settings.vae is not None:
        found.append(Advice("teacher.vae", settings.vae, "the source holds none"))
    choice = f"a choice: more is sharper and less varied. Label {classes} has to stand for no class"
    found.append(Advice("teacher.guidance_scale", settings.guidance_scale, choice))
    interval = "a choice: the noise levels where guidance acts"
    found.append(Advice("teacher.guidance_interval", settings.guidance_interval, interval))
    names = f"named {said.labels[min(said.labels)]!r}, ..." if said.labels else "without names"
    shape = f"latents are ({said.channels}, {size}, {size}), labels 0 to {classes - 1}, {names}"
    return (*found, Advice("data.path", None, shape))
