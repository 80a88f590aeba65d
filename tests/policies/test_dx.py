"""The DX policy: the published velocities, its exact rollout, and what it refuses."""

from typing import Any

import pytest
import torch
from parity import assert_close, assert_within, load, names, out
from reference import PlainGrid, doubled, fixture_policy, random_grid
from torch import Tensor, nn

from piflow_cli.core.flow import velocity_to_x0
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.core.rollout import euler_rollout
from piflow_cli.core.schedule import Segments, Shift
from piflow_cli.errors import PolicyError
from piflow_cli.policies.dx import DX, DXPolicy

MODES = ["grid", "polynomial"]


def fixture_points(tensors: dict[str, Tensor], settings: dict[str, Any], *, eps: float) -> DXPolicy:
    output = {"denoising_output": tensors["in/denoising_output"]}
    keys = {key: settings[key] for key in ("segment_size", "shift", "mode")}
    return fixture_policy(output, tensors["in/x_t_src"], tensors["in/sigma_t_src"], keys, eps=eps)


@pytest.mark.parametrize("name", names("policy_velocity", "dx_*"))
@pytest.mark.parametrize("eps", ["1e-06", "1e-04"])
def test_velocities_agree_with_the_published_code(name, eps):
    """Both float32 velocities lie within the published code's stated error of ours in float64.

    A sigma in float32 places tau, and so a point of the grid, with the error of its last bit.
    """
    tensors, settings = load(name)
    single, exact = (fixture_points(t, settings, eps=float(eps)) for t in (tensors, doubled(tensors)))
    for query, (x, sigma) in enumerate(zip(tensors["in/x_t"], tensors["in/sigma_t"], strict=True)):
        reference = exact.velocity(x.double(), sigma.double())
        error = tensors[f"out/abs_err_fp32_vs_fp64_eps{eps}"][query].reshape(-1, *[1] * (x.ndim - 1))
        assert_within(out(tensors, f"u_eps{eps}")[query], reference, error)
        assert_within(single.velocity(x, sigma), reference, error)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_points", [1, 2, 10])
@pytest.mark.parametrize("substeps", [1, 2, 3, 16, 77, 128])
def test_the_rollout_equals_stepping(mode, num_points, substeps):
    """Samples of 1 to `substeps` substeps in one batch, from a start that is not the source."""
    policy = random_grid(mode=mode, num_points=num_points, sigma_src=(1.0, 1.0, 0.9))
    x = policy.points[:, 0] + 0.3
    start = torch.tensor([1.0, 0.9, 0.7])
    end = torch.tensor([0.5, 0.9 - 0.5 / substeps, 0.7 - 0.2])
    steps = {"shift": Shift(3.2), "total_substeps": 2 * substeps}
    stepped = euler_rollout(policy, x, start, end, **steps)
    assert_close(policy.rollout(x, start, end, **steps), stepped, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_rollout_equals_plain_stepping_in_float64(mode):
    policy = random_grid(mode=mode, sigma_src=(1.0, 0.9, 0.8), spatial=(2, 4, 5), dtype=torch.float64)
    x, start, end = policy.points[:, 0] + 0.3, torch.tensor([1.0, 0.7, 0.5]), torch.tensor([0.5, 0.2, 0.5])
    start, end = start.double(), end.double()
    steps = {"shift": Shift(3.2), "total_substeps": 128}
    stepped = PlainGrid(policy).rollout(x, start, end, **steps)
    assert_close(policy.rollout(x, start, end, **steps), stepped, rtol=1e-10, atol=1e-11)


def test_gradients_equal_those_of_stepping():
    policy = random_grid(dtype=torch.float64)
    start, end = torch.ones(3).double(), torch.tensor([0.5, 0.7, 0.99]).double()
    gradients = []
    for exact in (True, False):
        points, x = (t.clone().requires_grad_() for t in (policy.points, policy.points[:, 0]))
        live = DXPolicy(points, policy.sigma_src, policy.segment_size, policy.shift)
        roll = live.rollout if exact else lambda *a, live=live, **k: euler_rollout(live, *a, **k)
        roll(x, start, end, shift=Shift(3.2), total_substeps=128).square().sum().backward()
        gradients.append((points.grad, x.grad))
    for cheap, stepped in zip(*gradients, strict=True):
        assert stepped.abs().max() > 0
        assert_close(cheap, stepped, rtol=1e-9, atol=1e-11)


def x_0_at(policy: DXPolicy, tau: float) -> Tensor:
    """x_0 of the policy at raw time tau, whatever the state."""
    sigma = policy.shift.sigma(torch.full((policy.points.shape[0],), tau, dtype=policy.points.dtype))
    x = torch.zeros_like(policy.points[:, 0])
    return velocity_to_x0(x, policy.velocity(x, sigma), sigma)


def test_the_grid_is_interpolated_linearly_and_held_beyond_its_ends():
    policy = random_grid(num_points=5, segment_size=0.5, dtype=torch.float64)
    for index in range(5):
        assert_close(x_0_at(policy, 0.5 + index / 8), policy.points[:, index], rtol=1e-9, atol=1e-9)
    between = 0.25 * policy.points[:, 1] + 0.75 * policy.points[:, 2]
    assert_close(x_0_at(policy, 0.5 + 1.75 / 8), between, rtol=1e-9, atol=1e-9)
    assert_close(x_0_at(policy, 0.3), policy.points[:, 0], rtol=1e-9, atol=1e-9)


def test_a_grid_near_the_end_is_cut_at_zero():
    """The grid spans [max(tau_src - segment_size, 0), tau_src]."""
    shift = Shift(3.2)
    policy = random_grid(num_points=3, segment_size=0.5, sigma_src=shift.sigma(0.2), dtype=torch.float64)
    assert_close(x_0_at(policy, 0.1), policy.points[:, 1], rtol=1e-9, atol=1e-9)
    assert_close(x_0_at(policy, 0.2), policy.points[:, 2], rtol=1e-9, atol=1e-9)


def test_a_polynomial_is_in_the_distance_from_the_source():
    policy = random_grid(num_points=3, mode="polynomial", dtype=torch.float64)
    c0, c1, c2 = policy.points.unbind(1)
    assert_close(x_0_at(policy, 1.0), c0, rtol=1e-9, atol=1e-9)
    assert_close(x_0_at(policy, 0.7), c0 + 0.3 * c1 + 0.09 * c2, rtol=1e-9, atol=1e-9)


def test_the_rollout_keeps_the_points_only():
    """What is kept for the backward pass does not depend on the number of substeps."""
    policy = random_grid()
    points = policy.points.clone().requires_grad_()
    live = DXPolicy(points, policy.sigma_src, policy.segment_size, policy.shift)
    kept = []
    for substeps in (8, 128):
        storages: dict[int, int] = {}

        def pack(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            end = live.rollout(
                points[:, 0], torch.ones(3), torch.full((3,), 0.5), shift=Shift(3.2), total_substeps=2 * substeps
            )
        assert end.requires_grad
        kept.append(sum(storages.values()))
    assert kept[0] == kept[1]


def test_there_is_no_temperature_and_no_noise():
    policy = random_grid()
    assert policy.with_temperature(0.3) is policy
    assert policy.perturb(0.5) is policy


@pytest.mark.parametrize(
    ("segments", "shift", "message"),
    [
        (Segments(2, 0.5), 3.2, r"trained on segments of 0.285714 .* 2 NFE .* needs segments of 0.666667.*= 3.5 or"),
        (Segments(3, 1.0), 3.2, "final step scale 1.0 needs segments of 0.333333"),
        (Segments(4, 0.5), 1.0, "trained with shift 3.2, but shift 1.0 was asked for"),
    ],
)
def test_longer_segments_or_another_shift_are_refused(segments, shift, message):
    with pytest.raises(PolicyError, match=message):
        DX(segment_size=1 / 3.5, shift=3.2).check_sampling(segments=segments, shift=shift)


def test_its_own_segments_and_shorter_ones_are_served():
    DX(segment_size=1 / 3.5, shift=3.2).check_sampling(segments=Segments(4, 0.5), shift=3.2)
    DX(segment_size=1 / 3.5, shift=3.2).check_sampling(segments=Segments(8, 0.5), shift=3.2)
    DX(segment_size=1.0, shift=1.0).check_sampling(segments=Segments(1, 0.5), shift=1.0)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_head_repeats_the_teachers_rows(channels_last):
    projection = nn.Linear(8, 4 * 3)
    layout = PatchLayout(sides=(2, 2), channels_last=channels_last)
    head = DX(num_points=5, segment_size=0.5, shift=3.2).build_head(
        projection, latent_channels=3, embed_dim=6, layout=layout
    )
    head.init_from_teacher(projection, generator=torch.Generator())
    tokens = torch.randn(2, 7, 8)
    points, teacher = head(tokens), projection(tokens)
    if channels_last:
        points, teacher = points.unflatten(-1, (4, 5, 3)), teacher.unflatten(-1, (4, 1, 3))
    else:
        points, teacher = points.unflatten(-1, (5, 12)), teacher.unflatten(-1, (1, 12))
    assert_close(points, teacher.expand_as(points))
    assert head.extra(torch.zeros(2, 6)) is None
