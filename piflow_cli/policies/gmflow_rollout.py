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

All work is local to a position, so on a CPU the loop runs over blocks of positions that stay in cache.

Shapes: B batch, K components, C latent channels, S spatial dims, L positions (S flattened), n substeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from piflow_cli.core.rollout import substep_sigmas
from piflow_cli.core.schedule import Shift

if TYPE_CHECKING:
    from piflow_cli.policies.gmflow import GMFlowPolicy

BLOCK_BYTES = 1 << 19
"""Working set of one block of positions on a CPU: about what one core's second-level cache holds."""


@dataclass(frozen=True)
class Coefficients:
    """Scalars of every substep and sample, (n, B, 1, 1) each: of the logits, and of the increment y' - y."""

    logit_y: Tensor
    logit_src: Tensor
    logit_norm: Tensor
    step_y: Tensor
    step_src: Tensor
    step_e: Tensor

    @classmethod
    def of(cls, policy: GMFlowPolicy, sigma: Tensor, step: Tensor) -> Coefficients:
        """Coefficients for steps of length `step` from noise levels `sigma`, (n, B) both, in float64."""
        sigma = sigma.clamp(min=policy.eps)
        sigma_src = policy.sigma_src.double().clamp(min=policy.eps)
        v = policy.variance.double()
        a, a_src = (1 - sigma) / sigma, (1 - sigma_src) / sigma_src
        zeta = a.square() - a_src.square()
        d = (v * zeta + 1).clamp(min=policy.eps)
        z_y, z_src = a / sigma, a - a_src
        r = step / sigma
        terms = (z_y / d, z_src / d, -zeta / (2 * d), r * (1 - v * z_y / d), -r * v * z_src / d, -r / d)
        return cls(*(term.float()[..., None, None] for term in terms))

    def terms(self) -> tuple[Tensor, ...]:
        """The six fields in order, (n, B, 1, 1) each."""
        return tuple(getattr(self, field.name) for field in fields(self))


def mixture_velocity(policy: GMFlowPolicy, x: Tensor, sigma: Tensor) -> Tensor:
    """Return the policy's velocity at x (B, C, *S), sigma (B,): the increment of a step of length 1."""
    sigma = sigma.double()[None]
    terms = Coefficients.of(policy, sigma, torch.ones_like(sigma)).terms()
    y, x_src, e, logweights = _flatten(policy, x)
    norm = e.square().sum(2)  # (B, K, L)
    return _direct_increment(y, x_src, e, logweights, norm, *(term[0] for term in terms)).view_as(x)


def rollout_mixture(
    policy: GMFlowPolicy, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int
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
    terms = Coefficients.of(policy, sigmas[:-1], sigmas.diff(dim=0)).terms()
    planes = _flatten(policy, x)
    num_components, channels = policy.offsets.shape[1:3]
    if num_components < channels:
        advance, floats = _advance_gram, num_components * num_components
    else:
        advance, floats = _advance_direct, 2 * num_components * channels
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (*planes, *terms))
    rows = []
    for samples, blocks in _blocks(*planes[0].shape[::2], floats=floats, device=x.device):
        row = []
        for positions in blocks:
            inputs = (*(plane[samples, ..., positions] for plane in planes), *(term[:, samples] for term in terms))
            if needs_grad:
                row.append(checkpoint(advance, *inputs, policy.compiled, use_reentrant=False, preserve_rng_state=False))
            else:
                row.append(advance(*inputs, policy.compiled))
        rows.append(torch.cat(row, dim=2) if len(row) > 1 else row[0])
    y = torch.cat(rows) if len(rows) > 1 else rows[0]
    return policy.x_src + y.view_as(policy.x_src)


def _flatten(policy: GMFlowPolicy, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y = x - x_src and x_src (B, C, L), offsets (B, K, C, L), log-weights (B, K, L)."""
    y = (x.float() - policy.x_src).flatten(2)
    return y, policy.x_src.flatten(2), policy.offsets.flatten(3), policy.logweights.flatten(2)


def _blocks(batch: int, positions: int, *, floats: int, device: torch.device) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of samples, each with slices of positions, whose `floats` a position fit BLOCK_BYTES on a CPU."""
    if device.type != "cpu":
        yield slice(None), [slice(None)]
        return
    budget = max(64, BLOCK_BYTES // (4 * floats))  # positions in a block
    num_samples = max(1, budget // positions)
    size = -(-positions // -(-positions // budget))  # as even as they divide, so that few shapes are compiled
    for start in range(0, batch, num_samples):
        yield (
            slice(start, start + num_samples),
            [slice(left, left + size) for left in range(0, positions, size)],
        )


def _advance_direct(y: Tensor, x_src: Tensor, e: Tensor, logweights: Tensor, *terms_compiled: Tensor | bool) -> Tensor:
    """All substeps on one block with y (B, C, L) as the state; terms are (n, B, 1, 1)."""
    *terms, compiled = terms_compiled
    increment = _maybe_compile(_direct_increment, compiled=bool(compiled))
    norm = e.square().sum(2)  # (B, K, L)
    for scalars in zip(*terms, strict=True):
        y = y + increment(y, x_src, e, logweights, norm, *scalars)
    return y


def _direct_increment(y, x_src, e, logweights, norm, logit_y, logit_src, logit_norm, step_y, step_src, step_e):
    """y' - y of one substep: y, x_src (B, C, L), e (B, K, C, L), logweights, norm (B, K, L), scalars (B, 1, 1)."""
    z = logit_y * y + logit_src * x_src  # (B, C, L), over d
    weights = (logweights + (e * z.unsqueeze(1)).sum(2) + logit_norm * norm).softmax(1)  # (B, K, L)
    return step_y * y + step_src * x_src + step_e * (weights.unsqueeze(2) * e).sum(1)


def _advance_gram(y: Tensor, x_src: Tensor, e: Tensor, logweights: Tensor, *terms_compiled: Tensor | bool) -> Tensor:
    """All substeps on one block with (e.y, the coefficients of the means) as the state."""
    *terms, compiled = terms_compiled
    step = _maybe_compile(_gram_step, compiled=bool(compiled))
    gram = torch.stack([(e * e[:, k : k + 1]).sum(2) for k in range(e.shape[1])], dim=1)  # (B, K, K, L)
    norm = gram.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # (B, K, L)
    dot_src = (e * x_src.unsqueeze(1)).sum(2)  # (B, K, L)
    dot = (e * y.unsqueeze(1)).sum(2)  # (B, K, L)
    coef = torch.zeros_like(dot)  # (B, K, L), of the means
    coef_y, coef_src = 1.0, 0.0  # (B, 1, 1), of y and x_src
    for scalars in zip(*terms, strict=True):
        dot, coef = step(dot, coef, logweights, dot_src, norm, gram, *scalars)
        _, _, _, step_y, step_src, _ = scalars
        coef_y, coef_src = coef_y * (1 + step_y), coef_src * (1 + step_y) + step_src
    return coef_y * y + coef_src * x_src + (coef.unsqueeze(2) * e).sum(1)


def _gram_step(dot, coef, logweights, dot_src, norm, gram, logit_y, logit_src, logit_norm, step_y, step_src, step_e):
    """One substep of `_advance_gram`."""
    weights = (logweights + logit_y * dot + logit_src * dot_src + logit_norm * norm).softmax(1)  # (B, K, L)
    dot_mean = (gram * weights.unsqueeze(1)).sum(2)  # (B, K, L)
    return dot + step_y * dot + step_src * dot_src + step_e * dot_mean, coef + step_y * coef + step_e * weights


def _maybe_compile(step: Callable[..., Tensor], *, compiled: bool) -> Callable[..., Tensor]:
    return _compile(step) if compiled else step


@cache
def _compile(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(step, dynamic=False)
