"""The mixture policy: its velocity, temperature, dropout and head, against the published numbers and closed forms."""

import math

import pytest
import torch
from parity import assert_close, assert_within, load, names, out
from reference import PlainMixture, doubled, fixture_policy, random_mixture
from torch import Tensor, nn

from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.core.schedule import Segments
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.policies.gmflow.policy import GMFlowPolicy, mixture_policy

EPS = ["1e-06", "1e-04"]


def fixture_mixture(tensors: dict[str, Tensor], *, eps: float | None = None) -> GMFlowPolicy:
    output = {key: tensors[f"in/{key}"] for key in ("means", "logweights", "logstds")}
    return fixture_policy(output, tensors["in/x_t_src"], tensors["in/sigma_t_src"], eps=eps)


@pytest.mark.parametrize("name", names("policy_velocity", "gm_*"))
@pytest.mark.parametrize("eps", EPS)
def test_velocities_agree_with_the_published_code(name, eps):
    """Ours in float32 lies as near to the published float64 evaluation as the published float32 one does."""
    tensors, _ = load(name)
    policy = fixture_mixture(tensors, eps=float(eps))
    for query, (x, sigma) in enumerate(zip(tensors["in/x_t"], tensors["in/sigma_t"], strict=True)):
        error = tensors[f"out/abs_err_fp32_vs_fp64_eps{eps}"][query].reshape(-1, *[1] * (x.ndim - 1))
        assert_within(policy.velocity(x, sigma), tensors[f"out/u_fp64_eps{eps}"][query], error)
        assert_within(out(tensors, f"u_eps{eps}")[query], tensors[f"out/u_fp64_eps{eps}"][query], error)


@pytest.mark.parametrize("name", names("policy_velocity", "gm_*"))
@pytest.mark.parametrize("eps", EPS)
def test_velocities_in_float64_agree_with_the_published_float64(name, eps):
    tensors, _ = load(name)
    policy = fixture_mixture(doubled(tensors), eps=float(eps))
    for query, (x, sigma) in enumerate(zip(tensors["in/x_t"], tensors["in/sigma_t"], strict=True)):
        u = policy.velocity(x.double(), sigma.double())
        assert u.dtype == torch.float64
        assert_close(u, tensors[f"out/u_fp64_eps{eps}"][query], rtol=1e-9, atol=1e-10)


def test_working_relative_to_the_source_saves_digits():
    """Where the plain formula subtracts large numbers, ours is several times nearer to float64."""
    exact = random_mixture(sigma_src=0.8, dtype=torch.float64)
    single = random_mixture(sigma_src=0.8)
    x = exact.x_src + 0.1 * torch.randn(exact.x_src.shape, generator=torch.Generator().manual_seed(3)).double()
    ours, textbook = [], []
    for sigma in (0.79, 0.5, 0.1, 0.01):
        sigmas = torch.full((3,), sigma)
        reference = PlainMixture.like(exact).velocity(x, sigmas.double())
        ours.append((single.velocity(x.float(), sigmas) - reference).abs().max())
        textbook.append((PlainMixture.like(single).velocity(x.float(), sigmas) - reference).abs().max())
    assert sum(ours) < sum(textbook) / 2


@pytest.mark.parametrize("name", names("temperature"))
def test_temperature_agrees_with_the_published_code(name):
    tensors, settings = load(name)
    policy = fixture_mixture(tensors)
    for temperature in settings["temperatures"]:
        sharpened, key = policy.with_temperature(temperature), f"T{temperature}"
        assert_close(sharpened.means, out(tensors, f"{key}/means"))
        assert_close(sharpened.variance, out(tensors, f"{key}/gm_vars").flatten())
        assert_close(sharpened.logweights, out(tensors, f"{key}/logweights"))
        assert_close(sharpened.velocity(tensors["in/x_t"], tensors["in/sigma_t"]), out(tensors, f"{key}/u"))


@pytest.mark.parametrize("name", names("dropout"))
def test_dropout_agrees_with_the_published_code(name):
    tensors, settings = load(name)
    policy = fixture_mixture(tensors)
    dropped = policy.drop_components(tensors["in/rand"] < settings["p"])
    assert torch.equal(dropped.logweights, out(tensors, "logweights"))
    mask = torch.isinf(dropped.logweights).flatten(3).all(-1)
    assert torch.equal(mask.float(), out(tensors, "mask"))
    assert_close(dropped.velocity(tensors["in/x_t"], tensors["in/sigma_t"]), out(tensors, "u"))
    assert_close(dropped.velocity(tensors["in/x_t_src"], tensors["in/sigma_t_src"]), out(tensors, "u_src"))


@pytest.mark.parametrize("spatial", [(4, 5), (2, 4, 5)])
def test_one_component_is_a_gaussian_in_closed_form(spatial):
    """Conditioning N(mu, v) on x_src and on x at once adds precisions: x_0 = (mu / v + nu) / (1 / v + zeta)."""
    policy = random_mixture(num_components=1, sigma_src=0.9, spatial=spatial, dtype=torch.float64)
    x = torch.randn(policy.x_src.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma, sigma_src = 0.4, 0.9
    zeta = ((1 - sigma) / sigma) ** 2 - ((1 - sigma_src) / sigma_src) ** 2
    nu = (1 - sigma) * x / sigma**2 - (1 - sigma_src) * policy.x_src / sigma_src**2
    v = policy.variance.reshape(-1, *[1] * (x.ndim - 1))
    x_0 = (policy.means[:, 0] / v + nu) / (1 / v + zeta)
    u = policy.velocity(x, torch.full((3,), sigma, dtype=torch.float64))
    assert_close(u, (x - x_0) / sigma, rtol=1e-10, atol=1e-12)


def test_at_the_source_x_0_is_the_mean_of_the_mixture():
    policy = random_mixture(sigma_src=(1.0, 0.7, 0.2), dtype=torch.float64)
    sigma = policy.sigma_src.reshape(-1, 1, 1, 1)
    x_0 = policy.x_src - sigma * policy.velocity(policy.x_src, policy.sigma_src)
    assert_close(x_0, (policy.logweights.softmax(1) * policy.means).sum(1), rtol=1e-10, atol=1e-12)


def test_far_from_the_source_the_nearest_component_wins():
    """As sigma falls the posterior follows x: at x on a narrow component's own path, x_0 is that component's mean."""
    policy = random_mixture(num_components=3, logstd=-9.0, dtype=torch.float64)
    sigma = 0.02
    x = (1 - sigma) * policy.means[:, 1] + sigma * policy.x_src  # noise is x_src, at sigma_src = 1
    x_0 = x - sigma * policy.velocity(x, torch.full((3,), sigma, dtype=torch.float64))
    assert_close(x_0, policy.means[:, 1], atol=1e-3)


def test_temperature_sharpens_weights_and_narrows_components():
    policy = random_mixture(num_components=5)
    sharpened = policy.with_temperature(0.3)
    assert_close(sharpened.logweights.exp().sum(1), torch.ones_like(sharpened.logweights[:, 0]))
    assert (sharpened.logweights.amax(1) >= policy.logweights.amax(1)).all()
    assert torch.equal(sharpened.logweights.argmax(1), policy.logweights.argmax(1))
    assert_close(sharpened.variance, 0.3 * policy.variance)
    assert policy.with_temperature(1.0) is policy
    cold = policy.with_temperature(0.0)
    assert_close(cold.logweights.exp().amax(1), torch.ones_like(cold.logweights[:, 0]))


@pytest.mark.parametrize("p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("num_components", [1, 4])
def test_no_sample_loses_all_its_components(p, num_components):
    policy = random_mixture(batch=64, num_components=num_components, spatial=(2, 2))
    dropped = policy.perturb(p, generator=torch.Generator().manual_seed(0))
    kept = torch.isfinite(dropped.logweights[:, :, 0, 0, 0])  # (B, K)
    assert kept.any(dim=1).all()
    everywhere = torch.isfinite(dropped.logweights).flatten(3)
    assert torch.equal(everywhere.all(-1), everywhere.any(-1))  # one draw a sample and component
    if num_components > 1 and p < 1:
        expected = 1 - p + p**num_components  # all are kept where all would drop
        assert kept.float().mean().item() == pytest.approx(expected, abs=0.08)
    assert torch.isfinite(dropped.velocity(policy.x_src, 0.5 * policy.sigma_src)).all()


def test_dropout_of_strength_zero_is_the_policy_itself():
    policy = random_mixture()
    assert policy.perturb(0.0) is policy


def test_a_dropped_component_has_no_say():
    policy = random_mixture(num_components=3)
    mask = torch.zeros(3, 3, 1, 1, 1, dtype=torch.bool)
    mask[:, 2] = True
    two = GMFlowPolicy(policy.x_src, policy.sigma_src, policy.offsets[:, :2], policy.logweights[:, :2], policy.variance)
    x, sigma = policy.x_src + 0.1, torch.full((3,), 0.6)
    assert_close(policy.drop_components(mask).velocity(x, sigma), two.velocity(x, sigma))


def test_network_outputs_of_low_precision_make_a_float32_policy():
    family = GMFlow(num_components=4)
    output = torch.randn(2, family.output_channels(3), 4, 4).bfloat16()
    policy = family.policy(output, torch.zeros(2).bfloat16(), torch.randn(2, 3, 4, 4), torch.ones(2))
    assert {t.dtype for t in (policy.offsets, policy.logweights, policy.variance)} == {torch.float32}
    assert_close(policy.logweights.logsumexp(1), torch.zeros(2, 1, 4, 4))


def test_the_heads_parts_come_out_in_order():
    """Channels are K blocks of C means, then K log-weights."""
    family, c = GMFlow(num_components=3), 2
    output = torch.arange(family.output_channels(c), dtype=torch.float32).reshape(1, -1, 1, 1)
    policy = family.policy(output, torch.zeros(1), torch.zeros(1, c, 1, 1), torch.ones(1))
    assert_close(-policy.offsets.flatten(), torch.arange(6.0))
    assert_close(policy.logweights.flatten(), torch.arange(6.0, 9.0).log_softmax(0))


def test_mixtures_serve_any_segments():
    GMFlow().check_sampling(segments=Segments(7, 0.3), shift=1.7)


@pytest.mark.parametrize("channels_last", [True, False])
def test_initial_noise_is_shared_by_the_positions_of_a_patch(channels_last):
    positions, channels, components = 4, 3, 200
    family = GMFlow(num_components=components, bias_noise=0.05, logstd_inner_dim=8)
    projection = nn.Linear(8, positions * channels)
    layout = PatchLayout(sides=(2, 2), channels_last=channels_last)
    head = family.build_head(projection, latent_channels=channels, embed_dim=6, layout=layout)
    head.init_from_teacher(projection, generator=torch.Generator().manual_seed(0))
    shape = (positions, components, channels) if channels_last else (components, channels, positions)
    teacher = (positions, 1, channels) if channels_last else (1, channels, positions)
    with torch.no_grad():
        noise = head.means.bias.view(shape) - projection.bias.view(teacher)
    noise = noise if channels_last else noise.movedim(-1, 0)  # (P, K, C)
    assert_close(noise, noise[:1].expand_as(noise), atol=1e-6)
    assert noise[0].std().item() == pytest.approx(0.05, rel=0.1)


def test_the_initial_log_std_is_the_settings_and_the_embedding_is_cut_off():
    family = GMFlow(num_components=2, initial_std=0.05, logstd_inner_dim=16)
    projection = nn.Linear(8, 3)
    head = family.build_head(
        projection, latent_channels=3, embed_dim=6, layout=PatchLayout(sides=(1, 1), channels_last=True)
    )
    head.init_from_teacher(projection, generator=torch.Generator().manual_seed(0))
    embedding = torch.randn(5, 6, requires_grad=True)
    logstds = head.extra(embedding)
    assert_close(logstds.detach(), torch.full((5,), math.log(0.05)))
    logstds.sum().backward()
    assert embedding.grad is None
    assert head.logstds[3].weight.grad.abs().sum() > 0


def test_a_constant_log_std_has_no_layers():
    family = GMFlow(num_components=2, constant_logstd=-1.25)
    head = family.build_head(
        nn.Linear(8, 3), latent_channels=3, embed_dim=6, layout=PatchLayout(sides=(1, 1), channels_last=True)
    )
    assert_close(head.extra(torch.zeros(4, 6)), torch.full((4,), -1.25))
    assert not any("logstds" in name for name, _ in head.named_parameters())


def test_mixture_policy_scales_by_the_source():
    means = torch.randn(2, 3, 4, 2, 2)
    x_src, sigma_src, logstds = torch.randn(2, 4, 2, 2), torch.tensor([1.0, 0.5]), torch.tensor([-1.0, 0.0])
    policy = mixture_policy(means, torch.zeros(2, 3, 1, 2, 2), logstds, x_src, sigma_src)
    sigma = sigma_src.reshape(-1, 1, 1, 1, 1)
    assert_close(policy.means, x_src.unsqueeze(1) - sigma * means)
    assert_close(policy.variance, (2 * logstds).exp() * sigma_src**2)
