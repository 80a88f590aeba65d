"""Policy rollouts against their plain forms on a CPU, in one process and as ratios.

Times are medians of interleaved repeats after a warm-up, so that what else the machine does weighs on all variants
alike. Extra memory is the highest sum of live allocations during one call, counted from the allocator events of
torch.profiler (which sees compiled code too) from zero at the call's start: the inputs are not in it, the result is.

Shapes: B batch, K components, N grid points, C latent channels, L positions on a square grid.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from piflow_cli.core.flow import match_dims
from piflow_cli.core.rollout import euler_rollout, substep_sigmas
from piflow_cli.core.schedule import Shift
from piflow_cli.policies.dx import DX, DXPolicy, points_policy
from piflow_cli.policies.gmflow.policy import GMFlowPolicy, mixture_policy

SHIFT = Shift(3.2)


@dataclass(frozen=True)
class Workload:
    """One rollout: `num_parts` components or grid points, `substeps` over `span` of raw time from 1."""

    name: str
    batch: int
    num_parts: int
    channels: int
    size: int
    substeps: int
    span: float = 1.0

    def noise(self, *shape: int) -> Tensor:
        """Standard normal noise (*shape, size, size), the same for the same shape."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(*shape, self.size, self.size, generator=generator)

    def times(self) -> tuple[Tensor, Tensor]:
        """Raw times of start and end, (B,) both."""
        return torch.ones(self.batch), torch.full((self.batch,), 1 - self.span)

    @property
    def total_substeps(self) -> int:
        """Substeps over the whole of raw time."""
        return round(self.substeps / self.span)


MIXTURES = (
    Workload("FLUX, 1024 px: K=8, C=16", batch=1, num_parts=8, channels=16, size=128, substeps=32, span=0.25),
    Workload("ImageNet 256: K=32, C=4", batch=1, num_parts=32, channels=4, size=32, substeps=128),
    Workload("digits: K=8, C=1", batch=128, num_parts=8, channels=1, size=8, substeps=128),
)
GRIDS = (Workload("FLUX, 1024 px: N=10, C=16", batch=1, num_parts=10, channels=16, size=128, substeps=128),)


@dataclass(frozen=True)
class Target:
    """What one variant must reach on one workload."""

    workload: str
    variant: str
    min_speedup: float
    max_memory: float | None = None


TARGETS = (
    Target(MIXTURES[0].name, "eager", min_speedup=3, max_memory=0.5),
    Target(MIXTURES[0].name, "compiled", min_speedup=8, max_memory=0.5),
    Target(MIXTURES[1].name, "eager", min_speedup=1),
    Target(MIXTURES[1].name, "compiled", min_speedup=1),
    Target(MIXTURES[2].name, "eager", min_speedup=1),
    Target(MIXTURES[2].name, "compiled", min_speedup=1),
    Target(GRIDS[0].name, "one combination", min_speedup=10),
)


@dataclass(frozen=True)
class Result:
    """One variant on one workload; ratios are to the plain form, which is the first result of its workload."""

    policy: str
    workload: str
    variant: str
    time_ms: float
    speedup: float
    extra_memory_mib: float
    memory_ratio: float
    largest_difference: float


def plain_mixture_rollout(
    policy: GMFlowPolicy, means: Tensor, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, total_substeps: int
) -> Tensor:
    """Return the state at tau_to by stepping the mixture's posterior as pi-Flow, section 3.2, writes it.

    With a = (1 - sigma) / sigma, zeta = a^2 - a_src^2, nu = a x / sigma - a_src x_src / sigma_src, d = v zeta + 1:
    w = softmax_K(logw + mu.(nu - zeta mu / 2) / d), x_0 = (v nu + sum_K w mu) / d, u = (x - x_0) / sigma.

    Args:
        policy: the mixture.
        means: its component means mu of x_0, (B, K, C, H, W).
        x: state at tau_from, (B, C, H, W).
        tau_from, tau_to: raw times, (B,).
        total_substeps: substeps of a rollout over [0, 1].
    """
    _, sigmas = substep_sigmas(tau_from, tau_to, shift=SHIFT, total_substeps=total_substeps)
    v = match_dims(policy.variance, means)
    x_src, sigma_src = policy.x_src.unsqueeze(1), match_dims(policy.sigma_src, means).clamp(min=policy.eps)
    a_src = (1 - sigma_src) / sigma_src
    for now, then in pairwise(sigmas.float()):
        sigma = match_dims(now, means).clamp(min=policy.eps)
        a = (1 - sigma) / sigma
        zeta = a * a - a_src * a_src
        nu = a * x.unsqueeze(1) / sigma - a_src * x_src / sigma_src  # (B, 1, C, H, W)
        d = (v * zeta + 1).clamp(min=policy.eps)
        logits = policy.logweights + (means * (nu - zeta * means / 2)).sum(2, keepdim=True) / d  # (B, K, 1, H, W)
        x_0 = (v * nu + (logits.softmax(1) * means).sum(1, keepdim=True)) / d
        x = x + (x - x_0.squeeze(1)) / sigma.squeeze(1) * match_dims(then - now, x)
    return x


def mixture_variants(workload: Workload, *, compiled: bool = True) -> dict[str, Callable[[], Tensor]]:
    """The rollouts of a random mixture at sigma 1, the plain one first."""
    w = workload
    policy = mixture_policy(
        w.noise(w.batch, w.num_parts, w.channels),
        w.noise(w.batch, w.num_parts, 1),
        torch.full((w.batch,), -3.0),
        w.noise(w.batch, w.channels),
        torch.ones(w.batch),
    )
    x, (start, end), n = policy.x_src, w.times(), w.total_substeps
    rollouts: dict[str, Callable[[], Tensor]] = {
        "plain": partial(plain_mixture_rollout, policy, policy.means, x, start, end, total_substeps=n),
        "eager": partial(policy.rollout, x, start, end, shift=SHIFT, total_substeps=n),
    }
    if compiled:
        compiled_policy = replace(policy, compiled=True)
        rollouts["compiled"] = partial(compiled_policy.rollout, x, start, end, shift=SHIFT, total_substeps=n)
    return rollouts


def grid_variants(workload: Workload) -> dict[str, Callable[[], Tensor]]:
    """The rollouts of a random DX policy at sigma 1, the stepped one first."""
    w = workload
    settings = DX(num_points=w.num_parts, segment_size=w.span, shift=SHIFT.m)
    velocities = w.noise(w.batch, w.num_parts, w.channels)
    policy: DXPolicy = points_policy(velocities, w.noise(w.batch, w.channels), torch.ones(w.batch), settings=settings)
    x, (start, end), n = w.noise(w.batch, w.channels), w.times(), w.total_substeps
    return {
        "stepped": partial(euler_rollout, policy, x, start, end, shift=SHIFT, total_substeps=n),
        "one combination": partial(policy.rollout, x, start, end, shift=SHIFT, total_substeps=n),
    }


@torch.no_grad()
def compare(
    policy: str, workload: Workload, variants: dict[str, Callable[[], Tensor]], *, repeats: int
) -> list[Result]:
    """Results of all variants, the first of which the others are compared to."""
    outputs = {name: variant() for name, variant in variants.items()}  # the warm-up, and the compilation
    memory = {name: extra_peak_bytes(variant) for name, variant in variants.items()}
    times = interleaved_medians(variants, repeats=repeats)
    first = next(iter(variants))
    return [
        Result(
            policy=policy,
            workload=workload.name,
            variant=name,
            time_ms=1e3 * times[name],
            speedup=times[first] / times[name],
            extra_memory_mib=memory[name] / 2**20,
            memory_ratio=memory[name] / memory[first],
            largest_difference=(outputs[name] - outputs[first]).abs().max().item(),
        )
        for name in variants
    ]


def interleaved_medians(variants: dict[str, Callable[[], Tensor]], *, repeats: int) -> dict[str, float]:
    """Median wall time of each variant in seconds, over rounds that run every variant once."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def extra_peak_bytes(call: Callable[[], Tensor]) -> int:
    """Highest sum of bytes that one call holds at a time, from the CPU allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def run(
    mixtures: tuple[Workload, ...] = MIXTURES,
    grids: tuple[Workload, ...] = GRIDS,
    *,
    repeats: int = 9,
    threads: int = 2,
    compiled: bool = True,
) -> list[Result]:
    """Results of all workloads on `threads` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    results = []
    try:
        for workload in mixtures:
            torch.compiler.reset()  # so that each workload is compiled for its own shapes
            variants = mixture_variants(workload, compiled=compiled)
            results += compare("GMFlow", workload, variants, repeats=repeats)
        for workload in grids:
            results += compare("DX", workload, grid_variants(workload), repeats=repeats)
    finally:
        torch.set_num_threads(before)
    return results


def met(target: Target, results: list[Result]) -> bool:
    """Whether the results reach a target."""
    result = next(r for r in results if (r.workload, r.variant) == (target.workload, target.variant))
    fast = result.speedup >= target.min_speedup
    return fast and (target.max_memory is None or result.memory_ratio <= target.max_memory)


def table(results: list[Result]) -> Table:
    """The results as a rich table, with the targets and whether they are met."""
    by_key = {(target.workload, target.variant): target for target in TARGETS}
    columns = ("policy", "workload", "rollout", "ms", "speed-up", "extra MiB", "memory", "largest difference", "target")
    view = Table(*columns, title="Policy rollouts", caption="ratios are to the first rollout of each workload")
    for r in results:
        target = by_key.get((r.workload, r.variant))
        view.add_row(
            r.policy,
            r.workload,
            r.variant,
            f"{r.time_ms:.2f}",
            f"{r.speedup:.1f}x",
            f"{r.extra_memory_mib:.2f}",
            f"{r.memory_ratio:.2f}x",
            f"{r.largest_difference:.1e}",
            "" if target is None else describe(target, is_met=met(target, results)),
        )
    return view


def describe(target: Target, *, is_met: bool) -> str:
    """A target in words."""
    memory = "" if target.max_memory is None else f", memory <= {target.max_memory:g}x"
    return f"{'met' if is_met else 'MISSED'}: >= {target.min_speedup:g}x{memory}"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m piflow_cli.speed.rollout", description="Time policy rollouts.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = parser.parse_args(arguments)
    results = run(repeats=options.repeats, threads=options.threads)
    verdicts = [asdict(target) | {"met": met(target, results)} for target in TARGETS]
    if options.json:
        setting = {"torch": torch.__version__, "threads": options.threads, "load": os.getloadavg()[0]}
        print(json.dumps(setting | {"results": [asdict(r) for r in results], "targets": verdicts}, indent=2))
    else:
        Console().print(table(results))
    return 0 if all(verdict["met"] for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
