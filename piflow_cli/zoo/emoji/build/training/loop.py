# The loop that trains the emoji autoencoder and teacher: resumable, judged and drawn now and then, stopped by a signal.

import io
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from piflow_cli.core.ema import EMA
from piflow_cli.engine.distill.signals import StopRequest
from piflow_cli.errors import StorageError, TrainingError
from piflow_cli.io.files import write_atomic
from piflow_cli.io.pictures import png_bytes
from piflow_cli.zoo.emoji.build.training.optimizer import MatrixOptimizer
from piflow_cli.zoo.emoji.build.training.schedule import Budget, Progress, Recipe

BAD_STEPS = 20
"""Steps in a row without a finite gradient after which training gives up."""


@dataclass(frozen=True)
class Habits:
    """How often, in seconds, to write a line, to judge and draw, and to save."""

    line_s: float = 20.0
    judge_s: float = 600.0
    save_s: float = 300.0


class Task(Protocol):
    """What is trained and judged. Judging draws from no generator of the run: how often it is done changes nothing."""

    network: nn.Module

    def loss(self, generator: torch.Generator) -> Tensor:
        """Scalar loss of a batch that `generator` draws."""

    def judge(self) -> dict[str, float]:
        """Figures of the network as it is, on what it does not train on."""

    def draw(self) -> Image.Image:
        """A picture that shows how good the network is."""


class Run:
    """A training in a folder: `checkpoint.pt`, `stable.pt` from before the decay, `metrics.jsonl`, `previews/`.

    Args:
        task: what is trained.
        recipe: how; a folder belongs to one recipe.
        folder: of this training alone.
        excluded: see MatrixOptimizer.
        origin: what else the training belongs to, such as the hash of an autoencoder.
    """

    def __init__(
        self, task: Task, recipe: Recipe, folder: Path, *, excluded: tuple[str, ...] = (), origin: str = ""
    ) -> None:
        self.task, self.recipe, self.folder, self.origin = task, recipe, folder, origin
        self.optimizer = MatrixOptimizer(task.network.named_parameters(), recipe, excluded=excluded)
        self.ema = EMA(task.network.named_parameters(), gamma=recipe.ema_gamma, warmup_steps=recipe.warmup_steps)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.progress = Progress()

    @property
    def checkpoint(self) -> Path:
        """The state to go on from."""
        return self.folder / "checkpoint.pt"

    @property
    def stable(self) -> Path:
        """The state from which a longer training goes on."""
        return self.folder / "stable.pt"

    def save(self, path: Path) -> None:
        """Write everything that a resumed training needs."""
        state = {
            "recipe": asdict(self.recipe),
            "origin": self.origin,
            "progress": asdict(self.progress),
            "network": self.task.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(path, buffer.getvalue())

    def resume(self, budget: Budget) -> None:
        """Go on from what the folder holds, if anything; where the budget has grown, from before the decay."""
        if not self.checkpoint.exists():
            return
        self.load(self.checkpoint)
        if self.progress.decaying and self.stable.exists() and not budget.finish:
            state = torch.load(self.stable, weights_only=True, map_location="cpu")
            if not Progress(**state["progress"]).begin_decay(budget, self.recipe.decay_share).decaying:
                self.load(self.stable)

    def load(self, path: Path) -> None:
        """Take over the state in a file that `save` wrote.

        Raises:
            StorageError: it is of another recipe, or belongs to something else.
        """
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["origin"] != self.origin:
            raise StorageError(
                f"{path} belongs to {state['origin']}, not to {self.origin}. Remove its folder to train anew."
            )
        if state["recipe"] != asdict(self.recipe):
            raise StorageError(
                f"{path} was trained by another recipe: {state['recipe']}, not {asdict(self.recipe)}. "
                "Remove its folder to train anew, or choose another with --work."
            )
        self.task.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.progress = Progress(**state["progress"])

    def step(self) -> float | None:
        """One optimiser step; gives the loss, or nothing where the gradient was not finite and nothing was moved."""
        loss = self.task.loss(self.generator)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.task.network.parameters(), self.recipe.clip_norm)
        finite = bool(norm.isfinite())
        if finite:
            self.optimizer.step(self.progress.rate_factor(self.recipe.warmup_steps))
        else:
            self.task.network.zero_grad(set_to_none=True)
        self.progress = replace(self.progress, step=self.progress.step + 1)
        self.ema.update(self.progress.step)
        return loss.item() if finite else None

    def train(self, budget: Budget, habits: Habits) -> bool:
        """Train until the budget is spent or a signal comes, saving now and then; whether it is done.

        Raises:
            TrainingError: the gradient is not finite many times in a row.
        """
        last = {"line": time.monotonic(), "judge": time.monotonic(), "save": time.monotonic()}
        losses: list[float] = []
        since, bad = self.progress.step, 0
        with StopRequest() as stop:
            while not self.progress.done and not stop.requested:
                started = time.monotonic()
                begun = self.progress.begin_decay(budget, self.recipe.decay_share)
                if begun.decaying and not self.progress.decaying:
                    self.save(self.stable)
                self.progress = begun
                loss = self.step()
                bad = bad + 1 if loss is None else 0
                if bad >= BAD_STEPS:
                    raise TrainingError(
                        f"no finite gradient in {bad} steps in a row; the last save is {self.checkpoint}"
                    )
                losses += [] if loss is None else [loss]
                now = time.monotonic()
                self.progress = replace(self.progress, spent_s=self.progress.spent_s + now - started)
                if now - last["line"] >= habits.line_s:
                    rate = (self.progress.step - since) * self.recipe.batch_size / (now - last["line"])
                    self.report(budget, loss=math.fsum(losses) / max(len(losses), 1), pictures_per_s=rate)
                    last["line"], losses, since = now, [], self.progress.step
                if now - last["judge"] >= habits.judge_s:
                    self.judge(budget)
                    last["line"] = last["judge"] = time.monotonic()
                    since = self.progress.step
                if now - last["save"] >= habits.save_s:
                    self.save(self.checkpoint)
                    last["save"] = time.monotonic()
        self.save(self.checkpoint)
        return self.progress.done

    def judge(self, budget: Budget) -> dict[str, float]:
        """Figures and a picture of the average, reported and written."""
        training = self.task.network.training
        self.task.network.eval()
        with self.ema.applied(), torch.no_grad():
            figures = self.task.judge()
            picture = self.task.draw()
        self.task.network.train(training)
        write_atomic(self.folder / "previews" / f"{self.progress.step:08d}.png", png_bytes(picture))
        self.report(budget, **figures)
        return figures

    def report(self, budget: Budget, **figures: float) -> None:
        """A line on stderr and one in metrics.jsonl."""
        p = self.progress
        seen = p.step * self.recipe.batch_size
        row = {"step": p.step, "pictures": seen, "spent_s": round(p.spent_s, 1)}
        row |= {"rate_factor": round(p.rate_factor(self.recipe.warmup_steps), 4)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | {name: round(value, 5) for name, value in figures.items()}) + "\n")
        left = round(max(0.0, p.left_s(budget)))
        said = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        line = f"step {p.step}  {seen} pictures  {said}  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        print(line, file=sys.stderr, flush=True)
