"""What is drawn of a run's student between its steps, by all processes or by the main one while the others wait."""

from __future__ import annotations

from piflow_cli.core.ema import EMA
from piflow_cli.core.interfaces import DataSource, Teacher
from piflow_cli.engine.distill.events import Journal
from piflow_cli.engine.distill.network import TrainedNetwork
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.distill.showing.preview import Preview
from piflow_cli.engine.processes.together import Together
from piflow_cli.preset import Preset


class Looks:
    """Decides when to draw, and draws with the average in the place of the weights.

    Args:
        preset: the recipe.
        teacher: beside which the student is drawn.
        run: where pictures go.
        data: whose prompts or classes are drawn.
        network: what is trained.
        ema: its average.
        journal: is told.
        together: the processes.
    """

    def __init__(
        self,
        preset: Preset,
        teacher: Teacher,
        run: RunFolder,
        data: DataSource,
        *,
        network: TrainedNetwork,
        ema: EMA,
        journal: Journal,
        together: Together,
    ) -> None:
        self.preset, self.run, self.network, self.ema = preset, run, network, ema
        self.journal, self.together = journal, together
        self.every = preset.training.preview_every
        told = {"network": network, "journal": journal}
        self.preview = Preview(preset, teacher, run, data, **told) if self.every else None

    def after(self, step: int) -> None:
        """Draw what is due after a step.

        Raises:
            StorageError: the run's folder is gone.
        """
        if self.preview is None or not (step == self.preset.training.steps or step % self.every == 0):
            return
        self.together.main_does(self.run.check_there)
        self.journal.busy(f"drawing the preview of step {step}")
        with self.journal.pace.pause("preview", every=self.every), self.ema.applied():
            self.network.student.eval()
            if self.together.is_main or self.network.sharded:  # sharded weights are whole only together
                self.preview.write(step=step, keep=self.together.is_main)
            self.together.meet()
