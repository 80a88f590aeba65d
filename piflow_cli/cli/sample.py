"""`piflow sample`: draw pictures or videos with a student, or with its teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console
from piflow_cli.cli.numbers import parse_seeds
from piflow_cli.cli.processes import NumProcesses, start_processes
from piflow_cli.cli.sampling.drawing import draw, draw_beside, draw_set
from piflow_cli.cli.sampling.options import Options, check_teacher, parse_lora, parse_shift, parse_temperature

if TYPE_CHECKING:
    from piflow_cli.data.asked import Asked
    from piflow_cli.engine.sample.job import SampleJob
    from piflow_cli.engine.sample.laid_out import LaidOut
    from piflow_cli.engine.sample.save import Gallery


EXAMPLES = console.examples(
    ("a cat with the embedded student of 4 evaluations, anywhere", 'piflow sample "a cat" --nfe 4'),
    ("a sheet with a row a prompt", 'piflow sample "a panda" "a red heart" "flag of japan" --num-images 8 --grid'),
    ("digits: a prompt is a class", "piflow sample 3 7 --model digits-1nfe"),
    (
        "a released FLUX student on its base, 4 evaluations, on a GPU that holds one model at a time",
        'piflow sample "a cat" --model Lakonik/pi-FLUX.1/gmflux_k8_piid_4step --nfe 4 --offload model',
    ),
    ("what its teacher makes of the same noise", 'piflow sample "a cat" --teacher --steps 32'),
    (
        "teacher and students from the same noise on one sheet",
        'piflow sample "a cat" "a lion" --teacher --steps 32 --beside emoji-4nfe,emoji-1nfe,teacher@4 --out beside.png',
    ),
    (
        "a picture edited, with what is to be in it from another one",
        'piflow sample "the cat with this hat" --image cat.png --image hat.png --model runs/flux2-klein-4nfe',
    ),
    (
        "a published set of prompts, laid out for its scorer",
        "piflow sample --prompts geneval:evaluation_metadata.jsonl --layout geneval --model runs/flux-4nfe --out drawn",
    ),
    (
        "a student of your own with a style on top, every prompt of a file",
        "piflow sample --prompts prompts.txt --model runs/flux-4nfe --lora style.safetensors=0.8 --width 1360",
    ),
)


def command(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT...", help="What to draw; a class name or index for classes; - for stdin."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Embedded student, student or run folder, RUN@STEP, or hub id.", show_default=False
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Teacher's folder or hub id. [default: as trained]")] = None,
    preset: Annotated[
        str | None, typer.Option(help="What a released student was trained by, where its files and name do not say it.")
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="More prompts: a .txt, .jsonl or .csv (with `seed` and `references`, if wanted), .parquet, - for "
            "stdin, or a published set, NAME or NAME:PATH.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A picture that the prompts are about, of models that edit; may be given again."
        ),
    ] = None,
    nfe: Annotated[int | None, typer.Option(help="Network evaluations. [default: as trained]")] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", "-n", help="Pictures a prompt. [default: 1]", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; the next ones count on. [default: 0]", show_default=False)
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N-N,...", help="Seeds of each prompt's pictures, such as 1-8 or 3,7.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [default: as trained]")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels. [default: as trained]")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Of videos (Wan), 1 more than a multiple of 4. [default: as trained]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Of students that embed it (FLUX); they need the trained one.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Steer away from this; doubles the evaluations.")] = None,
    negative_scale: Annotated[float, typer.Option(help="Guidance against the negative prompt.")] = 1.5,
    substeps: Annotated[int | None, typer.Option(help="Policy substeps over the whole of time.")] = None,
    temperature: Annotated[
        str | None, typer.Option(metavar="X|auto", help="Sharpening of the policy, 0 to 1, or auto.")
    ] = None,
    h: Annotated[
        float | None, typer.Option("--h", help="Stochasticity between evaluations; 0 is the ODE. [default: as trained]")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE[=WEIGHT]", help="Style LoRA on top; may be given again.")
    ] = None,
    offload: Annotated[
        str, typer.Option(metavar="MODE", help="none, encoders, model, sequential or group: what waits off the GPU.")
    ] = "none",
    quantize: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="The base: bnb-8bit, bnb-4bit, torchao-int8, torchao-fp8, or none."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Draw with the student's teacher instead, from the same noise.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Euler steps of the teacher. [default: 32]")] = None,
    shift: Annotated[
        str | None,
        typer.Option(
            metavar="M|own",
            help="Of the teacher's time grid; own is its scheduler's at this size. [default: its student's]",
        ),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL,...",
            help="Models for a sheet beside this one, from the same noise: students, teacher, teacher@STEPS.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="A .png, for a video .mp4, .webp or .gif; or a folder.")] = Path("samples"),
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="As the scorer of --prompts NAME wants files: geneval, dpg, oneig, hpsv2, hpsv3."
        ),
    ] = None,
    grid: Annotated[
        bool | None,
        typer.Option(
            "--grid/--no-grid",
            help="Only a labelled sheet, or only the pictures. [default: a sheet of many prompts too]",
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a forward pass. [default: by their size]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    num_processes: NumProcesses = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw pictures with a student, or its teacher; each PNG carries its prompt, seed, NFE and model."""
    if prompts == ["-"] and prompt_file is None:  # what every other program reads stdin by
        prompts, prompt_file = None, "-"
    if not prompts and prompt_file is None:
        raise typer.BadParameter("say what to draw, or name a file of prompts with --prompts", param_hint="PROMPT")
    if seeds is not None and (num_images is not None or seed is not None):
        raise typer.BadParameter("leave out --num-images and --seed: the list says both", param_hint="--seeds")
    loras = [parse_lora(text) for text in lora or ()]
    check_teacher(teacher, steps=steps, shift=shift, loras=loras, quantize=quantize, offload=offload)
    options = Options(
        seed=0 if seed is None else seed,
        seeds=None if seeds is None else parse_seeds(seeds),
        temperature=parse_temperature(temperature),
        shift=parse_shift(shift),
    )
    from piflow_cli.engine.sample.beside import parse_beside

    others = parse_beside(beside) if beside is not None else []
    if others and (grid is False or loras or offload != "none"):
        raise typer.BadParameter("draws one sheet: leave out --no-grid, --lora and --offload", param_hint="--beside")
    if layout is not None and (prompts or others or grid is not None):
        raise typer.BadParameter("draws a published set: leave out PROMPT, --beside and --grid", param_hint="--layout")
    start_processes(num_processes)
    from piflow_cli.engine.processes.together import joined
    from piflow_cli.engine.sample.check import check_request
    from piflow_cli.engine.sample.early import EarlyCheck
    from piflow_cli.engine.sample.open import open_student, open_teacher
    from piflow_cli.engine.sample.request import TextRequest
    from piflow_cli.engine.sample.sample import about, prepare
    from piflow_cli.engine.sample.save import Gallery
    from piflow_cli.engine.students.shared import Bases
    from piflow_cli.preset import load_preset

    request = TextRequest(width, height, guidance, negative_prompt, negative_scale, frames)
    changes = {"nfe": nfe, "substeps": substeps, "temperature": options.temperature, "h": h}

    def ask() -> tuple[list[Asked], Gallery | LaidOut, int]:
        gallery = Gallery(out, grid=grid) if layout is None else _laid_out(layout, prompt_file, out)
        asked = about(_asked(prompts, prompt_file) if isinstance(gallery, Gallery) else gallery.asked, image or ())
        usual = 1 if isinstance(gallery, Gallery) else gallery.usual
        number = usual if num_images is None else num_images
        counts = {"num_images": number, "seed": options.seed, "seeds": options.seeds}
        check_request(asked, **counts, batch_size=batch_size)
        request.check_numbers()
        return asked, gallery, number

    def load(asked: list[Asked], number: int, own_device: str) -> list[SampleJob]:
        recipe = load_preset(preset) if preset is not None else None
        bases = Bases() if others else None
        model_options = {"base": base, "device": own_device, "dtype": dtype, "recipe": recipe, "bases": bases}
        early = EarlyCheck(asked, request, changes, steps, options.shift)
        if teacher:
            opened = open_teacher(model, early=early, **model_options)
        else:
            student_options = {"quantization": quantize, "offload": offload, "loras": loras, "early": early}
            opened = open_student(model, nfe=nfe, **student_options, **model_options)
        pictures = partial(
            prepare,
            asked,
            num_images=number,
            seed=options.seed,
            seeds=options.seeds,
            batch_size=batch_size,
        )
        jobs = [pictures(request=request, model=opened, steps=steps, shift=options.shift, **changes)]
        for other in others:
            if other.source is None:
                opened = open_teacher(model, **model_options)
            else:
                opened = open_student(other.source, quantization=quantize, **model_options)
            jobs.append(pictures(request=TextRequest(width, height, frames=frames), model=opened, steps=other.steps))
        return jobs

    with joined(device) as (together, own_device):
        asked, gallery, number = together.main_does(ask)
        jobs = together.each_does(lambda: load(asked, number, own_device))
        tell = draw_beside if others else draw if isinstance(gallery, Gallery) else draw_set
        tell(jobs, gallery, together, as_json=as_json)


def _asked(prompts: list[str] | None, prompt_file: str | None) -> list[Asked]:
    """What is asked for on the command line, and after it that of the file."""
    from piflow_cli.data.asked import Asked, read_asked

    return [*(Asked(prompt) for prompt in prompts or ()), *(read_asked(prompt_file) if prompt_file else ())]


def _laid_out(layout: str, prompt_file: str | None, out: Path) -> LaidOut:
    """The place for a published set's pictures.

    Raises:
        DataError: `--prompts` is not of the set that the layout belongs to.
    """
    from piflow_cli.data.published.entry import read_published
    from piflow_cli.engine.sample.laid_out import LaidOut
    from piflow_cli.errors import DataError

    found = read_published(prompt_file) if prompt_file else None
    if found is None or found.published.name != layout:
        raise DataError(
            f"--layout {layout} is of the published set of this name: pass --prompts {layout} or {layout}:PATH"
        )
    if found.origin is not None:
        console.note(f"prompts: {found.origin}")
    return LaidOut(out, found.published, found.entries)
