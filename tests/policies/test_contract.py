"""What every registered policy must do; a newcomer is tested by its line in the registry, without a change here."""

import math

import pytest
import torch
from parity import assert_close
from pydantic import BaseModel, ValidationError
from sensible import sensible
from torch import Tensor, nn

from piflow_cli import registry
from piflow_cli.core.imitation import ImitationSettings, imitate_segment
from piflow_cli.core.interfaces import PatchLayout, Policy, PolicyFamily, PolicyHead
from piflow_cli.core.rollout import euler_rollout
from piflow_cli.core.schedule import Shift

BATCH, CHANNELS, TOKENS, POSITIONS, WIDTH, EMBED = 3, 2, 6, 4, 8, 5
LAYOUTS = [PatchLayout(sides=(2, 2), channels_last=last) for last in (True, False)]
FRAMES = (2, 3, 4)
"""T, H, W of a video's latents."""
START, END = 1.0, 0.5
"""Raw times of the segment on which policies are tried."""


def without_noise(settings: BaseModel) -> BaseModel:
    """The settings without the noise that tells initial parts of a head apart."""
    noise = {name: 0.0 for name in type(settings).model_fields if name.endswith("noise")}
    return settings.model_copy(update=noise)


@pytest.fixture(params=registry.names("policy"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def family(name: str) -> PolicyFamily:
    return sensible(registry.resolve("policy", name))


@pytest.fixture
def shift(family: PolicyFamily) -> Shift:
    """The shift a family was made for, where it has one."""
    return Shift(getattr(family, "shift", 3.2))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unpatchify(tokens: Tensor, layout: PatchLayout) -> Tensor:
    """Tokens (B, N, channels x P) in a layout to (B, channels, N, P)."""
    if layout.channels_last:
        return tokens.unflatten(-1, (layout.positions, -1)).movedim(-1, 1)
    return tokens.unflatten(-1, (-1, layout.positions)).movedim(-2, 1)


def build(family: PolicyFamily, layout: PatchLayout, projection: nn.Linear) -> PolicyHead:
    head = family.build_head(projection, latent_channels=CHANNELS, embed_dim=EMBED, layout=layout)
    head.init_from_teacher(projection, generator=torch.Generator().manual_seed(2))
    return head


def apply(family: PolicyFamily, head: PolicyHead, layout: PatchLayout, tokens: Tensor, sigma: Tensor) -> Policy:
    """The policy of a head on some tokens at a random source."""
    dtype = next(head.parameters()).dtype
    output = unpatchify(head(tokens.to(dtype)), layout)
    x_src = randn(BATCH, CHANNELS, TOKENS, POSITIONS, seed=3)
    return family.policy(output, head.extra(randn(BATCH, EMBED, seed=4).to(dtype)), x_src, sigma)


def random_policy(family: PolicyFamily, *, grad: bool = False) -> Policy:
    """A policy of a random network output, at sigma 1."""
    output = 0.5 * randn(BATCH, family.output_channels(CHANNELS), 4, 5)
    head = build(family, LAYOUTS[0], teacher_projection())
    extra = head.extra(randn(BATCH, EMBED, seed=4))
    with torch.set_grad_enabled(grad):
        output = output.requires_grad_(grad)
        extra = None if extra is None else extra.detach()
        return family.policy(output * 1.0, extra, randn(BATCH, CHANNELS, 4, 5, seed=3), torch.ones(BATCH))


def teacher_projection(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(WIDTH, CHANNELS * POSITIONS, bias=bias).to(dtype)


def times(*taus: float) -> list[Tensor]:
    return [torch.full((BATCH,), tau) for tau in taus]


def test_settings_survive_json(family, name):
    assert family.type == name
    assert type(family).model_validate_json(family.model_dump_json()) == family


def test_settings_are_frozen_and_refuse_unknown_keys(family):
    with pytest.raises(ValidationError, match="frozen"):
        family.type = "other"
    with pytest.raises(ValidationError, match="no_such_setting"):
        type(family).model_validate(family.model_dump() | {"no_such_setting": 1})


def test_a_policy_is_a_frozen_value(family):
    policy = random_policy(family)
    assert isinstance(policy, Policy)
    assert isinstance(policy.exact_rollout, bool)
    assert isinstance(policy.depends_on_x, bool)
    for field in vars(policy):
        with pytest.raises(AttributeError):
            setattr(policy, field, None)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels last", "channels first"])
def test_the_initial_velocity_at_the_source_is_the_teachers(family, layout, bias):
    projection, tokens = teacher_projection(bias=bias), randn(BATCH, TOKENS, WIDTH)
    quiet = without_noise(family)
    sigma = torch.tensor([1.0, 0.9, 0.8])
    policy = apply(quiet, build(quiet, layout, projection), layout, tokens, sigma)
    x_src = randn(BATCH, CHANNELS, TOKENS, POSITIONS, seed=3)
    teacher = unpatchify(projection(tokens), layout)
    assert_close(policy.velocity(x_src, sigma), teacher, rtol=1e-5, atol=1e-5)


def test_frames_are_positions_like_any_others(family, shift):
    """A policy knows of its positions neither how many dimensions they have nor which of them are beside each other."""
    output = 0.5 * randn(BATCH, family.output_channels(CHANNELS), *FRAMES)
    extra = build(family, LAYOUTS[0], teacher_projection()).extra(randn(BATCH, EMBED, seed=4))
    extra = None if extra is None else extra.detach()
    x = randn(BATCH, CHANNELS, *FRAMES, seed=3)
    video = family.policy(output, extra, x, torch.ones(BATCH))
    flat = family.policy(output.flatten(2, 3), extra, x.flatten(2, 3), torch.ones(BATCH))
    sigma = torch.tensor([0.9, 0.7, 0.6])
    assert_close(video.velocity(x, sigma).flatten(2, 3), flat.velocity(x.flatten(2, 3), sigma), rtol=1e-6, atol=1e-6)
    options = {"shift": shift, "total_substeps": 16}
    ends = [policy.rollout(at, *times(START, END), **options) for policy, at in ((video, x), (flat, x.flatten(2, 3)))]
    assert ends[0].shape == x.shape
    assert_close(ends[0].flatten(2, 3), ends[1], rtol=1e-5, atol=1e-5)
    assert_close(ends[0], euler_rollout(video, x, *times(START, END), **options), rtol=1e-4, atol=1e-4)


def test_a_first_output_has_the_teachers_velocity_at_the_source(family):
    x_src, u = (randn(BATCH, CHANNELS, 4, 5, seed=seed) for seed in (3, 6))
    sigma = torch.tensor([1.0, 0.9, 0.8])
    output, extra = family.first_output(u, spread=0.0, generator=torch.Generator())
    assert output.shape == (BATCH, family.output_channels(CHANNELS), 4, 5)
    assert_close(family.policy(output, extra, x_src, sigma).velocity(x_src, sigma), u, rtol=1e-5, atol=1e-5)
    apart, _ = family.first_output(u, spread=0.1, generator=torch.Generator().manual_seed(1))
    assert 0 < float((apart - output).std()) < 0.2
    key, sizes = family.sizes
    assert [getattr(type(family).model_validate(family.model_dump() | {key: size}), key) for size in sizes] == [*sizes]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels last", "channels first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_is_as_wide_as_it_says_and_its_policy_in_float32(family, layout, dtype):
    head = build(family, layout, teacher_projection(dtype))
    assert {parameter.dtype for parameter in head.parameters()} == {dtype}
    tokens = randn(BATCH, TOKENS, WIDTH)
    assert head(tokens.to(dtype)).shape == (BATCH, TOKENS, family.output_channels(CHANNELS) * POSITIONS)
    sigma = torch.ones(BATCH)
    policy = apply(family, head, layout, tokens, sigma)
    u = policy.velocity(randn(BATCH, CHANNELS, TOKENS, POSITIONS, seed=5), sigma / 2)
    assert u.shape == (BATCH, CHANNELS, TOKENS, POSITIONS)
    assert u.dtype == torch.float32


def test_gradients_reach_the_head(family):
    layout = LAYOUTS[0]
    head = build(family, layout, teacher_projection())
    policy = apply(family, head, layout, randn(BATCH, TOKENS, WIDTH), torch.ones(BATCH))
    x = randn(BATCH, CHANNELS, TOKENS, POSITIONS, seed=5)
    policy.velocity(x, torch.full((BATCH,), 0.6)).square().mean().backward()
    reached = [parameter for parameter in head.parameters() if parameter.grad is not None]
    assert reached
    assert sum(parameter.grad.abs().sum() for parameter in reached) > 0


def test_detaching_cuts_the_graph_and_changes_nothing(family, shift):
    policy = random_policy(family, grad=True)
    x, sigma = randn(BATCH, CHANNELS, 4, 5, seed=5), torch.full((BATCH,), 0.6)
    detached = policy.detach()
    start, end = times(START, END)
    steps = {"shift": shift, "total_substeps": 16}
    assert policy.velocity(x, sigma).requires_grad
    assert not detached.velocity(x, sigma).requires_grad
    assert not detached.rollout(x, start, end, **steps).requires_grad
    assert_close(detached.velocity(x, sigma), policy.velocity(x, sigma).detach())


def test_rollouts_compose(family, shift):
    policy = random_policy(family)
    x = randn(BATCH, CHANNELS, 4, 5, seed=3)
    start, middle, end = times(START, (START + END) / 2, END)
    steps = {"shift": shift, "total_substeps": 64}
    halfway = policy.rollout(x, start, middle, **steps)
    assert_close(
        policy.rollout(halfway, middle, end, **steps), policy.rollout(x, start, end, **steps), rtol=1e-5, atol=1e-5
    )


def test_rollouts_follow_the_velocity(family, shift):
    """Euler's error falls with the substeps, so a rollout equals fine steps, whether it steps or integrates."""
    policy = random_policy(family)
    x = randn(BATCH, CHANNELS, 4, 5, seed=3)
    start, end = times(START, END)
    end = end + torch.tensor([0.0, 0.1, 0.5])  # to 0.5, 0.6, and nowhere
    fine = {"shift": shift, "total_substeps": 2048}
    rolled = policy.rollout(x, start, end, **fine)
    assert_close(rolled, euler_rollout(policy, x, start, end, **fine), rtol=2e-3, atol=2e-3)
    assert_close(rolled[2], x[2])


def test_a_rollout_has_the_gradients_of_its_steps(family, shift):
    start, end = times(START, END)
    gradients = []
    for exact in (True, False):
        policy = random_policy(family, grad=True)
        x = randn(BATCH, CHANNELS, 4, 5, seed=3).requires_grad_()
        steps = {"shift": shift, "total_substeps": 512}
        rolled = policy.rollout(x, start, end, **steps) if exact else euler_rollout(policy, x, start, end, **steps)
        (gradient,) = torch.autograd.grad((rolled * randn(*x.shape, seed=8)).sum(), x)
        gradients.append(gradient)
    assert_close(*gradients, rtol=1e-2, atol=1e-2 * gradients[1].abs().max().item())


def test_autocast_does_not_reach_the_policy(family, shift):
    """Policies are integrated in float32, whatever the network runs in."""
    policy = random_policy(family)
    x, (start, end) = randn(BATCH, CHANNELS, 4, 5, seed=3), times(START, END)
    steps = {"shift": shift, "total_substeps": 16}
    u, rolled = policy.velocity(x, start), policy.rollout(x, start, end, **steps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(policy.velocity(x, start), u)
        assert torch.equal(policy.rollout(x, start, end, **steps), rolled)


def test_it_is_its_own_perfect_student(family, shift):
    policy = random_policy(family)
    x, (tau, segment) = randn(BATCH, CHANNELS, 4, 5, seed=3), times(START, START - END)
    settings = ImitationSettings(shift=shift, num_intermediates=2)
    generator = torch.Generator().manual_seed(0)
    loss = imitate_segment(policy, policy.velocity, x, tau, segment, settings=settings, generator=generator)
    assert loss.item() == pytest.approx(0, abs=1e-10)


def test_noise_is_reproducible_and_none_at_strength_zero(family):
    policy = random_policy(family)
    x, sigma = randn(BATCH, CHANNELS, 4, 5, seed=5), torch.full((BATCH,), 0.6)
    u = policy.velocity(x, sigma)
    assert torch.equal(policy.perturb(0.0, generator=torch.Generator()).velocity(x, sigma), u)
    first, again = (policy.perturb(0.5, generator=torch.Generator().manual_seed(1)).velocity(x, sigma) for _ in "ab")
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_any_temperature_gives_a_finite_policy(family, shift, temperature):
    policy = random_policy(family)
    x, sigma = randn(BATCH, CHANNELS, 4, 5, seed=5), torch.full((BATCH,), 0.6)
    sharpened = policy.with_temperature(temperature)
    assert isinstance(sharpened, type(policy))
    start, end = times(START, END)
    rolled = sharpened.rollout(x, start, end, shift=shift, total_substeps=16)
    assert math.isfinite(rolled.abs().max().item())
    if temperature == 1.0:
        assert torch.equal(sharpened.velocity(x, sigma), policy.velocity(x, sigma))
