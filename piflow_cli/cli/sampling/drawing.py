"""Pictures and sheets as `piflow sample` draws them, with what it says meanwhile and afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.processes.together import Together
    from piflow_cli.engine.sample.job import SampleJob, SampleResult
    from piflow_cli.engine.sample.laid_out import LaidOut
    from piflow_cli.engine.sample.save import Gallery


def draw(jobs: list[SampleJob], gallery: Gallery, together: Together, *, as_json: bool) -> None:
    """Draw, and let the main process write every picture as soon as it is there, and tell of it."""
    (job,) = jobs
    together.main_does(lambda: gallery.expect(job))
    with _telling([*job.warnings, *job.idle(together.num_processes)], together) as on_progress:
        result = job.run(together=together, on_picture=gallery.add, on_progress=on_progress, keep_videos=False)
    if not together.is_main:
        return
    paths = gallery.finish(result)
    if as_json:
        console.print_json({"paths": paths} | _facts(result))
        return
    for path in paths:
        typer.echo(path)
    typer.echo(summary(result))


def draw_beside(jobs: list[SampleJob], gallery: Gallery, together: Together, *, as_json: bool) -> None:
    """One sheet of several models."""
    from piflow_cli.engine.sample.beside import Lineup, sheet

    lineup = together.each_does(lambda: Lineup(jobs))
    with _telling([*lineup.warnings, *jobs[0].idle(together.num_processes)], together) as on_progress:
        results = lineup.run(together=together, on_progress=on_progress)
    if not together.is_main:
        return
    path = gallery.write_sheet(*sheet(results), name="beside")
    if as_json:
        console.print_json({"path": path, "rows": [_facts(result) for result in results]})
        return
    typer.echo(path)
    for result in results:
        typer.echo(summary(result))


def draw_set(jobs: list[SampleJob], gallery: LaidOut, together: Together, *, as_json: bool) -> None:
    """A published set, as its scorer wants it."""
    from piflow_cli.engine.sample.laid_out import draw_laid_out

    (job,) = jobs
    together.main_does(lambda: gallery.expect(job))
    with _telling([*job.warnings, *job.idle(together.num_processes)], together) as on_progress:
        result = draw_laid_out(job, gallery, together=together, on_progress=on_progress)
    if not together.is_main:
        return
    if as_json:
        facts = {"model": job.artist.name, "sampling": job.artist.settings.model_dump(), "warnings": job.warnings}
        times = {"network_s": result.network_s, "policy_s": result.policy_s}
        console.print_json(
            {"paths": result.paths, "pictures": result.pictures, "prompts": result.prompts} | facts | times
        )
        return
    typer.echo(gallery.out)
    typer.echo(
        f"{result.pictures} pictures of the {result.prompts} prompts of {gallery.published.name} by {job.artist.name} "
        f"at {job.artist.settings.nfe} NFE: network {result.network_s:.2f} s, policy {result.policy_s:.2f} s"
    )


@contextmanager
def _telling(warnings: list[str], together: Together) -> Iterator[Callable[[int, int], None]]:
    """Within the context the main process says how far things are; before, what a user should know."""
    for warning in warnings if together.is_main else ():
        console.warn(warning)
    countdown = console.Countdown()
    countdown.begin()
    with console.progress(shown=together.is_main) as line:
        yield lambda done, total: line.update(done, total, countdown.words(f"{done}/{total} evaluations", done, total))


def _facts(result: SampleResult) -> dict[str, object]:
    return {
        "prompts": result.prompts,
        "seeds": result.seeds,
        "model": result.model,
        "sampling": result.settings.model_dump(),
        "network_s": result.network_s,
        "policy_s": result.policy_s,
        "num_processes": result.num_processes,
        "warnings": result.warnings,
    }


def summary(result: SampleResult) -> str:
    """Who drew how many pictures, and the time of network and policy, in a line."""
    share = 100 * result.policy_s / max(result.network_s + result.policy_s, 1e-9)
    number, what = len(result.images), "video" if result.frames > 1 else "picture"
    by = f", {result.num_processes} processes together" if result.num_processes > 1 else ""
    return (
        f"{number} {what}{'s' * (number > 1)} by {result.model} at {result.settings.nfe} NFE: "
        f"network {result.network_s:.2f} s, policy {result.policy_s:.2f} s ({share:.0f}%){by}"
    )
