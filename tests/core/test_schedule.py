"""Time: shift, segments and the FlowMap SDE grid, against their definitions and the published numbers."""

import math
from functools import partial

import pytest
import torch
from parity import assert_close, load, out

from piflow_cli.core.schedule import Segments, Shift, dynamic_shift, flow_map_steps

NFES, SCALES, SHIFTS, HS = (1, 2, 4, 8), (0.5, 1.0), (1.0, 3.2), ("0.0", "0.5", "1.0", "inf")


@pytest.mark.parametrize("m", [0.3, 1.0, 3.2, 100.0])
def test_shift_and_back_is_the_identity(m):
    shift, tau = Shift(m), torch.linspace(0, 1, 1001, dtype=torch.float64)
    sigma = shift.sigma(tau)
    assert_close(shift.tau(sigma), tau, rtol=1e-12, atol=1e-15)
    assert (sigma.diff() > 0).all()
    assert (shift.sigma(0.0), shift.sigma(1.0), shift.tau(1.0)) == pytest.approx((0, 1, 1), abs=1e-15)


@pytest.mark.parametrize("m", [0.0, -1.0, math.nan])
def test_shift_must_be_positive(m):
    with pytest.raises(ValueError, match="must be > 0"):
        Shift(m)


def test_dynamic_shift_passes_through_its_anchors():
    assert dynamic_shift(256).m == pytest.approx(math.exp(0.5))
    assert dynamic_shift(4096).m == pytest.approx(math.exp(1.15))
    line = dynamic_shift(100, base_seq_len=50, max_seq_len=150, base_logshift=0.0, max_logshift=2.0)
    assert line.m == pytest.approx(math.e)


def test_segments_of_the_four_step_recipe():
    """METHOD, section 2: n = 4, s = 0.5, m = 3.2."""
    segments, shift = Segments(4, 0.5), Shift(3.2)
    assert segments.base == pytest.approx(1 / 3.5, rel=1e-12)
    assert segments.boundaries() == pytest.approx((1, 5 / 7, 3 / 7, 1 / 7, 0), abs=1e-12)
    sigmas = [shift.sigma(tau) for tau in segments.boundaries()]
    assert sigmas == pytest.approx([1, 8 / 9, 12 / 17, 8 / 23, 0], abs=1e-12)


@pytest.mark.parametrize("nfe", NFES)
@pytest.mark.parametrize("scale", SCALES)
def test_segments_fill_the_unit_interval(nfe, scale):
    segments = Segments(nfe, scale)
    lengths = -torch.tensor(segments.boundaries(), dtype=torch.float64).diff()
    assert lengths.sum().item() == pytest.approx(1)
    assert segments.longest == pytest.approx(lengths.max().item())
    if nfe > 1:
        assert (lengths[-1] / lengths[0]).item() == pytest.approx(scale)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Segments, 0), "nfe is 0"),
        (partial(Segments, 4, 0.0), "final_step_scale is 0"),
        (partial(Segments, 4, 1.5), r"final_step_scale is 1.5; it must be in \(0, 1\]"),
    ],
)
def test_impossible_segments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("nfe", [1, 2, 4])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("m", SHIFTS)
def test_locate_agrees_with_the_published_code(nfe, scale, m):
    tensors, _ = load("sample_t")
    tau_src, length = Segments(nfe, scale).locate(tensors["in/raw_t"])
    key = f"nfe{nfe}_fs{scale}_shift{m}"
    assert_close(tau_src, out(tensors, f"{key}/raw_t_src"))
    assert_close(length, out(tensors, f"{key}/segment_size"))
    assert_close(Shift(m).sigma(tau_src), out(tensors, f"{key}/sigma_t_src"))
    assert_close(Shift(m).sigma(tau_src), out(tensors, f"{key}/t_src"))


@pytest.mark.parametrize("scale", SCALES)
def test_segments_are_drawn_in_proportion_to_their_length(scale):
    segments = Segments(3, scale)
    tau = 1 - torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    tau_src, length = segments.locate(tau)
    assert (tau <= tau_src + 1e-6).all()
    assert (tau >= tau_src - length - 1e-6).all()
    for start, end in zip(segments.boundaries()[:-1], segments.boundaries()[1:], strict=True):
        share = ((tau_src - start).abs() < 1e-6).float().mean().item()
        assert share == pytest.approx(start - end, abs=0.006)


@pytest.mark.parametrize("nfe", NFES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("m", SHIFTS)
@pytest.mark.parametrize("h", HS)
def test_flow_map_grid_agrees_with_the_published_code(nfe, scale, m, h):
    tensors, settings = load("flow_map_sde")
    steps = flow_map_steps(Segments(nfe, scale), Shift(m), h=float(h))
    key, num_timesteps = f"nfe{nfe}_fs{scale}_shift{m}_h{h}", settings["num_train_timesteps"]
    sigmas = [step.sigma_src for step in steps] + [steps[-1].sigma_to]
    assert_close(torch.tensor(sigmas), out(tensors, f"{key}/sigmas"))
    assert_close(torch.tensor([s.sigma_src * num_timesteps for s in steps]), out(tensors, f"{key}/timesteps"))
    assert_close(torch.tensor([s.sigma_dst * num_timesteps for s in steps]), out(tensors, f"{key}/timesteps_dst"))
    assert_close(torch.tensor([step.m for step in steps]), out(tensors, f"{key}/m_vals"))
    if f"out/{key}/step" in tensors:
        ends = torch.stack([step.renoise(tensors["in/x_t_dst"], tensors["in/noise"]) for step in steps])
        assert_close(ends, out(tensors, f"{key}/step"))


@pytest.mark.parametrize("seq_len", [16, 1024, 4096])
def test_flow_map_grid_with_the_resolution_dependent_shift(seq_len):
    tensors, settings = load("flow_map_sde")
    steps = flow_map_steps(Segments(4, 0.5), dynamic_shift(seq_len))
    key, num_timesteps = f"dyn_seq{seq_len}_nfe4_fs0.5", settings["num_train_timesteps"]
    assert_close(torch.tensor([s.sigma_src * num_timesteps for s in steps]), out(tensors, f"{key}/timesteps"))
    assert_close(torch.tensor([s.sigma_dst * num_timesteps for s in steps]), out(tensors, f"{key}/timesteps_dst"))


@pytest.mark.parametrize("h", [0.5, 1.0, math.inf])
def test_renoising_keeps_the_marginal(h):
    """The state at sigma_dst, scaled and re-noised, has the data and the noise of a state at sigma_to."""
    for step in flow_map_steps(Segments(4, 0.5), Shift(3.2), h=h):
        scale = step.renoise(torch.ones(()), torch.zeros(())).item()
        fresh = step.renoise(torch.zeros(()), torch.ones(())).item()
        assert scale * (1 - step.sigma_dst) == pytest.approx(1 - step.sigma_to, abs=1e-7)
        assert math.hypot(scale * step.sigma_dst, fresh) == pytest.approx(step.sigma_to, abs=1e-7)


def test_the_ode_needs_no_noise_and_the_sde_does():
    x = torch.randn(1, 2, 3, 3)
    ode, sde = (flow_map_steps(Segments(2), Shift(1.0), h=h)[1] for h in (0.0, 1.0))
    assert ode.renoise(x, None) is x
    with pytest.raises(ValueError, match="needs noise"):
        sde.renoise(x, None)


def test_negative_stochasticity_is_refused():
    with pytest.raises(ValueError, match="h is -1"):
        flow_map_steps(Segments(2), Shift(1.0), h=-1)
