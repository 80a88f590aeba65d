"""Compiling the repeated blocks of a network (torch.compile), each in its place, so that names of weights stay."""

from __future__ import annotations

from diffusers import ModelMixin

from piflow_cli.engine.processes.gathered import repeated_blocks


def compile_blocks(module: ModelMixin, *, sharded: bool) -> None:
    """Compile a module's blocks by diffusers' own method where it knows them, else what its lists hold.

    Blocks of one kind share what is compiled: it is paid for once a kind, for teacher and student, with and without
    gradient, and again for a second batch size, after which sizes may differ.

    Args:
        module: the network, already adapted.
        sharded: whether FSDP2 shards the blocks, which then have classes that diffusers does not know by name.
    """
    if module._repeated_blocks and not sharded:
        module.compile_repeated_blocks()
        return
    for block in repeated_blocks(module):
        block.compile()
