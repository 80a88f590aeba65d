"""What limits a student: the parts on known velocity fields, and the whole on an embedded student."""

import torch

from piflow_cli.core.imitation import ImitationSettings
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.benchmark.limits import find_limits, fit_policy
from piflow_cli.engine.students.load import load_student
from piflow_cli.policies.dx import DX


def test_static_policy_learns_a_field_that_it_can_hold() -> None:
    torch.manual_seed(0)
    family = DX(num_points=4, segment_size=0.75, shift=1.0)
    x = torch.randn(3, 2, 4, 4)
    x_0 = x + 0.3 * torch.randn(3, 2, 4, 4)
    source = torch.ones(3)
    policy = fit_policy(
        lambda output: family.policy(output, None, x, source),
        torch.zeros(3, family.output_channels(2), 4, 4),
        None,
        lambda x, sigma: (x - x_0) / sigma.view(-1, 1, 1, 1),
        x,
        (1.0, 0.25),
        settings=ImitationSettings(shift=Shift(1.0), num_intermediates=1, window_substeps=1, total_substeps=32),
        iterations=500,
    )
    end = policy.rollout(x, torch.ones(3), torch.full((3,), 0.25), shift=Shift(1.0), total_substeps=32)
    assert (end - (x_0 + 0.25 * (x - x_0))).abs().max() < 0.05  # of 0.8 before


def test_network_and_static_policy_beat_one_step() -> None:
    rows = find_limits(load_student("digits-2nfe"), samples=8, iterations=60)
    assert [(row.sigma_src, row.sigma_dst) for row in rows] == [(1.0, 0.5), (0.5, 0.0)]
    for row in rows:
        assert 0 < row.fitted < row.network < row.euler < 1
