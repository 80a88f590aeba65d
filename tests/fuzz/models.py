"""Attacks on models: students in every format, teachers' folders, style LoRA, run folders and their checkpoints."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_runs import make_run
from read_pages import Page
from safetensors.torch import save_file
from text_students import FOUR_STEPS, text_student
from tiny_models import DIGIT_NAMES, gmflow, save_teacher, stored_student, tiny_flux, tiny_vae

from fuzz import damage
from fuzz.case import Case, Target
from piflow_cli.engine.convert import convert
from piflow_cli.engine.convert.check import check
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.resume.checkpoints import Checkpoints
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.distill.resume.snapshot import read_tensors
from piflow_cli.engine.distill.resume.sources import digests_of_sources
from piflow_cli.engine.report.runs import write_report
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import open_student
from piflow_cli.engine.students.load import load_student, read_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.formats.student import StoredStudent
from piflow_cli.io.checksums import MANIFEST, write_manifest
from piflow_cli.preset import Preset, load_preset
from piflow_cli.teachers.dit.family import DiT

TINY = ("training.batch_size=2", "training.checkpoint_every=1", "training.preview_every=0", "data={type='noise'}")


def _any_file(rng: random.Random, folder: Path) -> str:
    return "; ".join(damage.folder(rng, folder))


def _signed(rng: random.Random, folder: Path) -> str:
    """Damage under checksums that are made anew, as an attacker makes them, or under the old ones, or without any."""
    before = folder / MANIFEST
    held = before.read_bytes() if before.exists() else None
    if held is not None:
        before.unlink()
    done = _any_file(rng, folder)
    kind = rng.randrange(5)
    if before.is_dir():
        return done
    if held is not None and kind == 0:
        before.write_bytes(held)
    elif held is not None and kind == 1:
        before.write_bytes(damage.as_json(rng, held))
    elif held is not None and kind == 2:
        _sign(folder)
    return done


def _sign(folder: Path) -> None:
    """Make the checksums anew, where what lies there can be read to its end."""
    if all(path.is_file() for path in folder.rglob("*") if not path.is_dir()):
        write_manifest(folder)


def _student(folder: Path) -> None:
    _save_here(stored_student(gmflow(), in_channels=1, out_channels=1), folder)


def _save_here(stored: StoredStudent, folder: Path, **options: Any) -> None:
    save_student(stored, folder / "there", **options)
    for path in list((folder / "there").iterdir()):
        shutil.move(path, folder / path.name)
    (folder / "there").rmdir()


def _vae_student(folder: Path) -> None:
    save_student(stored_student(gmflow()), folder / "student", vae=tiny_vae())


def _open_student(case: Case, _what: object) -> None:
    student = load_student(str(case.given))
    sample(["3"], model=student, device="cpu")


def _open_inside(case: Case, _what: object) -> None:
    student = load_student(str(case.given / "student"))
    sample(["3"], model=student, device="cpu")


def _check_student(case: Case, _what: object) -> None:
    check(case.given)


def _convert(case: Case, _what: object) -> None:
    convert(case.given, case.out / "student", to="lakonlab")


def _released(folder: Path) -> None:
    stored = stored_student(gmflow(), in_channels=1, out_channels=1)
    _save_here(stored, folder, format_name="lakonlab")


def _adapter(folder: Path) -> None:
    stored = text_student(tiny_flux(), gmflow(), sampling=FOUR_STEPS)
    save_student(stored, folder / "adapter", format_name="lakonlab")
    convert(folder / "adapter", folder / "comfy.safetensors", to="comfyui", preset="flux-4nfe")


def _read_released(case: Case, _what: object) -> None:
    recipe = load_preset("flux-4nfe")
    for place in ("adapter", "comfy.safetensors"):
        read_student(case.given / place, recipe=recipe)


def _text_student(folder: Path) -> None:
    save_student(text_student(tiny_flux(), gmflow(), sampling=FOUR_STEPS), folder / "student")


def _base(folder: Path) -> None:
    shutil.copytree(tiny_flux().source, folder / "base")


def _load_base(case: Case, _what: object) -> None:
    family = tiny_flux(source=str(case.given / "base"))
    family.check_source()
    family.load()


def _dit_base(folder: Path) -> None:
    save_teacher(folder / "base", labels=DIGIT_NAMES, vae=True)


def _load_dit(case: Case, _what: object) -> None:
    family = DiT(source=str(case.given / "base"))
    family.check_source()
    family.load()


@functools.cache
def _opened() -> Any:
    return load_student(str(_made("student", _text_student) / "student"))


@functools.cache
def _made(name: str, build: Callable[[Path], None]) -> Path:
    """Something valid for as long as this process lives."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    build(folder)
    return folder


def _lora(folder: Path) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    weights = {}
    module = _opened().network.module
    for name in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_v"):
        layer = module.get_submodule(name)
        weights[f"transformer.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator)
        weights[f"transformer.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=generator)
    save_file(weights, folder / "style.safetensors")


def _add_lora(case: Case, _what: object) -> None:
    place = str(_made("student", _text_student) / "student")
    open_student(place, device="cpu", dtype="float32", loras=[(str(case.given / "style.safetensors"), 1.0)])


def _one_lora(rng: random.Random, folder: Path) -> str:
    damage.file(rng, folder / "style.safetensors")
    return "damaged"


def run_preset(steps: int = 2) -> Preset:
    """A run of a few steps."""
    return load_preset("digits-1nfe", [*TINY, f"training.steps={steps}", "training.batch_size=2"])


def _run(folder: Path) -> None:
    distill(run_preset(), out=folder / "run", device="cpu")


def _attack_run(rng: random.Random, folder: Path) -> str:
    """Checkpoints under their old checksums, or new ones; and whatever else lies there."""
    run = folder / "run"
    if rng.random() < 0.5:
        return _any_file(rng, run)
    place = rng.choice(sorted((run / "checkpoints").iterdir()))
    done = _any_file(rng, place)
    if rng.random() < 0.7 and not (place / MANIFEST).is_dir():
        (place / MANIFEST).unlink(missing_ok=True)
        _sign(place)
    return f"{place.name}: {done}"


def _claim(case: Case, _what: object) -> None:
    preset, run = run_preset(3), RunFolder(case.given / "run")
    try:
        start = run.open(preset, sources=digests_of_sources(preset), resume=True, needed_bytes=0)
        if start.card is not None:
            read_tensors(run.checkpoints.path(start.card.step))
        run.student_step()
    finally:
        run.close()


def _resume(case: Case, _what: object) -> None:
    distill(run_preset(3), out=case.given / "run", device="cpu")


def _shown_run(folder: Path) -> None:
    make_run(folder / "run", steps=12, pictures=2)


def _attack_shown(rng: random.Random, folder: Path) -> str:
    return _any_file(rng, folder / "run")


def _report(case: Case, _what: object) -> None:
    write_report([case.given / "run"], case.out / "page.html")
    Page((case.out / "page.html").read_text(encoding="utf-8")).check_closed()


def _manifests(case: Case, _what: object) -> None:
    card, _ = Checkpoints(case.given / "run" / "checkpoints").newest_whole()
    json.dumps(card.model_dump() if card else None)


TARGETS = {
    "student": Target(_student, _signed, _open_student),
    "vae student": Target(_vae_student, _any_file, _open_inside),
    "check": Target(_student, _signed, _check_student),
    "convert": Target(_student, _signed, _convert),
    "released": Target(_released, _signed, _open_student),
    "adapter": Target(_adapter, _any_file, _read_released),
    "base": Target(_base, _any_file, _load_base),
    "dit base": Target(_dit_base, _any_file, _load_dit),
    "style": Target(_lora, _one_lora, _add_lora),
    "run": Target(_run, _attack_run, _claim, writes=True),
    "manifest": Target(_run, _attack_run, _manifests, writes=True),
    "report": Target(_shown_run, _attack_shown, _report),
    "resume": Target(_run, _attack_run, _resume, writes=True),
}
