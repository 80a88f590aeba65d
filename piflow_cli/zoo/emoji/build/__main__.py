"""Build the embedded text-to-image teacher and its students from the open emoji sets, step by step.

    python -m piflow_cli.zoo.emoji.build data|vae|teacher|features|ship|students|all [--work DIR]
        [--hours H | --steps N] [--device cpu|cuda]

Every step goes on where it was stopped (Ctrl-C or SIGTERM), and keeps everything in the work folder. `ship` puts
teacher, feature network and prompts among the files of the package, where `students` finds them, and puts its own.
"""

import argparse
import importlib
import sys
from pathlib import Path

from piflow_cli.errors import DeviceError, PiflowError

WORK = Path("~/.cache/piflow/emoji")
TRAININGS = {
    "vae": ("piflow_cli.zoo.emoji.build.vae:train_vae", 0.75),
    "teacher": ("piflow_cli.zoo.emoji.build.teacher:train_teacher", 5.0),
    "features": ("piflow_cli.zoo.emoji.build.features:train_features", 0.25),
}
"""What is trained, in order: by which function, and for how many hours where nothing else is said."""
STEPS = ("data", *TRAININGS, "ship", "students")
STOPPED = 130


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m piflow_cli.zoo.emoji.build", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=(*STEPS, "all"), help="what to make; the steps before it must be done")
    parser.add_argument("--work", type=Path, default=WORK, help=f"folder for everything made (default: {WORK})")
    parser.add_argument("--registry", help="npm registry to download from (default: npm's own)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    hours = ", ".join(f"{name}: {default:g}" for name, (_, default) in TRAININGS.items())
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, help=f"time of each training over all its resumptions ({hours})")
    length.add_argument("--steps", type=int, help="optimiser steps, in place of a time")
    parser.add_argument("--finish", action="store_true", help="begin the decay of the learning rate now, then end")
    parser.add_argument(
        "--compile", action="store_true", help="the teacher through torch.compile; 1.2x as fast on a CPU, needs C++"
    )
    options = parser.parse_args(arguments)
    if (options.hours is not None and not options.hours > 0) or (options.steps is not None and options.steps < 1):
        parser.error("--hours and --steps must be positive")
    options.work = options.work.expanduser()
    return options


def make(what: str, options: argparse.Namespace) -> Path | None:
    """Do one step; gives what it made, or nothing where it was stopped before the end."""
    if what == "data":
        from piflow_cli.zoo.emoji.build.data.download import find_registry
        from piflow_cli.zoo.emoji.build.data.pictures import build_data

        return build_data(options.work, registry=find_registry(options.registry))
    import torch

    from piflow_cli.zoo.emoji.build.data.pictures import load_data
    from piflow_cli.zoo.emoji.build.training.schedule import Budget

    if options.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("there is no CUDA device here; use --device cpu")
    if what in ("ship", "students"):
        from piflow_cli.zoo.emoji.build.students import ship_models, train_students

        if what == "ship":
            return ship_models(load_data(options.work), options.work)
        return train_students(options.work, device=options.device, steps=options.steps)
    place, default_hours = TRAININGS[what]
    module, function = place.split(":")
    hours = default_hours if options.hours is None and options.steps is None else options.hours
    budget = Budget(steps=options.steps, hours=hours, finish=options.finish)
    train = getattr(importlib.import_module(module), function)
    extra = {"compiled": True} if what == "teacher" and options.compile else {}
    return train(load_data(options.work), options.work, budget=budget, device=torch.device(options.device), **extra)


def main(arguments: list[str] | None = None) -> int:
    """Parse and do; returns the exit status."""
    options = parse(arguments)
    try:
        for what in STEPS if options.what == "all" else (options.what,):
            made = make(what, options)
            if made is None:
                print(f"Stopped: the same command goes on from {options.work / what}.", file=sys.stderr)
                return STOPPED
            print(made)
    except PiflowError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
