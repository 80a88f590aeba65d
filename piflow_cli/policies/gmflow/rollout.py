"""Integrating a Gaussian-mixture policy cheaply: the same Euler substeps as the plain formula, in fewer operations.

Everything is relative to the source, which keeps float32 accurate where the plain formula subtracts large numbers: with
y = x - x_src, e_k = mu_k - x_src, a = (1 - sigma) / sigma, zeta = a^2 - a_src^2 and d = v zeta + 1, the posterior of
pi-Flow, section 3.2, is, exactly,

    z  = (a / sigma) y + (a - a_src) x_src
    w  = softmax_K(logw + (e.z - zeta |e|^2 / 2) / d)
    x_0 - x_src = (v z + sum_K w e) / d

and one substep of length r sigma is y' = y + r (y - (x_0 - x_src)). All coefficients are scalars of the sample that
float64 times give in advance; |e|^2 and e.x_src never change. Two exact forms of the loop:

- direct: y is the state; a substep reads e twice, 2 K C multiply-adds a position.
- gram: y stays in the span of its start, x_src and the K offsets, so the loop carries only e.y and the K coefficients;
  a substep costs one product with the K x K Gram matrix of the offsets. At most half the work where K < C.

All work is local to a position, so on a CPU the loop runs over blocks of positions that stay in cache. Where spans
differ within a batch, as on the way to the states that training visits, samples are ordered by their substeps, longest
first, and a substep touches only those that still move. Compiled, a few substeps are unrolled into one call over all
samples; a substep of length 0 changes nothing, so the last call is padded with them. With gradient the loop is not
compiled: those rollouts are the few substeps of a micro window.

Shapes: B batch, K components, C latent channels, S spatial dims, L positions (S flattened), n substeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from piflow_cli.core.flow import as_like, float64, send
from piflow_cli.core.rollout import count_substeps, substep_sigmas
from piflow_cli.core.schedule import Shift
from piflow_cli.policies.gmflow.mixture import Mixture

T = TypeVar("T")

BLOCK_BYTES = 1 << 20
"""Working set a thread of one block of positions on a CPU: about what one core's second-level cache holds."""

UNROLL = 4
"""Substeps in one call of a compiled loop: enough to hide the cost of the call, few enough to compile in seconds."""


@dataclass(frozen=True)
class Coefficients:
    """The scalars of a rollout, from float64 times.

    Args:
        steps: of each substep, (n, 6, B, 1, 1): the factors of e.y, e.x_src and |e|^2 in the logits, then those of y,
            x_src and sum_K w e in y' - y.
        start: factor of the rollout's start in its end, (B, 1, 1).
        source: factor of x_src in its end, (B, 1, 1).
    """

    steps: Tensor
    start: Tensor
    source: Tensor

    @classmethod
    def of(cls, policy: Mixture, table: Tensor) -> Coefficients:
        """Coefficients of substeps by a table of their noise levels and lengths, (2, n, B), as `table_device` says."""
        v = float64(policy.variance)
        sigma, length = table.unbind()  # (n, B) both
        sigma = sigma.clamp(min=policy.eps)
        sigma_src = send(float64(policy.sigma_src), v.device).clamp(min=policy.eps)
        a, a_src = (1 - sigma) / sigma, (1 - sigma_src) / sigma_src
        zeta = a.square() - a_src.square()
        d = (v * zeta + 1).clamp(min=policy.eps)
        z_y, z_src = a / sigma, a - a_src
        r = length / sigma
        step_y, step_src = r * (1 - v * z_y / d), -r * v * z_src / d
        steps = torch.stack([z_y / d, z_src / d, -zeta / (2 * d), step_y, step_src, -r / d], dim=1)  # (n, 6, B)
        keep = (1 + step_y).flip(0).cumprod(0).flip(0)  # (n, B): product from a substep to the end
        later = torch.cat([keep[1:], torch.ones_like(keep[:1])])
        start, source = keep[0], (step_src * later).sum(0)  # (B,)
        return cls(*(as_like(term, policy.x_src)[..., None, None] for term in (steps, start, source)))

    def of_samples(self, samples: slice | Tensor) -> Coefficients:
        """Those of some of the samples."""
        return Coefficients(self.steps[:, :, samples], self.start[samples], self.source[samples])

    def calls(self, counts: list[int], *, compiled: bool) -> list[Tensor]:
        """The `steps` of each call of a loop, (n, 6, M, 1, 1), which moves the first M samples.

        Args:
            counts: substeps of each sample; longest first, unless compiled.
            compiled: UNROLL substeps of all samples a call.
        """
        if compiled:
            padding = self.steps.new_zeros(-self.steps.shape[0] % UNROLL, *self.steps.shape[1:])
            return list(torch.cat([self.steps, padding]).split(UNROLL))
        ends = sorted(set(counts))
        return [
            self.steps[start:end, :, : sum(count >= end for count in counts)] for start, end in pairwise([0, *ends])
        ]


def table_device(policy: Mixture) -> torch.device:
    """Where times in float64 are needed: beside the policy, or on the host where its device has no float64 (MPS)."""
    device = policy.variance.device
    return torch.device("cpu") if device.type == "mps" else device


def mixture_velocity(policy: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
    """Return the policy's velocity at x (B, C, *S), sigma (B,): the increment of a substep of length 1."""
    sigma = send(float64(sigma), table_device(policy))[None]
    scalars = Coefficients.of(policy, torch.stack([sigma, torch.ones_like(sigma)])).steps[0]
    y, x_src, e, logweights = _flatten(policy, x)
    norm = e.square().sum(2)  # (B, K, L)
    return _direct_increment(y, x_src, e, logweights, norm, scalars).view_as(x)


def rollout_mixture(
    policy: Mixture, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int
) -> Tensor:
    """Return the state at tau_to, equal to `euler_rollout` up to rounding.

    Gradients reach x and the mixture; substeps are recomputed block by block in the backward pass, so that memory does
    not grow with their number.

    Args:
        policy: the mixture.
        x: state at tau_from, (B, C, *S).
        tau_from, tau_to: raw times, (B,).
        shift: the map from raw time to sigma.
        total_substeps: substeps of a rollout over [0, 1].
    """
    _, sigmas = substep_sigmas(tau_from, tau_to, shift=shift, total_substeps=total_substeps)
    counts = count_substeps(tau_from, tau_to, total_substeps=total_substeps)  # (B,)
    order = counts.argsort(descending=True, stable=True)
    sent = torch.cat([sigmas[:-1], sigmas.diff(dim=0), order[None], order.argsort()[None]])  # (2 n + 2, B)
    table, order, back = send(sent, table_device(policy)).split([len(sent) - 2, 1, 1])
    coefficients = Coefficients.of(policy, table.unflatten(0, (2, -1)))
    planes, counts = _flatten(policy, x), counts.tolist()
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (*planes, coefficients.steps))
    compiled = policy.compiled and not needs_grad
    is_ragged = not compiled and counts != sorted(counts, reverse=True)
    if is_ragged:
        order, back = (send(index[0].long(), x.device) for index in (order, back))  # (B,) both
        planes, coefficients = tuple(plane[order] for plane in planes), coefficients.of_samples(order)
        counts.sort(reverse=True)
    num_components, channels = policy.offsets.shape[1:3]
    gram = num_components < channels
    advance = _advance_gram if gram else _advance_direct
    floats = 2 * num_components * (num_components if gram else channels)
    rows = []
    for samples, blocks in _blocks(*planes[0].shape[::2], floats=floats, device=x.device):
        scalars = coefficients.of_samples(samples)
        calls = scalars.calls(counts[samples], compiled=compiled)
        row = []
        for positions in blocks:
            inputs = (*(plane[samples, ..., positions] for plane in planes), scalars, calls, compiled)
            if needs_grad:
                row.append(checkpoint(advance, *inputs, use_reentrant=False, preserve_rng_state=False))
            else:
                row.append(advance(*inputs))
        rows.append(torch.cat(row, dim=2) if len(row) > 1 else row[0])
    y = torch.cat(rows) if len(rows) > 1 else rows[0]
    if is_ragged:
        y = y[back]
    return policy.x_src + y.view_as(policy.x_src)


def _flatten(policy: Mixture, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y = x - x_src and x_src (B, C, L), offsets (B, K, C, L), log-weights (B, K, L)."""
    y = (x.to(policy.x_src.dtype) - policy.x_src).flatten(2)
    return y, policy.x_src.flatten(2), policy.offsets.flatten(3), policy.logweights.flatten(2)


def _blocks(batch: int, positions: int, *, floats: int, device: torch.device) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of samples, each with slices of positions, whose `floats` a position fit the cache of a CPU's threads."""
    if device.type != "cpu":
        yield slice(None), [slice(None)]
        return
    budget = max(64, BLOCK_BYTES * torch.get_num_threads() // (4 * floats))  # positions in a block
    num_samples = max(1, budget // positions)
    size = -(-positions // -(-positions // budget))  # as even as they divide, so that few shapes are compiled
    for start in range(0, batch, num_samples):
        yield (
            slice(start, start + num_samples),
            [slice(left, left + size) for left in range(0, positions, size)],
        )


def _advance_direct(
    y: Tensor,
    x_src: Tensor,
    e: Tensor,
    logweights: Tensor,
    scalars: Coefficients,  # noqa: ARG001
    calls: list[Tensor],
    compiled: bool,
) -> Tensor:
    """All substeps on one block with y (B, C, L) as the state."""
    norm = e.square().sum(2)  # (B, K, L)
    loop = _compile(_direct_loop) if compiled else _direct_loop
    for steps in calls:
        moved = loop(*(plane[: steps.shape[2]] for plane in (y, x_src, e, logweights, norm)), steps)
        y = _with_rest(moved, y)
    return y


def _direct_loop(y: Tensor, x_src: Tensor, e: Tensor, logweights: Tensor, norm: Tensor, steps: Tensor) -> Tensor:
    """Some substeps of `_advance_direct`, (n, 6, B, 1, 1)."""
    for scalars in steps.unbind():
        y = y + _direct_increment(y, x_src, e, logweights, norm, scalars)
    return y


def _direct_increment(y: Tensor, x_src: Tensor, e: Tensor, logweights: Tensor, norm: Tensor, scalars: Tensor) -> Tensor:
    """y' - y of one substep: y, x_src (B, C, L), e (B, K, C, L), logweights, norm (B, K, L), scalars (6, B, 1, 1)."""
    logit_y, logit_src, logit_norm, step_y, step_src, step_e = scalars.unbind()
    z = torch.addcmul(logit_src * x_src, logit_y, y)  # (B, C, L), over d
    logits = torch.addcmul(logweights, logit_norm, norm) + (e * z.unsqueeze(1)).sum(2)  # (B, K, L)
    mean = (logits.softmax(1).unsqueeze(2) * e).sum(1)  # (B, C, L)
    return torch.addcmul(torch.addcmul(step_src * x_src, step_e, mean), step_y, y)


def _advance_gram(
    y: Tensor,
    x_src: Tensor,
    e: Tensor,
    logweights: Tensor,
    scalars: Coefficients,
    calls: list[Tensor],
    compiled: bool,
) -> Tensor:
    """All substeps on one block with e.y and the coefficients of the offsets as the state."""
    gram = torch.stack([(e * e[:, k : k + 1]).sum(2) for k in range(e.shape[1])], dim=1)  # (B, K, K, L)
    dot_src = (e * x_src.unsqueeze(1)).sum(2)  # (B, K, L)
    dot = (e * y.unsqueeze(1)).sum(2)  # (B, K, L)
    coef = torch.zeros_like(dot)  # (B, K, L)
    loop = _compile(_gram_loop) if compiled else _gram_loop
    for steps in calls:
        moved = loop(*(plane[: steps.shape[2]] for plane in (dot, coef, dot_src, gram, logweights)), steps)
        dot, coef = _with_rest(moved[0], dot), _with_rest(moved[1], coef)
    return scalars.start * y + scalars.source * x_src + (coef.unsqueeze(2) * e).sum(1)


def _gram_loop(
    dot: Tensor, coef: Tensor, dot_src: Tensor, gram: Tensor, logweights: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """Some substeps of `_advance_gram`, (n, 6, B, 1, 1): e.y and the coefficients, (B, K, L) both."""
    norm = gram.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # (B, K, L)
    for scalars in steps.unbind():
        logit_y, logit_src, logit_norm, step_y, step_src, step_e = scalars.unbind()
        logits = torch.addcmul(torch.addcmul(logweights, logit_norm, norm), logit_src, dot_src)
        weights = torch.addcmul(logits, logit_y, dot).softmax(1)  # (B, K, L)
        dot_mean = (gram * weights.unsqueeze(1)).sum(2)  # (B, K, L): e.(sum_K w e)
        dot = dot + torch.addcmul(torch.addcmul(step_src * dot_src, step_e, dot_mean), step_y, dot)
        coef = coef + torch.addcmul(step_e * weights, step_y, coef)
    return dot, coef


def _with_rest(moved: Tensor, before: Tensor) -> Tensor:
    """The first samples as `moved`, the rest as `before` (B, ...)."""
    return moved if len(moved) == len(before) else torch.cat([moved, before[len(moved) :]])


@cache
def _compile(loop: Callable[..., T]) -> Callable[..., T]:
    return torch.compile(loop)
