"""Writing checkpoints beside the training: tensors are copied, then written while the next steps are taken."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from piflow_cli.engine.distill.resume.checkpoints import CARD, CheckpointCard
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.processes.together import Together
from piflow_cli.errors import PiflowError, StorageError
from piflow_cli.io.checksums import write_manifest
from piflow_cli.io.files import commit_folder
from piflow_cli.io.tensors.distributed import expect_one_process

FILE_BYTES = 1 << 30
"""Aim of a file's size: a process holds one file's bytes a second time while it writes."""


class CheckpointWriter:
    """Writes one checkpoint at a time by torch's distributed checkpointing, every process its part.

    A checkpoint gets its name once all parts, their checksums and the card are on the disk, and is then exported.

    Args:
        run: the run's folder, shared by all processes.
        together: the processes.
        keep: newest checkpoints that are kept.
        export: called in the main process, beside the training, with the folder and the card of each new checkpoint.
    """

    def __init__(
        self, run: RunFolder, together: Together, *, keep: int, export: Callable[[Path, CheckpointCard], None]
    ) -> None:
        self.run, self.together, self.keep, self.export = run, together, keep, export
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None
        self.needed_bytes = 0
        self.done: list[int] = []

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint is known to have failed; `wait` raises its error."""
        return self.pending is not None and self.pending.done() and self.pending.exception() is not None

    def begin(self, tensors: dict[str, Tensor], card: CheckpointCard) -> None:
        """Copy the tensors and write them beside what follows; the previous checkpoint is waited for.

        Args:
            tensors: of the run; sharded ones are this process's parts. They may be changed afterwards.
            card: what is not a tensor.

        Raises:
            StorageError: the previous checkpoint could not be written, or the run's folder is gone.
        """
        self.wait()
        partial = self.run.checkpoints.partial(card.step)
        self.together.main_does(lambda: self._make_room(partial))
        self.needed_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        writer = dcp.HuggingFaceStorageWriter(
            str(partial), fqn_to_index_mapping=_files_of(tensors), save_distributed=True
        )
        stager = DefaultStager(StagingOptions(False, False, False, False))  # copies at once, also what is on the CPU
        group = self.together.background  # written beside the steps, which exchange over the other
        expect_one_process()
        written = dcp.async_save(
            tensors, storage_writer=writer, async_stager=stager, process_group=group, no_dist=group is None
        )
        self.pending = self.executor.submit(self._finish, written, stager, partial, card)

    def wait(self) -> None:
        """Wait until the checkpoint in the making has its name.

        Raises:
            StorageError: in all processes, where it could not be written.
        """
        error = None
        if self.pending is not None:
            try:
                self.pending.result()
            except PiflowError as known:
                error = known
            self.pending = None
        self.together.raise_any(error)

    def take_done(self) -> list[int]:
        """Steps whose checkpoints have become whole since this was last asked."""
        return [self.done.pop(0) for _ in range(len(self.done))]  # others may be added meanwhile

    def close(self) -> None:
        """Let a checkpoint in the making come to its end, where the run itself ends for another reason."""
        if self.pending is not None:
            wait([self.pending])
        self.executor.shutdown()

    def _make_room(self, partial: Path) -> None:
        """An empty folder for the parts.

        Raises:
            StorageError: the run's folder is gone, or cannot be written.
        """
        self.run.check_there()
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(exist_ok=True)
            partial.mkdir()
        except OSError as error:
            raise self._failure(partial, error) from None

    def _finish(self, written: Future[object], stager: DefaultStager, partial: Path, card: CheckpointCard) -> None:
        """Wait for every process's part; in the main process name the checkpoint, drop old ones and export it."""
        try:
            try:
                written.result()
            finally:
                stager.close()
            if self.together.is_main:
                files = tuple(sorted(path.name for path in partial.glob("*.safetensors")))
                self._complete(partial, card.model_copy(update={"files": files}))
        except dcp.CheckpointException as error:
            found = [failure for failure, _ in error.failures.values()]
            cause = next((failure for failure in found if isinstance(failure, OSError)), found[0])
            raise self._failure(partial, cause) from None
        except OSError as error:
            raise self._failure(partial, error) from None

    def _complete(self, partial: Path, card: CheckpointCard) -> None:
        (partial / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_manifest(partial)
        self.run.check_there()
        target = self.run.checkpoints.path(card.step)
        commit_folder(partial, target)
        self.run.checkpoints.drop_old(keep=self.keep)
        self.export(target, card)
        self.done.append(card.step)

    def _failure(self, partial: Path, error: BaseException) -> StorageError:
        """Clear up a checkpoint that could not be written, and say why."""
        if self.together.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        try:
            self.run.check_there()
        except StorageError as gone:
            self.run.remove_if_empty()
            return gone
        reason = error.strerror or str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        full = "No space" in str(error) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))
        needed = f" It needs {self.needed_bytes / 1e9:.2f} GB; free some space." if full else ""
        kept = ", ".join(str(step) for step, _ in self.run.checkpoints.found()) or "none"
        return StorageError(
            f"cannot write a checkpoint to {self.run.path}: {reason}.{needed} Whole checkpoints, by step: {kept}. "
            "Run the same command again to go on from the newest."
        )


def _files_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file, from 1, that each tensor is written to."""
    found, number, size = {}, 1, 0
    for name in sorted(tensors):
        num_bytes = tensors[name].numel() * tensors[name].element_size()
        if size and size + num_bytes > FILE_BYTES:
            number, size = number + 1, 0
        found[name] = number
        size += num_bytes
    return found
