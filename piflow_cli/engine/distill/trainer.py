"""The training loop of a distillation (pi-Flow, algorithms 1-3), on accelerate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from piflow_cli.core.ema import EMA
from piflow_cli.core.interfaces import DataSource, Teacher, TrainingBatch
from piflow_cli.core.student import Student
from piflow_cli.engine.distill.attention import training_attention
from piflow_cli.engine.distill.build import build_student, shared_network, student_policy
from piflow_cli.engine.distill.embeddings import cache_embeddings, cache_folder, is_cached, open_with_cache
from piflow_cli.engine.distill.events import DistillEvent, DistillResult
from piflow_cli.engine.distill.preview import Preview
from piflow_cli.engine.distill.run_folder import RunFolder
from piflow_cli.engine.distill.signals import StopRequest
from piflow_cli.engine.distill.state import AverageState, Progress, build_optimizers, build_scheduler, save_only
from piflow_cli.engine.plan.batches import micro_batches
from piflow_cli.engine.processes.sharded import check_sharding, whole
from piflow_cli.engine.students.device import resolve_dtype, resolve_precision
from piflow_cli.engine.students.save import card_of, save_student
from piflow_cli.errors import TrainingError
from piflow_cli.formats.student import StoredStudent
from piflow_cli.io.files import PARTIAL
from piflow_cli.preset import Preset


class Trainer:
    """The state of a run, and the loop over it."""

    def __init__(
        self,
        preset: Preset,
        run: RunFolder,
        *,
        device: torch.device,
        on_event: Callable[[DistillEvent], None] | None,
    ) -> None:
        from accelerate import Accelerator, DistributedType
        from accelerate.utils import ProjectConfiguration

        # Blocks share one embedding; saving it once is right, and accelerate would warn of it at every checkpoint.
        logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
        self.preset, self.run, self.on_event = preset, run, on_event
        settings = preset.training
        self.accelerator = Accelerator(
            mixed_precision=resolve_precision(settings.mixed_precision, device),
            cpu=device.type == "cpu",
            log_with=list(settings.trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run / "logs")),
        )
        self.device = self.accelerator.device
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        check_sharding(preset, sharded=sharded)
        self.micro_batch, self.accumulation = micro_batches(preset, self.accelerator.num_processes)
        self.progress = Progress(seed=settings.seed, process=self.accelerator.process_index)
        self._cache_embeddings()
        cached = cache_folder(preset) is not None
        self.teacher: Teacher = preset.teacher.load(
            device=self.device, dtype=resolve_dtype(settings.teacher_dtype, self.device), encoders=not cached
        )
        self.data: DataSource = open_with_cache(preset, self.teacher.space)
        generator = torch.Generator().manual_seed(settings.seed)
        student = build_student(preset, self.teacher, generator=generator).to(self.device)
        if settings.gradient_checkpointing:
            student.module.enable_gradient_checkpointing()
        optimizers = build_optimizers(student, preset.optimizer, device=self.device, sharded=sharded)
        self.schedulers = [build_scheduler(o, preset.optimizer, steps=settings.steps) for o in optimizers]
        self.network, *self.optimizers = self.accelerator.prepare(student, *optimizers)
        self.student: Student = self.accelerator.unwrap_model(self.network)
        self.teacher_network = shared_network(self.network, self.student) if preset.adapter is not None else None
        own = self.student.own_parameters()
        self.ema = EMA(own.items(), gamma=settings.ema_gamma, warmup_steps=preset.optimizer.warmup_steps)
        self.saved_step = self.left_out = 0
        self.sharded = any(isinstance(parameter, DTensor) for parameter in own.values())
        self.accelerator.register_for_checkpointing(AverageState(self.ema), self.progress, *self.schedulers)
        if preset.adapter is not None:
            save_only(self.accelerator, own)
        self.preview = Preview(preset, self.teacher, run, self.data) if settings.preview_every else None

    def train(self, start: int) -> DistillResult:
        """Train from the checkpoint of step `start` (0: from the teacher) to the end, or until asked to stop."""
        settings, begun = self.preset.training, time.perf_counter()
        if settings.trackers:
            self.accelerator.init_trackers("piflow", config={"preset": self.preset.model_dump_json()})
        if start:
            self.accelerator.load_state(str(self.run.checkpoint(start)))
        self.saved_step = start
        self._emit("start", message=f"resumed from step {start}" if start else "")
        loss, student = None, None
        with StopRequest() as stop, training_attention(self.device, self.teacher.space.latent_shape):
            while self.progress.step < settings.steps and not self._agree(stop.requested):
                loss = self._step(begun, start)
                step = self.progress.step
                if step % settings.checkpoint_every == 0:
                    self._checkpoint()
                if self.preview and (step == settings.steps or step % settings.preview_every == 0):
                    self._preview()
            if self.progress.step != self.saved_step:
                self._checkpoint()
            if self.progress.step > start or not (self.run / "student").exists():
                student = self._write_student()
            else:
                student = self.run / "student"
        interrupted = self.progress.step < settings.steps
        if settings.trackers:
            self.accelerator.end_training()
        self._emit("done", path=student)
        return DistillResult(
            student=student,
            out=self.run.path,
            step=self.progress.step,
            steps=settings.steps,
            interrupted=interrupted,
            skipped=self.progress.skipped,
            wall_s=time.perf_counter() - begun,
            loss=loss,
        )

    def _agree(self, stop: bool) -> bool:
        """Whether any process was asked to stop."""
        if self.accelerator.num_processes == 1:
            return stop
        asked = torch.tensor(float(stop), device=self.device)
        return bool(self.accelerator.reduce(asked, reduction="sum") > 0)

    def _cache_embeddings(self) -> None:
        """Fill the preset's cache of embeddings, where it names one, before the transformer is loaded."""
        if cache_folder(self.preset) is None:
            return

        def show(done: int, total: int) -> None:
            if self.on_event is not None and self.accelerator.is_main_process:
                self.on_event(DistillEvent(kind="caching", step=done, steps=total))

        if not is_cached(self.preset):
            cache_embeddings(self.preset, device=self.device, on_progress=show, verify=False)
        self.accelerator.wait_for_everyone()

    def _step(self, begun: float, start: int) -> float:
        """One optimiser step; returns the loss, NaN where it was skipped."""
        self.network.train()
        self.progress.begin_step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for micro in range(self.accumulation):
            last = micro == self.accumulation - 1
            loss += self._accumulate(sync=last)
        loss = self.accelerator.reduce(loss, reduction="mean")
        warm = self.progress.step < self.preset.optimizer.warmup_steps
        limit = float("inf") if warm else self.preset.optimizer.clip_norm
        norm = self.accelerator.clip_grad_norm_(list(self.student.own_parameters().values()), limit)
        value, gradient_norm = float(loss), float(norm)
        self.progress.step += 1
        if torch.isfinite(loss) and torch.isfinite(torch.as_tensor(gradient_norm)):
            for optimizer in self.optimizers:
                optimizer.step()
            self.progress.updates += 1
            self.ema.update(self.progress.updates)
            self.progress.bad_in_a_row = 0
        else:
            self._skip(value, gradient_norm)
        for scheduler in self.schedulers:
            scheduler.step()
        self._log(value, gradient_norm, begun, start)
        self._tell_left_out()
        return value

    def _tell_left_out(self) -> None:
        """Name what the data source has left out since it was last asked."""
        new = self.data.skipped[self.left_out :]
        if new:
            self.left_out += len(new)
            names = ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "")
            self._emit("left out", message=f"left out so far: {self.left_out}, now {names}")

    def _accumulate(self, *, sync: bool) -> Tensor:
        """Backward of one micro-batch's losses over the number of micro-batches; returns that share of the loss.

        Args:
            sync: whether processes exchange gradients, with the last of the losses.
        """
        total = torch.zeros((), device=self.device)
        losses = self._losses()
        count = self.preset.objective.num_losses(self.preset.sampling, has_images=self.data.has_images)
        for i in range(count):
            with nullcontext() if sync and i == count - 1 else self.accelerator.no_sync(self.network):
                loss = next(losses)
                self.accelerator.backward(loss / self.accumulation)
                total += loss.detach() / self.accumulation
        return total

    def _losses(self) -> Iterator[Tensor]:
        """The losses of one micro-batch, each to be backpropagated before the next is asked for."""
        generator, family, space = self.progress.generator, self.preset.policy, self.teacher.space
        size_px = self.data.draw_size(generator)
        latents, condition = self.data.draw(self.micro_batch, generator, size_px=size_px)
        condition = space.conditions(condition)
        shape = space.latent_shape if size_px is None else space.latent_shape_of(*size_px)
        batch = TrainingBatch(
            latents=latents,
            shape=(self.micro_batch, *(shape if latents is None else latents.shape[1:])),
            make_policy=lambda x, sigma: student_policy(self.network, self.preset, x, sigma, condition),
            teacher=lambda x, sigma: self.teacher.velocity(x, sigma, condition, network=self.teacher_network),
            generator=generator,
            device=self.device,
        )
        objective, step = self.preset.objective, self.progress.step
        return objective.losses(batch, sampling=self.preset.sampling, dropout=family.dropout, step=step)

    def _skip(self, loss: float, gradient_norm: float) -> None:
        """Leave the weights alone after a non-finite step; stop where there were too many in a row."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.progress.skipped += 1
        self.progress.bad_in_a_row += 1
        message = f"skipped: loss {loss}, gradient norm {gradient_norm}"
        self._emit("skipped", message=message)
        if self.progress.bad_in_a_row >= self.preset.optimizer.max_bad_steps:
            kept = self.run.newest_step()
            raise TrainingError(
                f"{self.progress.bad_in_a_row} steps in a row had a non-finite loss or gradient (last: loss {loss}, "
                f"gradient norm {gradient_norm}, step {self.progress.step}). The checkpoint of step {kept} is kept. "
                "Lower optimizer.learning_rate, or raise objective.window_substeps or optimizer.warmup_steps."
            )

    def _log(self, loss: float, gradient_norm: float, begun: float, start: int) -> None:
        if not self.accelerator.is_main_process:
            return
        step, wall_s = self.progress.step, time.perf_counter() - begun
        done = step - start
        row = {
            "step": step,
            "loss": loss,
            "gradient_norm": gradient_norm,
            "learning_rate": self.schedulers[0].get_last_lr()[0],
            "images_per_s": done * self.preset.training.batch_size / wall_s,
            "wall_s": wall_s,
            "skipped": self.progress.skipped,
        }
        self.run.append_metrics(row)
        if self.preset.training.trackers:
            self.accelerator.log(row, step=step)
        remaining_s = wall_s / done * (self.preset.training.steps - step)
        self._emit(
            "step",
            loss=loss,
            learning_rate=row["learning_rate"],
            images_per_s=row["images_per_s"],
            remaining_s=remaining_s,
        )

    def _checkpoint(self) -> None:
        """Save everything that training depends on, whole or not at all."""
        self.accelerator.wait_for_everyone()
        step = self.saved_step = self.progress.step
        if self.accelerator.num_processes == 1:
            with self.run.new_checkpoint(step) as folder:
                self.accelerator.save_state(str(folder))
        else:  # every process writes its part, so the folder is renamed once all are done
            partial = self.run / "checkpoints" / f"{PARTIAL}step-{step:07d}"
            self.accelerator.save_state(str(partial))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                partial.rename(self.run.checkpoint(step))
        if self.accelerator.is_main_process:
            self.run.drop_old_checkpoints(keep=self.preset.training.checkpoints_kept)
        self._emit("checkpoint", path=self.run.checkpoint(step))

    def _preview(self) -> None:
        with self.ema.applied():
            self.student.eval()
            if self.accelerator.is_main_process or self.sharded:  # sharded weights are whole only together
                path = self.preview.write(
                    self.network if self.sharded else self.student,
                    step=self.progress.step,
                    teacher_network=self.teacher_network,
                    keep=self.accelerator.is_main_process,
                )
                self._emit("preview", path=path)
        self.accelerator.wait_for_everyone()

    def _write_student(self) -> Path:
        """Write the averaged weights as a native student."""
        target = self.run / "student"
        weights = {name: whole(average).cpu() for name, average in self.ema.averages.items()}
        if self.accelerator.is_main_process:
            card = card_of(self.preset, self.teacher, steps=self.progress.step)
            save_student(StoredStudent(card=card, weights=weights), target, vae=self.teacher.space.own_vae)
        self.accelerator.wait_for_everyone()
        return target

    def _emit(self, kind: str, **facts: object) -> None:
        if self.on_event is not None and self.accelerator.is_main_process:
            self.on_event(DistillEvent(kind=kind, step=self.progress.step, steps=self.preset.training.steps, **facts))
