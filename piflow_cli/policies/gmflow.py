"""The GMFlow policy (pi-Flow, section 3.2; GMFlow, arXiv 2504.05304): a Gaussian mixture over x_0 at every position.

Shapes: B batch, K components, C latent channels, S spatial dims, P positions in a patch, N tokens, D network width.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.flow import match_dims, single_or_double
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.core.schedule import Segments, Shift
from piflow_cli.core.settings import Settings
from piflow_cli.policies.gmflow_rollout import mixture_velocity, rollout_mixture


@dataclass(frozen=True)
class GMFlowPolicy:
    """The velocity field of a mixture posterior, a frozen value.

    Args:
        x_src: state the network saw, (B, C, *S).
        sigma_src: its noise level, (B,).
        offsets: component means of x_0 relative to x_src, (B, K, C, *S): -sigma_src times the predicted velocities.
        logweights: unnormalised log-weights, (B, K, 1, *S); -inf drops a component.
        variance: variance of the components in x_0 space, one per sample, (B,).
        eps: floor of sigma.
        compiled: whether rollouts without gradient run through torch.compile.
    """

    x_src: Tensor
    sigma_src: Tensor
    offsets: Tensor
    logweights: Tensor
    variance: Tensor
    eps: float = 1e-6
    compiled: bool = False

    exact_rollout = False
    depends_on_x = True

    @property
    def means(self) -> Tensor:
        """Component means of x_0, (B, K, C, *S)."""
        return self.x_src.unsqueeze(1) + self.offsets

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Velocity u = (x - E[x_0 | x]) / sigma at x (B, C, *S), sigma (B,)."""
        return mixture_velocity(self, x, sigma)

    def rollout(self, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> Tensor:
        """State at tau_to by Euler substeps, all constants computed once; see `gmflow_rollout`."""
        return rollout_mixture(self, x, tau_from, tau_to, shift=shift, total_substeps=total_substeps)

    def detach(self) -> Self:
        """The same policy cut from the graph."""
        return replace(
            self,
            x_src=self.x_src.detach(),
            offsets=self.offsets.detach(),
            logweights=self.logweights.detach(),
            variance=self.variance.detach(),
        )

    def with_temperature(self, temperature: float) -> Self:
        """The mixture with log-weights / T, renormalised, and variance * T; T >= 1 changes nothing, 0 is floored."""
        if temperature >= 1:
            return self
        temperature = max(temperature, self.eps)
        return replace(
            self,
            logweights=(self.logweights / temperature).log_softmax(dim=1),
            variance=self.variance * temperature,
        )

    def perturb(self, p: float, *, generator: torch.Generator | None = None) -> Self:
        """The mixture with each component dropped with probability p, one draw a sample and component."""
        if p == 0:
            return self
        shape = (*self.offsets.shape[:2], *(1,) * (self.offsets.ndim - 2))
        device = generator.device if generator is not None else self.offsets.device
        draws = torch.rand(shape, generator=generator, device=device).to(self.offsets.device)
        return self.drop_components(draws < p)

    def drop_components(self, dropped: Tensor) -> Self:
        """The mixture without the components where `dropped` (B, K, 1, ..., 1); a sample never loses all of them."""
        dropped = dropped & ~dropped.all(dim=1, keepdim=True)
        return replace(self, logweights=self.logweights.masked_fill(dropped, -math.inf))


class GMFlowHead(nn.Module):
    """Means, log-weights and one log-std a sample, in the place of the teacher's final projection.

    The layers are named as in the released weights: `means`, `logweights`, `logstds` for `proj_out_means` and so on.
    """

    def __init__(
        self,
        in_features: int,
        *,
        num_components: int,
        latent_channels: int,
        layout: PatchLayout,
        embed_dim: int,
        logstd_inner_dim: int,
        bias_noise: float,
        initial_std: float,
        constant_logstd: float | None,
    ) -> None:
        super().__init__()
        self.num_components, self.latent_channels, self.layout = num_components, latent_channels, layout
        self.bias_noise, self.initial_std, self.constant_logstd = bias_noise, initial_std, constant_logstd
        rows = num_components * layout.positions
        self.means = nn.Linear(in_features, rows * latent_channels)
        self.logweights = nn.Linear(in_features, rows)
        if constant_logstd is None:
            self.logstds: nn.Sequential | None = nn.Sequential(
                nn.SiLU(), nn.Linear(embed_dim, logstd_inner_dim), nn.SiLU(), nn.Linear(logstd_inner_dim, 1)
            )
        else:
            self.logstds = None

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to tokens that hold K C + K channels a position in the teacher's layout."""
        split, dim = (
            ((self.layout.positions, -1), -1) if self.layout.channels_last else ((-1, self.layout.positions), -2)
        )
        parts = [layer(tokens).unflatten(-1, split) for layer in (self.means, self.logweights)]
        return torch.cat(parts, dim=dim).flatten(-2)

    def extra(self, embedding: Tensor) -> Tensor:
        """Log-std of each sample, (B,), read from the detached embedding (B, D)."""
        if self.logstds is None:
            return embedding.new_full((embedding.shape[0],), self.constant_logstd)
        return self.logstds(embedding.detach()).squeeze(-1)

    @torch.no_grad()
    def init_from_teacher(self, projection: nn.Linear, *, generator: torch.Generator) -> None:
        """Repeat the teacher's rows K times with noise on the bias; equal weights; log-std log(initial_std).

        Args:
            projection: the teacher's final projection, rows in the layout's order.
            generator: source of the bias noise, drawn per (component, channel) and shared by a patch.

        Source: pi-Flow's public implementation, noise 0.05.
        """
        k, c, p = self.num_components, self.latent_channels, self.layout.positions
        draw = torch.randn((k, c), generator=generator, device=generator.device)
        noise = self.bias_noise * draw.to(projection.weight.device)  # (K, C)
        if self.layout.channels_last:  # rows (P, K, C)
            weight = projection.weight.view(p, 1, c, -1).expand(p, k, c, -1)
            bias = projection.bias.view(p, 1, c) + noise
        else:  # rows (K, C, P)
            weight = projection.weight.view(1, c, p, -1).expand(k, c, p, -1)
            bias = projection.bias.view(1, c, p) + noise[..., None]
        self.means.weight.copy_(weight.flatten(0, 2))
        self.means.bias.copy_(bias.flatten())
        nn.init.zeros_(self.logweights.weight)
        nn.init.zeros_(self.logweights.bias)
        if self.logstds is not None:
            hidden, last = self.logstds[1], self.logstds[3]
            bound = math.sqrt(6 / (hidden.in_features + hidden.out_features))  # Xavier
            draw = torch.rand(hidden.weight.shape, generator=generator, device=generator.device)
            hidden.weight.copy_(draw * 2 * bound - bound)
            nn.init.zeros_(hidden.bias)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, math.log(self.initial_std))


class GMFlow(Settings):
    """A mixture of K Gaussians over x_0 at every latent position; sampling sharpens it with a temperature."""

    type: Literal["gmflow"] = "gmflow"
    num_components: int = Field(8, ge=1, le=256, description="K, Gaussian components at every latent position")
    dropout: float = Field(0.05, ge=0, lt=1, description="probability of dropping a component of the detached policy")
    eps: float = Field(1e-6, gt=0, le=1e-2, description="floor of sigma inside the policy")
    logstd_inner_dim: int = Field(1024, ge=1, description="width of the hidden layer that predicts the log-std")
    constant_logstd: float | None = Field(None, description="fixed log-std instead of a predicted one")
    bias_noise: float = Field(0.05, ge=0, description="std of the noise that tells the initial components apart")
    initial_std: float = Field(0.05, gt=0, description="std of the components, in units of sigma_src, before training")
    compiled: bool = Field(False, description="run rollouts without gradient through torch.compile")

    def output_channels(self, latent_channels: int) -> int:
        """K C channels of means and K of log-weights."""
        return self.num_components * (latent_channels + 1)

    def build_head(
        self, projection: nn.Linear, *, latent_channels: int, embed_dim: int, layout: PatchLayout
    ) -> GMFlowHead:
        """An uninitialised head on the device and in the dtype of `projection`."""
        head = GMFlowHead(
            projection.in_features,
            num_components=self.num_components,
            latent_channels=latent_channels,
            layout=layout,
            embed_dim=embed_dim,
            logstd_inner_dim=self.logstd_inner_dim,
            bias_noise=self.bias_noise,
            initial_std=self.initial_std,
            constant_logstd=self.constant_logstd,
        )
        return head.to(device=projection.weight.device, dtype=projection.weight.dtype)

    def policy(self, output: Tensor, extra: Tensor | None, x_src: Tensor, sigma_src: Tensor) -> GMFlowPolicy:
        """The policy of a network output (B, K C + K, *S), with log-stds `extra` (B,), at x_src, sigma_src (B,)."""
        k, c = self.num_components, x_src.shape[1]
        output = single_or_double(output)
        means = output[:, : k * c].unflatten(1, (k, c))  # (B, K, C, *S)
        logweights = output[:, k * c :].log_softmax(dim=1).unsqueeze(2)  # (B, K, 1, *S)
        return mixture_policy(means, logweights, extra, x_src, sigma_src, eps=self.eps, compiled=self.compiled)

    def check_sampling(self, *, segments: Segments, shift: float) -> None:
        """A mixture serves any segments and any shift."""


def mixture_policy(
    means: Tensor,
    logweights: Tensor,
    logstds: Tensor,
    x_src: Tensor,
    sigma_src: Tensor,
    *,
    eps: float = 1e-6,
    compiled: bool = False,
) -> GMFlowPolicy:
    """Return the policy of component means and log-stds given in velocity space.

    Args:
        means: velocities of the components, (B, K, C, *S).
        logweights: (B, K, 1, *S).
        logstds: log-std of the velocity, (B,) or (B, 1, ..., 1).
        x_src, sigma_src: the source, (B, C, *S) and (B,).

    Source: pi-Flow, section 3.2: mu = x_src - sigma_src mean, v = exp(2 logstd) sigma_src^2.
    """
    x_src, sigma_src = single_or_double(x_src), single_or_double(sigma_src)
    return GMFlowPolicy(
        x_src=x_src,
        sigma_src=sigma_src,
        offsets=-match_dims(sigma_src, means) * means,
        logweights=logweights,
        variance=(2 * single_or_double(logstds).reshape(-1)).exp() * sigma_src.square(),
        eps=eps,
        compiled=compiled,
    )
