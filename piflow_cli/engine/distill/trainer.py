"""The training loop of a distillation (pi-Flow, algorithms 1-3), on accelerate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from piflow_cli.core.ema import EMA
from piflow_cli.core.interfaces import DataSource, TrainingBatch
from piflow_cli.core.interfaces.segment_losses import SegmentLosses, unpacked
from piflow_cli.data.loading import Loaded
from piflow_cli.engine.distill.attention import training_attention
from piflow_cli.engine.distill.embeddings import fill_cache, open_with_cache
from piflow_cli.engine.distill.events import NUM_EXAMPLES, DistillEvent, DistillResult, Journal
from piflow_cli.engine.distill.initial import begin
from piflow_cli.engine.distill.network import build_network, open_teacher
from piflow_cli.engine.distill.resume.checkpoints import CheckpointCard
from piflow_cli.engine.distill.resume.processes import processes_note, resumed_micro_batches
from piflow_cli.engine.distill.resume.run_folder import RunFolder, Start
from piflow_cli.engine.distill.resume.snapshot import Snapshot, read_average
from piflow_cli.engine.distill.resume.writer import CheckpointWriter
from piflow_cli.engine.distill.showing.drawing import Drawer
from piflow_cli.engine.distill.showing.looks import Looks
from piflow_cli.engine.distill.showing.opening import first_lines
from piflow_cli.engine.distill.showing.trackers import Trackers
from piflow_cli.engine.distill.showing.utilisation import work_of
from piflow_cli.engine.distill.signals import StopRequest
from piflow_cli.engine.distill.state import Progress, build_optimizers, build_scheduler, diverged, read_ahead
from piflow_cli.engine.processes.precision import Precision
from piflow_cli.engine.processes.sharded import check_sharding, whole
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.processes.watch import Watch
from piflow_cli.engine.students.device import resolve_precision
from piflow_cli.engine.students.save import card_of, save_student
from piflow_cli.formats.student import StoredStudent
from piflow_cli.preset import Preset


class Trainer:
    """The state of a run, and the loop over it."""

    def __init__(
        self,
        preset: Preset,
        run: RunFolder,
        *,
        start: Start,
        together: Together,
        device: torch.device,
        strategy: Literal["ddp", "fsdp2"],
        on_event: Callable[[DistillEvent], None] | None,
    ) -> None:
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration

        self.preset, self.run, self.start, self.together = preset, run, start, together
        settings = preset.training
        self.accelerator = Accelerator(
            mixed_precision="no",  # the passes' precision is ours, so that it is one under every strategy
            cpu=device.type == "cpu",
            log_with=list(settings.trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run / "logs")),
        )
        self.device, sharded = self.accelerator.device, strategy == "fsdp2"
        check_sharding(preset, sharded=sharded)
        self.micro_batch, self.accumulation = resumed_micro_batches(preset, together.num_processes, start.card)
        self.progress, self.saved_step = Progress(seed=settings.seed), 0
        self.trackers = Trackers(self.accelerator, settings.trackers)
        work = work_of(preset, self.device, num_processes=together.num_processes) if together.is_main else None
        told = {"trackers": self.trackers, "on_event": on_event, "speaks": together.is_main, "work": work}
        self.journal = Journal(run, settings, self.progress, **told)
        cached = fill_cache(preset, device=self.device, on_progress=self.journal.show_caching)
        self.accelerator.wait_for_everyone()
        self.journal.busy(f"loading the teacher {preset.teacher.source}")
        self.teacher, files = open_teacher(preset, device=self.device, encoders=not cached, sharded=strategy == "fsdp2")
        self.journal.busy("reading the data")
        self.data: DataSource = open_with_cache(preset, self.teacher.space)
        self.teacher.name_classes(self.data.class_names)
        self.journal.busy("making the student")
        self.precision = precision = Precision(resolve_precision(settings.mixed_precision, self.device), self.device)
        where = {"accelerator": self.accelerator, "together": together}
        self.network = build_network(preset, self.teacher, files, precision=precision, **where)
        self.student = self.network.student
        self.optimizers = build_optimizers(
            self.student, preset.optimizer, device=self.device, sharded=self.network.sharded
        )
        self.schedulers = [build_scheduler(o, preset.optimizer, steps=settings.steps) for o in self.optimizers]
        self.teacher_network = self.network.evaluate_teacher if preset.adapter is not None else None
        own = self.student.own_parameters()
        self.ema = EMA(own.items(), gamma=settings.ema_gamma, warmup_steps=preset.optimizer.warmup_steps)
        moved = {"optimizers": self.optimizers, "schedulers": self.schedulers, "precision": precision}
        self.snapshot = Snapshot(own, self.ema, progress=self.progress, **moved)
        self.writer = CheckpointWriter(run, together, keep=settings.checkpoints_kept, export=self._write_student)
        self.watch = Watch(together.world, limit_s=settings.hang_timeout_s)
        sizes = {"batch_size": self.micro_batch, "micro_batches": self.accumulation, "process": together.index}
        self.loader = read_ahead(self.data, self.progress, settings, on_read=self.watch.touch, **sizes)
        drawer = Drawer(preset, self.teacher, self.network, batch_size=self.micro_batch, together=together)
        self.looks = Looks(preset, run, self.data, drawer=drawer, ema=self.ema, journal=self.journal)

    def train(self, *, stop_after: int | None = None) -> DistillResult:
        """Train from where the run starts to the end, or until asked to stop.

        Args:
            stop_after: step at which to stop as if asked to.
        """
        settings = self.preset.training
        self.trackers.begin({"preset": self.preset.model_dump_json()})
        shares = (self.together.num_processes, self.micro_batch, self.accumulation)
        for line in (self.network.describe(*shares), *first_lines(self.preset, self.run, self.data)):
            self.journal.tell("setting", message=line)
        self._restore()
        self.journal.busy("taking the first step")
        loss, last = None, math.inf if stop_after is None else stop_after
        try:
            with (
                StopRequest() as stop,
                self.loader,
                self.watch,
                training_attention(self.device, self.teacher.space.latent_shape),
            ):
                self.looks.resume(self.progress.step)
                self.journal.pace.begin()
                while self.progress.step < settings.steps:
                    if self._agree(stop.requested or self.progress.step >= last):
                        break
                    loss = self._step()
                    if self.progress.step % settings.checkpoint_every == 0:
                        self._checkpoint()
                    self.looks.after(self.progress.step)
                if self.progress.step != self.saved_step:
                    self._checkpoint()
                self.journal.busy(f"saving step {self.progress.step}")
                self.writer.wait()
        finally:
            self.writer.close()
            self._tell_checkpoints()
            self.looks.finish()
        student = self.run / "student" if self.progress.step else None
        self.trackers.end()
        self.journal.tell("done", path=student)
        return DistillResult(
            student=student,
            out=self.run.path,
            step=self.progress.step,
            steps=settings.steps,
            interrupted=self.progress.step < settings.steps,
            warned=self.together.any_of([stop.warned])[0],
            skipped=self.progress.skipped,
            wall_s=self.journal.wall_s,
            loss=loss,
            examples=tuple(self.teacher.space.examples(NUM_EXAMPLES)),
        )

    def _restore(self) -> None:
        """Go to the checkpoint that the run starts from, and see that the student is the one of that step."""
        card = self.start.card
        for note in (*self.start.notes, *self.teacher.space.warnings, *self.data.doubts):
            self.journal.tell("warning", message=note)
        if card is None:
            self.journal.tell("start", message=begin(self.preset, self.snapshot))
            return
        folder = self.run.checkpoints.path(card.step)
        self.journal.busy(f"reading {folder}")
        self.snapshot.load(folder, card, group=self.together.group)
        self.saved_step = card.step
        self.journal.tell("start", message=f"resumed from step {card.step}")
        spread = {"num_processes": self.together.num_processes, "sharded": self.network.sharded}
        if note := processes_note(card, micro_batch_size=self.micro_batch, **spread):
            self.journal.tell("warning", message=note)
        if self.together.is_main and self.run.student_step() != card.step:
            self._write_student(folder, card)

    def _agree(self, stop: bool) -> bool:
        """Whether any process was asked to stop.

        Raises:
            StorageError: a checkpoint that was written meanwhile has failed, or metrics cannot be written.
        """
        self._tell_checkpoints()
        stop, failed, lost = self.together.any_of([stop, self.writer.failed, self.journal.failure is not None])
        if failed:
            self.writer.wait()
        if lost:
            self.together.raise_any(self.journal.failure)
        return stop

    def _tell_checkpoints(self) -> None:
        """Tell of checkpoints that are whole by now."""
        for step in self.writer.take_done():
            self.journal.tell("checkpoint", step=step, path=self.run.checkpoints.path(step))

    def _step(self) -> float:
        """One optimiser step; returns the loss, NaN where it was skipped."""
        self.network.wrapped.train()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        self.segments = SegmentLosses(self.preset.sampling.nfe, self.device)
        with self.watch.busy("reading the data", self.progress.step + 1):
            batches = self.loader.step(self.progress.step, self.teacher.space)
        for micro, loaded in enumerate(batches):
            self.progress.begin_micro_batch(self.together.index * self.accumulation + micro)
            loss += self._accumulate(loaded, sync=micro == self.accumulation - 1)
        loss, *parts = self.accelerator.reduce(torch.cat([loss[None], self.segments.packed()]), reduction="mean")
        warm = self.progress.step < self.preset.optimizer.warmup_steps
        limit, own = math.inf if warm else self.preset.optimizer.clip_norm, list(self.student.own_parameters().values())
        self.precision.unscale(own)
        norm = whole(torch.nn.utils.clip_grad_norm_(own, limit))
        told = torch.stack([loss, norm.to(loss), *parts])
        value, gradient_norm, *parts = told.tolist()  # the one wait of a step for its device
        learning_rate = self.schedulers[0].get_last_lr()[0]
        self.progress.step += 1
        finite = math.isfinite(value) and math.isfinite(gradient_norm)
        overflow = self.precision.advance(finite=finite)
        if finite:
            for optimizer in self.optimizers:
                optimizer.step()
            self.progress.updates += 1
            self.ema.update(self.progress.updates)
            self.progress.bad_in_a_row = 0
        else:
            self._skip(value, gradient_norm, overflow=overflow)
        for scheduler in self.schedulers:
            scheduler.step()
        found = {"gradient_norm": gradient_norm, "learning_rate": learning_rate}
        self.journal.log(loss=value, by_segment=unpacked(parts), **found)
        self.journal.name_left_out(self.data.skipped)
        return value

    def _accumulate(self, loaded: Loaded, *, sync: bool) -> Tensor:
        """Backward of one micro-batch's losses over the number of micro-batches; returns that share of the loss.

        Args:
            loaded: the micro-batch.
            sync: whether processes exchange gradients, with the last of the losses.
        """
        total = torch.zeros((), device=self.device)
        losses = self._losses(loaded)
        count = self.preset.objective.num_losses(self.preset.sampling, has_images=self.data.has_images)
        for i in range(count):
            with self.network.exchanging(self.accelerator, sync and i == count - 1):
                loss = next(losses)
                self.precision.scaled(loss / self.accumulation).backward()
                total += loss.detach() / self.accumulation
        return total

    def _losses(self, loaded: Loaded) -> Iterator[Tensor]:
        """The losses of one micro-batch, each to be backpropagated before the next is asked for."""
        generator, family, space = self.progress.generator, self.preset.policy, self.teacher.space
        condition = space.conditions(loaded.condition)
        batch = TrainingBatch(
            latents=loaded.latents,
            shape=loaded.shape(space, batch_size=self.micro_batch),
            make_policy=lambda x, sigma: self.network.policy(self.preset, x, sigma, condition),
            teacher=lambda x, sigma: self.teacher.velocity(x, sigma, condition, network=self.teacher_network),
            generator=generator,
            device=self.device,
            segments=self.segments,
        )
        objective, step = self.preset.objective, self.progress.step
        return objective.losses(batch, sampling=self.preset.sampling, dropout=family.dropout, step=step)

    def _skip(self, loss: float, gradient_norm: float, *, overflow: bool) -> None:
        """Leave the weights alone after a non-finite step; stop where there were too many in a row."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.progress.skipped += 1
        self.progress.bad_in_a_row += 0 if overflow else 1
        scale = f": float16 overflowed, and the loss scale is {self.precision.scale:g} now" if overflow else ""
        self.journal.tell("skipped", message=f"skipped: loss {loss}, gradient norm {gradient_norm}{scale}")
        if self.progress.bad_in_a_row >= self.preset.optimizer.max_bad_steps:
            self.writer.wait()
            raise diverged(self.progress, loss, gradient_norm, kept=self.run.checkpoints.newest_step())

    def _checkpoint(self) -> None:
        """Save everything that training depends on, whole or not at all, beside the next steps."""
        step = self.progress.step
        self.journal.busy(f"saving step {step}")
        card = self.snapshot.card(
            together=self.together,
            sharded=self.network.sharded,
            micro_batch_size=self.micro_batch,
            teacher_ratio=self.preset.objective.teacher_ratio(step),
            data=self.loader.digests(),
        )
        self.writer.begin(self.snapshot.tensors(), card)
        self.saved_step = step

    def _write_student(self, checkpoint: Path, card: CheckpointCard) -> None:
        """Write the averaged weights of a checkpoint as a native student: the student is always the newest one's."""
        stored = StoredStudent(
            card=card_of(self.preset, self.teacher, steps=card.step), weights=read_average(checkpoint)
        )
        save_student(stored, self.run / "student", vae=self.teacher.space.own_vae)
