"""In float64: gradients of two processes are those of one, and checkpoints are at home on any number of them."""

from pathlib import Path

import pytest
import torch
from tiny_runs import FAMILIES, arguments, largest_difference, run_in_float64, stored

MOMENTS, WEIGHTS = "optimizer.0.exp_avg.", "weights."
SPREAD = [(2, "ddp"), (2, "fsdp2")]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_have_the_gradients_of_one_to_ten_digits(tmp_path: Path, family: str) -> None:
    """AdamW's first moments after one step are its gradients but for a factor; the batch of one is twice that of two.

    With accumulation: two passes on each of two processes are four on one.
    """

    def gradients(name: str, **how: object) -> dict[str, torch.Tensor]:
        run = tmp_path / name
        run_in_float64([*arguments(tmp_path, family, out=run), "--stop-after", "1"], **how)
        return stored(run, 1, MOMENTS)

    alone = gradients("alone")
    assert all(moment.dtype == torch.float64 for moment in alone.values())
    assert max(float(moment.abs().max()) for moment in alone.values()) > 0
    for processes, strategy in SPREAD:
        found = gradients(strategy, processes=processes, strategy=strategy)
        assert largest_difference(found, alone) < 1e-10, strategy


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dit", "flux"])
def test_checkpoints_go_from_two_processes_to_one_and_back(tmp_path: Path, family: str) -> None:
    """Sharded, whole, copied, sharded again: after each part the run is where one process without a stop is.

    The DiT is trained in full, and its blocks share an embedding that FSDP2 shards by itself; FLUX has an adapter.
    """
    run, straight = tmp_path / "run", tmp_path / "straight"
    run_in_float64([*arguments(tmp_path, family, out=straight), "--stop-after", "4"])
    parts = [(2, "fsdp2"), (1, "ddp"), (2, "ddp"), (2, "fsdp2")]
    for step, (processes, strategy) in enumerate(parts, 1):
        words = [*arguments(tmp_path, family, out=run), "--stop-after", str(step)]
        run_in_float64(words, processes=processes, strategy=strategy)
    for prefix in (WEIGHTS, "average.", "optimizer."):
        assert largest_difference(stored(run, 4, prefix), stored(straight, 4, prefix)) < 1e-10, prefix
