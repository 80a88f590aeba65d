"""Policy imitation: what must hold of losses, gradients and walks whatever the policy."""

import gc
import math
import weakref
from itertools import pairwise

import pytest
import torch
from parity import assert_close, assert_within
from reference import (
    random_grid,
    random_mixture,
)
from torch import Tensor, nn

from piflow_cli.core.imitation import (
    ImitationSettings,
    Partition,
    data_free_losses,
    draw_partition,
    imitate_segment,
    imitation_loss,
    visit_states,
)
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.schedule import Segments, Shift
from piflow_cli.policies.gmflow.family import GMFlow


class LinearNetwork(nn.Module):
    """A student of one linear layer: a policy of any family from x_src."""

    def __init__(self, family: GMFlow, channels: int) -> None:
        super().__init__()
        self.family = family
        self.layer = nn.Conv2d(channels, family.output_channels(channels), 1)
        self.logstd = nn.Parameter(torch.tensor(-2.0))

    def make_policy(self, x_src: Tensor, sigma_src: Tensor) -> Policy:
        return self.family.policy(self.layer(x_src), self.logstd.expand(x_src.shape[0]), x_src, sigma_src)


@pytest.fixture
def network() -> LinearNetwork:
    torch.manual_seed(0)
    return LinearNetwork(GMFlow(num_components=3), channels=2)


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def linear_teacher(x: Tensor, sigma: Tensor) -> Tensor:
    return 0.3 * x + sigma[:, None, None, None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("window", [0, 3])
def test_a_partition_shares_the_segment_out(ratio, window):
    segment = torch.tensor([0.25, 0.1])
    draws = torch.rand(2, 4, generator=seeded())
    partition = Partition.of(
        segment, draws, draws[:, 1:], teacher_ratio=ratio, window_substeps=window, total_substeps=128
    )
    room = segment - partition.window
    substep = segment / torch.tensor([32, 13])
    assert_close(partition.window, window * substep)
    gaps = partition.teacher_ends - partition.visits  # the teacher's own steps
    assert (gaps >= -1e-7).all()
    assert_close(gaps.sum(1), ratio * room)
    starts = torch.cat([torch.zeros(2, 1), partition.teacher_ends[:, :-1]], dim=1)
    walked = partition.visits - starts  # the student's
    assert (walked >= -1e-7).all()
    assert_close(walked.sum(1), draws.amax(1) * (1 - ratio) * room)
    assert (partition.teacher_ends <= room[:, None] + 1e-7).all()


def test_a_window_is_no_longer_than_its_segment():
    draws = torch.rand(1, 2, generator=seeded())
    partition = Partition.of(
        torch.tensor([0.02]), draws, draws[:, 1:], teacher_ratio=0.0, window_substeps=9, total_substeps=128
    )
    assert_close(partition.window, torch.tensor([0.02]))
    assert_close(partition.visits, torch.zeros(1, 2))


@pytest.mark.parametrize("window", [0, 3])
def test_stratified_visits_lie_one_in_each_part(window):
    settings = ImitationSettings(shift=Shift(3.2), num_intermediates=4, stratified=True, window_substeps=window)
    segment = torch.full((1000,), 0.25)
    partition = draw_partition(segment, settings=settings, teacher_ratio=0.0, generator=seeded())
    room = 0.25 - window / 128
    parts = partition.visits / (room / 4)  # (1000, 4)
    assert_within(parts.floor(), torch.arange(4.0).expand(1000, 4), 0)
    inside = parts - torch.arange(4.0)
    assert_close(inside.mean(0), torch.full((4,), 0.5), atol=4 / math.sqrt(12 * 1000))  # uniform within


def test_stratified_visits_keep_the_mean_and_lower_the_variance():
    """Of mean_M(t^2), t uniform in [0, 1]: 1/3, variance 4/(45 M), of which strata of 1/4 leave less than an eighth."""
    segment = torch.ones(20_000)

    def mean_squares(stratified: bool) -> Tensor:
        settings = ImitationSettings(shift=Shift(1.0), num_intermediates=4, stratified=stratified)
        visits = draw_partition(segment, settings=settings, teacher_ratio=0.0, generator=seeded()).visits
        return visits.double().square().mean(1)

    uniform, stratified = mean_squares(False), mean_squares(True)
    assert uniform.var() == pytest.approx(4 / (45 * 4), rel=0.05)
    assert stratified.var() < uniform.var() / 8
    assert stratified.mean() == pytest.approx(1 / 3, abs=4 * math.sqrt(stratified.var() / 20_000))


@pytest.mark.parametrize("policy", [random_mixture(), random_grid()], ids=["gmflow", "dx"])
def test_a_policy_that_is_its_own_teacher_has_no_loss(policy):
    settings = ImitationSettings(shift=Shift(3.2), num_intermediates=3)
    tau, segment = torch.ones(3), torch.full((3,), 0.25)
    x_src = torch.randn(3, 3, 4, 5, generator=seeded())
    loss = imitate_segment(policy, policy.velocity, x_src, tau, segment, settings=settings, generator=seeded())
    assert loss.item() == pytest.approx(0, abs=1e-10)


def test_the_loss_is_half_the_mean_square_error():
    policy, teacher = random_mixture(), random_mixture(seed=5)
    settings = ImitationSettings(shift=Shift(3.2), num_intermediates=3, loss_scale=30.0)
    segment, tau = torch.full((3,), 0.25), torch.ones(3)
    draws = torch.rand(3, 3, generator=seeded())
    partition = Partition.of(segment, draws, draws[:, 1:], teacher_ratio=0.0, window_substeps=0, total_substeps=128)
    visits = visit_states(
        policy, teacher.velocity, policy.x_src, tau, partition, shift=settings.shift, total_substeps=128
    )
    loss, _ = imitation_loss(policy, visits, settings=settings)
    errors = [v.u_teacher - policy.velocity(v.x_t, settings.shift.sigma(v.tau)) for v in visits]
    assert_close(loss, 15 * torch.stack(errors).square().mean())


def test_visited_states_lie_on_the_policys_own_trajectory():
    policy, steps = random_mixture(), {"shift": Shift(3.2), "total_substeps": 128}
    tau, segment = torch.ones(3), torch.full((3,), 0.25)
    draws = torch.tensor([[0.5, 0.25], [0.75, 0.25], [0.5, 0.5]])  # multiples of a substep: rollouts compose
    partition = Partition.of(segment, draws, draws[:, 1:], teacher_ratio=0.0, window_substeps=0, total_substeps=128)
    visits = visit_states(policy, linear_teacher, policy.x_src, tau, partition, **steps)
    for visit in visits:
        assert_close(visit.x_t, policy.rollout(policy.x_src, tau, visit.tau, **steps), atol=5e-6)


def test_gradients_reach_the_student_and_not_the_teacher(network, noise):
    teacher = nn.Conv2d(2, 2, 1)
    settings = ImitationSettings(shift=Shift(3.2), window_substeps=3)
    policy = network.make_policy(noise, torch.ones(2))
    loss = imitate_segment(
        policy,
        lambda x, _: teacher(x),
        noise,
        torch.ones(2),
        torch.full((2,), 0.5),
        settings=settings,
        generator=seeded(),
    )
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_dropout_perturbs_the_walk_only(network, noise):
    """The live policy is not perturbed: where no state is walked to, dropout changes nothing."""
    tau, segment = torch.ones(2), torch.full((2,), 0.5)

    def loss(dropout: float, teacher_ratio: float) -> float:
        policy = network.make_policy(noise, torch.ones(2))
        settings = ImitationSettings(shift=Shift(3.2), num_intermediates=2)
        return imitate_segment(
            policy,
            linear_teacher,
            noise,
            tau,
            segment,
            settings=settings,
            teacher_ratio=teacher_ratio,
            dropout=dropout,
            generator=seeded(),
        ).item()

    assert loss(0.5, teacher_ratio=1.0) == loss(0.0, teacher_ratio=1.0)
    assert loss(0.5, teacher_ratio=0.0) != loss(0.0, teacher_ratio=0.0)


def test_a_generator_decides_all_draws(network, noise):
    settings = ImitationSettings(shift=Shift(3.2))

    def losses(seed: int) -> list[float]:
        walk = data_free_losses(
            network.make_policy,
            linear_teacher,
            noise,
            segments=Segments(3, 0.5),
            settings=settings,
            dropout=0.3,
            generator=seeded(seed),
        )
        return [loss.item() for loss in walk]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_a_walk_of_one_segment_is_that_segment(network, noise):
    settings = ImitationSettings(shift=Shift(3.2), window_substeps=3, loss_scale=3.0)
    walk = data_free_losses(
        network.make_policy,
        linear_teacher,
        noise,
        segments=Segments(1),
        settings=settings,
        teacher_ratio=0.4,
        generator=seeded(),
    )
    policy = network.make_policy(noise, torch.ones(2))
    whole = torch.ones(2, dtype=torch.float64)  # times as a walk has them
    alone = imitate_segment(
        policy,
        linear_teacher,
        noise,
        whole,
        whole,
        settings=settings,
        teacher_ratio=0.4,
        generator=seeded(),
    )
    assert [loss.item() for loss in walk] == [alone.item()]


def test_a_walk_follows_the_detached_policies_and_weighs_by_length(network, noise):
    """Without a teacher's part the next source is the rollout of the last policy, and losses are weighted by length."""
    segments, settings = Segments(3, 0.5), ImitationSettings(shift=Shift(3.2), num_intermediates=1)
    sources: list[tuple[Tensor, Tensor]] = []

    def make_policy(x_src: Tensor, sigma_src: Tensor) -> Policy:
        sources.append((x_src, sigma_src))
        return network.make_policy(x_src, sigma_src)

    walk = data_free_losses(
        make_policy,
        lambda x, _: torch.zeros_like(x),
        noise,
        segments=segments,
        settings=settings,
        generator=seeded(),
    )
    losses = [loss.item() for loss in walk]
    assert len(losses) == len(sources) == 3
    assert [sigma[0].item() for _, sigma in sources] == pytest.approx(
        [settings.shift.sigma(tau) for tau in segments.boundaries()[:-1]]
    )
    generator, boundaries = seeded(), segments.boundaries()
    for (x, sigma), loss, (tau_from, tau_to) in zip(sources, losses, pairwise(boundaries), strict=True):
        tau, length = torch.full((2,), tau_from), torch.full((2,), tau_from - tau_to)
        segment_loss = imitate_segment(
            network.make_policy(x, sigma),
            lambda x, _: torch.zeros_like(x),
            x,
            tau,
            length,
            settings=settings,
            generator=generator,
        )
        assert loss == pytest.approx(segment_loss.item() * (tau_from - tau_to), rel=1e-5)
    for (x, sigma), (x_next, _), (tau_from, tau_to) in zip(
        sources[:-1], sources[1:], pairwise(boundaries[:-1]), strict=True
    ):
        start, end = (torch.full((2,), tau) for tau in (tau_from, tau_to))
        rolled = network.make_policy(x, sigma).rollout(x, start, end, shift=settings.shift, total_substeps=1024)
        assert not x_next.requires_grad
        assert (x_next - rolled).abs().max() < 0.02  # not the same substeps


def test_a_walk_holds_one_segment_at_a_time(network, noise):
    """When the student is asked again, nothing of the segment before it is alive: its graph, its output."""
    alive: list[weakref.ref] = []
    still_alive: list[int] = []

    def make_policy(x_src: Tensor, sigma_src: Tensor) -> Policy:
        gc.collect()
        still_alive.append(sum(ref() is not None for ref in alive))
        policy = network.make_policy(x_src, sigma_src)
        alive.extend((weakref.ref(policy), weakref.ref(policy.offsets), weakref.ref(policy.logweights)))
        return policy

    settings = ImitationSettings(shift=Shift(3.2), window_substeps=3)
    walk = data_free_losses(
        make_policy, linear_teacher, noise, segments=Segments(4, 0.5), settings=settings, generator=seeded()
    )
    for loss in walk:
        loss.backward()
    assert still_alive == [0, 0, 0, 0]
