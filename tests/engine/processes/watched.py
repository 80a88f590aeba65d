"""One of two processes under a watch, for test_watch.py: `python watched.py stuck|slow|waits RANK`."""

import sys
import time
from datetime import timedelta

import torch.distributed as dist

from piflow_cli.cli.processes import partner_is_gone
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.processes.watch import Watch
from piflow_cli.engine.processes.world import World

LIMIT_S = 1.0


def main(how: str, rank: int) -> None:
    """Rank 1 is stuck, or slow but getting on, or does not come to an exchange; rank 0 waits for it."""
    if how == "waits":
        dist.init_process_group("gloo", rank=rank, world_size=2)
        together = Together(num_processes=2, index=rank, patience=timedelta(seconds=LIMIT_S))
        if rank == 1:
            time.sleep(30)
        begun = time.monotonic()
        try:
            together.meet()
        except RuntimeError as error:
            in_time = time.monotonic() - begun < 10 * LIMIT_S
            sys.exit(3 if partner_is_gone(error) and in_time else str(error))
    with Watch(World(rank=rank, size=2), limit_s=LIMIT_S) as watch:
        if rank == 1:
            with watch.busy("reading the data", 7):
                for _ in range(6):
                    time.sleep(LIMIT_S / 2 if how == "slow" else 60)
                    watch.touch()
        else:
            time.sleep(5 * LIMIT_S if how == "slow" else 60)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
