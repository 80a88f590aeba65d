"""What processes draw of a scene is put together in its order, also where some have nothing to draw."""

from types import SimpleNamespace

import pytest
import torch

from piflow_cli.engine.distill.showing.drawing import Drawer


@pytest.mark.parametrize(("count", "processes"), [(5, 2), (4, 3), (1, 2), (2, 4)])
def test_shares_come_together_in_order(count: int, processes: int) -> None:
    pictures = torch.rand(count, 3, 4, 4)
    parts: list[torch.Tensor] = []
    drawers = []
    for index in range(processes):
        drawer = object.__new__(Drawer)
        drawer.network = SimpleNamespace(sharded=False)
        drawer.together = SimpleNamespace(index=index, num_processes=processes, gather=lambda _found: parts)
        share = drawer.share(count)
        parts.append(pictures[share] if share else torch.empty(0))
        drawers.append(drawer)
    for drawer, part in zip(drawers, parts, strict=True):
        assert torch.equal(drawer.joined(part, count), pictures)
