"""The cheap rollouts of a mixture equal stepping its velocity: values, gradients, blocks and memory."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from parity import assert_close
from reference import PlainMixture, random_mixture
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from piflow_cli.core.rollout import euler_rollout
from piflow_cli.core.schedule import Shift
from piflow_cli.policies.gmflow import rollout as gmflow_rollout
from piflow_cli.policies.gmflow.policy import GMFlowPolicy

FORMS = {"direct": {"num_components": 5, "channels": 3}, "gram": {"num_components": 3, "channels": 5}}
SPATIAL = {"4d": (4, 5), "5d": (2, 4, 5)}
SPANS = {
    "even": ((1.0, 1.0, 1.0), (0.75, 0.75, 0.75)),
    "ragged": ((1.0, 0.9, 0.5), (0.0, 0.85, 0.5)),
    "to data": ((1.0, 0.3, 0.02), (0.0, 0.0, 0.0)),
}
STEPS = {"shift": Shift(3.2), "total_substeps": 128}


def away_from_source(policy: GMFlowPolicy, dtype: torch.dtype) -> Tensor:
    """A start that is not the policy's source."""
    shift = torch.randn(policy.x_src.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return policy.x_src + 0.2 * shift.to(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("sigma_src", [1.0, (1.0, 0.97, 0.8)], ids=["noise", "later"])
def test_rollouts_equal_stepping(form, spatial, span, sigma_src):
    start, end = map(torch.tensor, SPANS[span])
    settings = FORMS[form] | {"spatial": SPATIAL[spatial], "sigma_src": sigma_src}
    policy = random_mixture(**settings)
    x = away_from_source(policy, torch.float32)
    assert_close(
        policy.rollout(x, start, end, **STEPS), euler_rollout(policy, x, start, end, **STEPS), rtol=1e-5, atol=1e-5
    )
    exact = random_mixture(**settings, dtype=torch.float64)
    x, start, end = away_from_source(exact, torch.float64), start.double(), end.double()
    stepped = euler_rollout(PlainMixture.like(exact), x, start, end, **STEPS)
    assert_close(exact.rollout(x, start, end, **STEPS), stepped, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_a_substep_touches_only_the_samples_that_still_move(form, monkeypatch):
    """Spans of 3, 0 (one substep that goes nowhere) and 5 substeps: samples are moved 5 + 3 + 1 times, not 3 x 5."""
    name = f"_{form}_loop"
    loop, moved = getattr(gmflow_rollout, name), []

    def count(*inputs: Tensor) -> object:
        moved.append(inputs[-1].shape[0] * inputs[0].shape[0])
        return loop(*inputs)

    monkeypatch.setattr(gmflow_rollout, name, count)
    policy = random_mixture(**FORMS[form])
    start = torch.tensor([0.75, 0.5, 1.0])
    end = start - torch.tensor([3, 0, 5]) / 128
    rolled = policy.rollout(policy.x_src, start, end, **STEPS)
    assert sum(moved) == 9
    assert_close(rolled, euler_rollout(policy, policy.x_src, start, end, **STEPS), rtol=1e-5, atol=1e-5)


def leaves_of(policy: GMFlowPolicy, x: Tensor) -> dict[str, Tensor]:
    tensors = {"offsets": policy.offsets, "logweights": policy.logweights, "variance": policy.variance, "x": x}
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}


def gradients(rollout: Callable[[GMFlowPolicy, Tensor], Tensor], policy: GMFlowPolicy, x: Tensor) -> dict[str, Tensor]:
    """Gradients of a fixed random functional of the rollout's end w.r.t. the mixture and the start."""
    leaves = leaves_of(policy, x)
    live = replace(policy, **{name: leaf for name, leaf in leaves.items() if name != "x"})
    end = rollout(live, leaves["x"])
    weights = torch.randn(end.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(end.dtype)
    (end * weights).sum().backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_those_of_stepping(form, dtype):
    policy = random_mixture(**FORMS[form], sigma_src=(1.0, 0.97, 0.8), dtype=dtype)
    start, end = (torch.tensor(tau, dtype=dtype) for tau in ((1.0, 0.9, 0.5), (0.3, 0.85, 0.5)))
    x = away_from_source(policy, dtype)
    cheap = gradients(lambda live, x: live.rollout(x, start, end, **STEPS), policy, x)
    stepped = gradients(lambda live, x: euler_rollout(live, x, start, end, **STEPS), policy, x)
    for name, gradient in stepped.items():
        assert gradient.abs().max() > 0
        scale = gradient.abs().max().item()
        rtol, atol = (1e-9, 1e-12) if dtype == torch.float64 else (1e-4, 1e-5 * scale)
        assert_close(cheap[name], gradient, rtol=rtol, atol=atol)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_right_by_finite_differences(form):
    policy = random_mixture(**FORMS[form], batch=1, spatial=(1, 2), dtype=torch.float64)
    start, end = torch.ones(1).double(), torch.full((1,), 0.9).double()

    def rollout(offsets: Tensor, logweights: Tensor, variance: Tensor, x: Tensor) -> Tensor:
        live = replace(policy, offsets=offsets, logweights=logweights, variance=variance)
        return live.rollout(x, start, end, shift=Shift(3.2), total_substeps=40)

    leaves = leaves_of(policy, away_from_source(policy, torch.float64))
    assert torch.autograd.gradcheck(rollout, tuple(leaves.values()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block_bytes", [1, 16 * 1024, 64 * 1024])
def test_blocks_of_positions_give_the_same_as_one(form, block_bytes, monkeypatch):
    """Blocks split positions (the smallest has 64) or, where they are few, samples; gradients too."""
    policy = random_mixture(**FORMS[form], batch=5, spatial=(13, 17))
    start, end = torch.linspace(1, 0.6, 5), torch.linspace(0.7, 0.6, 5)
    x = away_from_source(policy, torch.float32)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        grads = gradients(lambda live, x: live.rollout(x, start, end, **STEPS), policy, x)
        return policy.rollout(x, start, end, **STEPS), grads

    monkeypatch.setattr(gmflow_rollout, "BLOCK_BYTES", 1 << 30)
    whole, whole_grads = run()
    monkeypatch.setattr(gmflow_rollout, "BLOCK_BYTES", block_bytes)
    blocks, block_grads = run()
    assert_close(blocks, whole)
    for name, gradient in whole_grads.items():
        assert_close(block_grads[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize(
    ("batch", "positions", "expected"),
    [
        (3, 1000, [(1, 4)] * 3),  # four blocks of 250 positions a sample
        (8, 64, [(4, 1)] * 2),  # four samples a block
        (5, 128, [(2, 1), (2, 1), (1, 1)]),
    ],
)
def test_blocks_cover_everything_once(batch, positions, expected, monkeypatch):
    monkeypatch.setattr(gmflow_rollout, "BLOCK_BYTES", 256 * 4 * 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    blocks = list(gmflow_rollout._blocks(batch, positions, floats=10, device=torch.device("cpu")))
    cover = torch.zeros(batch, positions)
    for samples, slices in blocks:
        for place in slices:
            cover[samples, place] += 1
    assert (cover == 1).all()
    shapes = [(cover[samples].shape[0], len(slices)) for samples, slices in blocks]
    assert shapes == expected


def test_an_accelerator_takes_everything_at_once():
    assert list(gmflow_rollout._blocks(3, 1000, floats=10, device=torch.device("meta"))) == [
        (slice(None), [slice(None)])
    ]


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes that the graph of `run` keeps for its backward pass, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        end = run()
    assert end.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("form", FORMS)
def test_a_rollout_with_gradient_does_not_keep_its_substeps(form):
    """From 8 to 128 substeps what is kept grows by the coefficients, scalars; stepping keeps every state."""
    policy = random_mixture(**FORMS[form], spatial=(64, 64))
    leaves = leaves_of(policy, policy.x_src)
    live = replace(policy, **{name: leaf for name, leaf in leaves.items() if name != "x"})
    start, end = torch.ones(3), torch.full((3,), 0.5)

    def growth(rollout: Callable[..., Tensor]) -> int:
        few, many = (
            saved_bytes(lambda n=n: rollout(leaves["x"], start, end, shift=Shift(3.2), total_substeps=2 * n))
            for n in (8, 128)
        )
        return many - few

    state = policy.x_src.nbytes
    assert growth(live.rollout) < state
    assert growth(lambda *args, **kwargs: euler_rollout(live, *args, **kwargs)) > 100 * state


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("substeps", [(5, 5, 5), (2, 5, 0)], ids=["even", "ragged"])
def test_the_compiled_loop_gives_the_same(form, substeps):
    """Five substeps: one call of UNROLL and one that is padded."""
    policy = random_mixture(**FORMS[form], sigma_src=0.9, spatial=(8, 8))
    start, end = torch.full((3,), 0.8), 0.8 - torch.tensor(substeps) / 128
    x = away_from_source(policy, torch.float32)
    compiled = replace(policy, compiled=True)
    assert_close(compiled.rollout(x, start, end, **STEPS), policy.rollout(x, start, end, **STEPS))


def test_a_compiled_policy_is_not_compiled_with_gradient(monkeypatch):
    def refuse(loop: Callable[..., Tensor]) -> Callable[..., Tensor]:
        raise AssertionError("compiled with gradient")

    monkeypatch.setattr(gmflow_rollout, "_compile", refuse)
    policy = replace(random_mixture(), compiled=True)
    x = policy.x_src.clone().requires_grad_()
    policy.rollout(x, torch.ones(3), torch.full((3,), 0.9), **STEPS).sum().backward()
    assert x.grad is not None


def test_padding_substeps_change_nothing():
    steps = torch.zeros(3, 6, 3, 1, 1)
    y, x_src = torch.randn(3, 4, 10), torch.randn(3, 4, 10)
    e, logweights = torch.randn(3, 5, 4, 10), torch.randn(3, 5, 10)
    logweights[:, 0] = -torch.inf
    norm = e.square().sum(2)
    assert torch.equal(gmflow_rollout._direct_loop(y, x_src, e, logweights, norm, steps), y)
    dot, coef = torch.randn(3, 5, 10), torch.randn(3, 5, 10)
    gram = torch.einsum("bkcl,bjcl->bkjl", e, e)
    assert all(map(torch.equal, gmflow_rollout._gram_loop(dot, coef, dot, gram, logweights, steps), (dot, coef)))


@pytest.mark.parametrize("form", FORMS)
def test_dropped_components_roll_out_finitely(form):
    policy = random_mixture(**FORMS[form]).perturb(0.6, generator=torch.Generator().manual_seed(1))
    start, end = torch.ones(3), torch.zeros(3)
    rolled = policy.rollout(policy.x_src, start, end, **STEPS)
    assert torch.isfinite(rolled).all()
    assert_close(rolled, euler_rollout(policy, policy.x_src, start, end, **STEPS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_rollouts_compose_where_substeps_align(form):
    policy = random_mixture(**FORMS[form])
    start, middle, end = torch.ones(3), torch.tensor([0.75, 0.5, 0.875]), torch.tensor([0.5, 0.25, 0.0])
    halfway = policy.rollout(policy.x_src, start, middle, **STEPS)
    twice = policy.rollout(halfway, middle, end, **STEPS)
    assert_close(twice, policy.rollout(policy.x_src, start, end, **STEPS), rtol=1e-5, atol=1e-5)
