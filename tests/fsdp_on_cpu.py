"""The command line with accelerate's FSDP2 on CPU processes: accelerate itself takes that path on GPUs only."""

from typing import Any

import accelerate.state as state

from piflow_cli.cli.app import main

_init = state.AcceleratorState.__init__


def _init_sharded(self: state.AcceleratorState, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _init(self, *args, fsdp_plugin=fsdp_plugin, **options)
    plugin = self._shared_state.setdefault("sharded_by", fsdp_plugin)
    if plugin is not None:
        self.distributed_type, self.fsdp_plugin = state.DistributedType.FSDP, plugin


if __name__ == "__main__":
    state.AcceleratorState.__init__ = _init_sharded
    main()
