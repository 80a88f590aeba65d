"""Integrating a policy's ODE over substeps (pi-Flow, section 3): no network is called here.

Times are kept on the host in float64, so that counts and spans are known without waiting for a device; what a rollout
needs of them is sent as one table. Times on a device are taken too, and are read once.

Shapes: B batch, C latent channels, S spatial dims, n substeps of the longest rollout in the batch.
"""

from itertools import pairwise

import torch
from torch import Tensor

from piflow_cli.core.flow import as_like, euler_step, match_dims, on_host
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.schedule import Shift

MEAN_VELOCITY_EPS = 1e-4
"""Floor of the sigma difference that a mean velocity is divided by."""


def count_substeps(tau_from: Tensor, tau_to: Tensor, *, total_substeps: int) -> Tensor:
    """Return max(1, round((tau_from - tau_to) total_substeps)) as int64 on the host, (B,).

    Rounding (not the ceiling that a later release of the authors takes) is robust to float32 times.
    """
    return torch.round((tau_from - tau_to).cpu() * total_substeps).clamp(min=1).long()


def substep_sigmas(tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> tuple[Tensor, Tensor]:
    """Return raw times and noise levels of all substep boundaries, (n + 1, B) both, in float64 on the host.

    Substeps are uniform in raw time. A sample with fewer than n substeps stays at its end, so its last steps have
    length 0.
    """
    tau_from, tau_to = tau_from.cpu(), tau_to.cpu()
    count = count_substeps(tau_from, tau_to, total_substeps=total_substeps).double()  # (B,)
    steps = torch.arange(int(count.max()) + 1, dtype=torch.float64)[:, None]  # (n + 1, 1)
    fraction = (steps / count).clamp(max=1.0)  # (n + 1, B)
    start, end = on_host(tau_from), on_host(tau_to)
    taus = torch.where(fraction < 1, start + (end - start) * fraction, end.expand_as(fraction))
    return taus, shift.sigma(taus)


def euler_rollout(
    policy: Policy, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int
) -> Tensor:
    """Return the state at tau_to by Euler steps of `policy.velocity`: first order, n evaluations of the policy.

    The generic rollout. Families with a cheaper exact form use theirs, and are tested against this.

    Args:
        policy: the velocity field.
        x: state at tau_from, (B, C, *S).
        tau_from, tau_to: raw times, tau_to <= tau_from, (B,); spans may differ within the batch.
        shift: the map from raw time to sigma.
        total_substeps: substeps of a rollout over the whole of [0, 1].
    """
    _, sigmas = substep_sigmas(tau_from, tau_to, shift=shift, total_substeps=total_substeps)
    sigmas = as_like(sigmas, x)
    for sigma, sigma_next in pairwise(sigmas):
        moving = match_dims(sigma != sigma_next, x)
        x = torch.where(moving, euler_step(x, policy.velocity(x, sigma), sigma, sigma_next), x)
    return x


def mean_velocity(
    policy: Policy, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int
) -> Tensor:
    """Return the policy's mean velocity (x - x_end) / (sigma_from - sigma_to) over a window of raw time, (B, C, *S).

    Samples whose window rounds to fewer than two substeps get the instantaneous velocity at (x, tau_from).

    Args: as `euler_rollout`.

    Source: pi-Flow, section 4 (micro window).
    """
    tau_from, tau_to = tau_from.cpu(), tau_to.cpu()
    sigma_from = shift.sigma(tau_from)
    short = torch.round((tau_from - tau_to) * total_substeps) < 2  # (B,)
    if bool(short.all()):
        return policy.velocity(x, sigma_from)
    end = torch.where(short, tau_from, tau_to)
    x_end = policy.rollout(x, tau_from, end, shift=shift, total_substeps=total_substeps)
    span = match_dims((sigma_from - shift.sigma(end)).clamp(min=MEAN_VELOCITY_EPS), x)
    mean = (x - x_end) / span
    if not bool(short.any()):
        return mean
    return torch.where(match_dims(short, x), policy.velocity(x, sigma_from), mean)
