"""`piflow sample`: draw pictures with a student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.sample.sample import SampleResult

EXAMPLES = console.examples(
    ("a cat with the embedded student of 4 evaluations, anywhere", 'piflow sample "a cat" --nfe 4'),
    ("a sheet with a row a prompt", 'piflow sample "a panda" "a red heart" "flag of japan" --num-images 8 --grid'),
    ("digits: a prompt is a class", "piflow sample 3 7 --model digits-1nfe"),
    (
        "a released FLUX student on its base, 4 evaluations, on a GPU that holds one model at a time",
        'piflow sample "a cat" --model Lakonik/pi-FLUX.1/gmflux_k8_piid_4step --nfe 4 --offload model',
    ),
    (
        "a student of your own with a style on top, every prompt of a file",
        "piflow sample --prompts prompts.txt --model runs/flux-4nfe --lora style.safetensors=0.8 --width 1360",
    ),
)


def command(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw; a class name or index for classes.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Embedded student, student or run folder, or hub id.", show_default=False),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Teacher's folder or hub id. [default: as trained]")] = None,
    preset: Annotated[
        str | None, typer.Option(help="What a released student was trained by, where its files and name do not say it.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompts", help="More prompts: a .txt, .jsonl or .parquet.", show_default=False)
    ] = None,
    nfe: Annotated[int | None, typer.Option(help="Network evaluations. [default: as trained]")] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", help="Pictures a prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first picture; the next ones count on.")] = 0,
    seeds: Annotated[str | None, typer.Option(metavar="N,N,...", help="Seeds of each prompt's pictures.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [default: as trained]")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels. [default: as trained]")] = None,
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
    out: Annotated[Path, typer.Option(help="A .png file, or a folder.")] = Path("samples"),
    grid: Annotated[
        bool | None,
        typer.Option(
            "--grid/--no-grid",
            help="Only a labelled sheet, or only the pictures. [default: a sheet of many prompts too]",
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a forward pass. [default: by their size]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw pictures with a student; each PNG carries its prompt, seed, NFE and model."""
    if not prompts and prompt_file is None:
        raise typer.BadParameter("say what to draw, or name a file of prompts with --prompts", param_hint="PROMPT")
    chosen_seeds = _seeds(seeds)
    loras = [_lora(text) for text in lora or ()]
    _check_writable(out.parent if out.suffix else out)
    from piflow_cli.engine.sample import sample
    from piflow_cli.engine.sample.open import open_student
    from piflow_cli.engine.sample.save import save_samples
    from piflow_cli.preset import load_preset

    texts = [*(prompts or ()), *_read_prompts(prompt_file)]
    student = open_student(
        model,
        nfe=nfe,
        base=base,
        device=device,
        dtype=dtype,
        quantization=quantize,
        offload=offload,
        loras=loras,
        recipe=load_preset(preset) if preset is not None else None,
    )
    countdown = console.Countdown()
    with console.progress() as line:
        result = sample(
            texts,
            model=student,
            nfe=nfe,
            num_images=num_images,
            seed=seed,
            seeds=chosen_seeds,
            width=width,
            height=height,
            guidance_scale=guidance,
            negative_prompt=negative_prompt,
            negative_scale=negative_scale,
            substeps=substeps,
            temperature=_temperature(temperature),
            h=h,
            batch_size=batch_size,
            on_progress=lambda done, total: line.update(
                done, total, f"{done}/{total} evaluations  {countdown.left(done, total)} left"
            ),
        )
    for warning in result.warnings:
        console.warn(warning)
    _report(result, save_samples(result, out, grid=grid), as_json=as_json)


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of whole numbers such as 1,2,3", param_hint="--seeds") from None


def _lora(text: str) -> tuple[str, float]:
    """Source and weight of SOURCE or SOURCE=WEIGHT."""
    source, separator, weight = text.rpartition("=")
    if not separator:
        return text, 1.0
    try:
        return source, float(weight)
    except ValueError:
        raise typer.BadParameter(f"{weight!r} is no weight; write SOURCE=0.8", param_hint="--lora") from None


def _read_prompts(path: Path | None) -> list[str]:
    if path is None:
        return []
    from piflow_cli.data.files.prompts import read_prompts

    found = read_prompts(str(path))
    return [found[i] for i in range(len(found))]


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or made, before anything is loaded; nothing is made yet."""
    from piflow_cli.io.files import writable_folder

    writable_folder(next(path for path in (folder, *folder.parents) if path.exists()))


def _temperature(text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor auto", param_hint="--temperature") from None


def _report(result: SampleResult, paths: list[Path], *, as_json: bool) -> None:
    if as_json:
        console.print_json(
            {
                "paths": paths,
                "prompts": result.prompts,
                "seeds": result.seeds,
                "model": result.model,
                "sampling": result.settings.model_dump(),
                "network_s": result.network_s,
                "policy_s": result.policy_s,
                "warnings": result.warnings,
            }
        )
        return
    for path in paths:
        typer.echo(path)
    share = 100 * result.policy_s / max(result.network_s + result.policy_s, 1e-9)
    typer.echo(
        f"{len(result.images)} picture{'s' * (len(result.images) > 1)} by {result.model} at {result.settings.nfe} NFE: "
        f"network {result.network_s:.2f} s, policy {result.policy_s:.2f} s ({share:.0f}%)"
    )
