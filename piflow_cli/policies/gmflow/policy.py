"""The GMFlow policy (pi-Flow, section 3.2; GMFlow, arXiv 2504.05304): the velocity field of a mixture's posterior.

Shapes: B batch, K components, C latent channels, S spatial dims.
"""

from dataclasses import dataclass

from torch import Tensor

from piflow_cli.core.flow import beside, match_dims, single_or_double
from piflow_cli.core.schedule import Shift
from piflow_cli.policies.gmflow.mixture import Mixture
from piflow_cli.policies.gmflow.rollout import mixture_velocity, rollout_mixture


@dataclass(frozen=True)
class GMFlowPolicy(Mixture):
    """The velocity field of a mixture's posterior, a frozen value; arguments as `Mixture`."""

    exact_rollout = False
    depends_on_x = True

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Velocity u = (x - E[x_0 | x]) / sigma at x (B, C, *S), sigma (B,)."""
        return mixture_velocity(self, x, sigma)

    def rollout(self, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> Tensor:
        """State at tau_to by Euler substeps, all constants computed once; see `rollout_mixture`."""
        return rollout_mixture(self, x, tau_from, tau_to, shift=shift, total_substeps=total_substeps)


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
    x_src = single_or_double(x_src)
    sigma_src = single_or_double(beside(sigma_src, x_src))
    return GMFlowPolicy(
        x_src=x_src,
        sigma_src=sigma_src,
        offsets=-match_dims(sigma_src, means) * means,
        logweights=logweights,
        variance=(2 * single_or_double(logstds).reshape(-1)).exp() * sigma_src.square(),
        eps=eps,
        compiled=compiled,
    )
