"""How the batch of a preset is shared out over processes and forward passes."""

from piflow_cli.errors import DataError
from piflow_cli.preset import Preset


def micro_batches(preset: Preset, num_processes: int) -> tuple[int, int]:
    """Samples a forward pass and process, and how many such passes make the preset's batch.

    Raises:
        DataError: the batch does not divide so.
    """
    batch = preset.training.batch_size
    if batch % num_processes:
        raise DataError(f"training.batch_size {batch} is not divisible by {num_processes} processes")
    share = batch // num_processes
    micro = preset.training.micro_batch_size or share
    if share % micro:
        raise DataError(
            f"training.batch_size {batch} over {num_processes} processes gives {share} samples each, which is not "
            f"divisible by training.micro_batch_size {micro}"
        )
    return micro, share // micro
