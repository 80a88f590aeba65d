"""Going on with more or fewer processes: what of the batch stays, and what to say of the rest."""

from __future__ import annotations

from piflow_cli.engine.distill.resume.checkpoints import CheckpointCard
from piflow_cli.engine.plan.batches import micro_batches
from piflow_cli.preset import Preset


def resumed_micro_batches(preset: Preset, num_processes: int, card: CheckpointCard | None) -> tuple[int, int]:
    """Samples a forward pass and process, and passes a step: as before a resumption wherever they divide so.

    The draws of a micro-batch depend on its place in the batch, so that equal micro-batches keep the order of the data.

    Raises:
        DataError: the batch does not divide over the processes.
    """
    micro, count = micro_batches(preset, num_processes)
    if card is None or preset.training.micro_batch_size is not None or card.num_processes == num_processes:
        return micro, count
    share = micro * count
    return (micro, count) if share % card.micro_batch_size else (card.micro_batch_size, share // card.micro_batch_size)


def processes_note(card: CheckpointCard, *, num_processes: int, sharded: bool, micro_batch_size: int) -> str:
    """What is other than when the checkpoint was written, in words; empty where nothing is."""
    then, now = _words(card.num_processes, card.sharded), _words(num_processes, sharded)
    if (then, card.micro_batch_size) == (now, micro_batch_size):
        return ""
    draws = "its order and draws too"
    if card.micro_batch_size != micro_batch_size:
        draws = (
            f"its micro-batches are of {micro_batch_size} and no longer {card.micro_batch_size}, "
            "so that other data are drawn from here on"
        )
    return f"step {card.step} was trained on {then}, now it is {now}: the batch stays, {draws}"


def _words(num_processes: int, sharded: bool) -> str:
    return f"{num_processes} process{'es' * (num_processes != 1)}" + (", sharded" if sharded else "")
