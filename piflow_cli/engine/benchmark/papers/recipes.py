"""The protocols of pi-Flow's tables (arXiv 2510.14974v3), and the figures that stand in them or beside them."""

from piflow_cli import registry
from piflow_cli.engine.benchmark.papers.recipe import Recipe
from piflow_cli.engine.benchmark.result import Published
from piflow_cli.errors import PiflowError

PI_FLOW = "pi-Flow, arXiv 2510.14974"
TEXT_METRICS = ("fid", "patch-fid", "clip-score")
TEXT_UNSAID = (
    "the teacher's row has its students' time grid, which the paper's is not known to have",
    "pictures have the size that the student was trained at, which the paper's are not known to have",
)

FLUX = Recipe(
    name="paper-flux",
    about=f"FID to FLUX.1 dev at 50 steps, HPSv2's 3,200 prompts ({PI_FLOW})",
    metrics=TEXT_METRICS,
    samples=3200,
    teacher_steps=(50,),
    prompts="hpsv2",
    published=(Published("SenseFlow", 4, {"fid": 23.3}), Published("pi-FLUX", 4, {"fid": 14.3})),
    unsaid=TEXT_UNSAID,
)
QWEN = Recipe(
    name="paper-qwen",
    about=f"FID to Qwen-Image at 50 steps, HPSv2's 3,200 prompts ({PI_FLOW})",
    metrics=TEXT_METRICS,
    samples=3200,
    teacher_steps=(50,),
    prompts="hpsv2",
    published=(Published("Qwen-Image-Lightning", 4, {"fid": 15.6}), Published("pi-Qwen", 4, {"fid": 12.8})),
    unsaid=TEXT_UNSAID,
)
IMAGENET = Recipe(
    name="paper-imagenet",
    about=f"FID of DiT-XL/2 at 256 px, 50,000 pictures to ADM's statistics of ImageNet ({PI_FLOW})",
    metrics=("fid", "is"),
    samples=50_000,
    teacher_steps=(),
    reference=None,
    reference_is="ADM's statistics of ImageNet at 256 px (VIRTUAL_imagenet256_labeled.npz of github.com/openai/"
    "guided-diffusion/tree/main/evaluations)",
    published=(
        Published("iCT", 1, {"fid": 34.24}),
        Published("Shortcut", 1, {"fid": 10.60}),
        Published("MeanFlow", 1, {"fid": 3.43}),
        Published("pi-Flow (FM teacher)", 1, {"fid": 3.34}),
        Published("pi-Flow (REPA teacher)", 1, {"fid": 2.85}),
        Published("PDD-Midpoint", 1, {"fid": 2.69}),
        Published("FreeFlow", 1, {"fid": 1.45}),
        Published("MeanFlow", 2, {"fid": 2.20}),
        Published("pi-Flow", 2, {"fid": 1.97}),
        Published("FACM", 2, {"fid": 1.52}),
    ),
    unsaid=("classes are asked for in turn, which the paper's are not known to be",),
)
RECIPES = {recipe.name: recipe for recipe in (FLUX, QWEN, IMAGENET)}


def recipe_of(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        PiflowError: there is none; near names are suggested.
    """
    if name not in RECIPES:
        raise PiflowError(registry.unknown_name("recipe", name, list(RECIPES)))
    return RECIPES[name]
