"""What training and measuring spend beside arithmetic: switching to the teacher, waits of the host, and distances.

python -m piflow_cli.speed.waste [--pictures 2000] [--features 512] [--repeats 5]

- switching an adapted student of FLUX.1's depth to its teacher and back, beside diffusers' own `disable_adapters`;
- one data-free micro-step (4 segments, 4 states each, a window of 3 substeps) on a stand-in for a GPU, whose reads and
  copies `crossings.py` counts;
- precision and recall by matrix products, beside distances taken plainly.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.imitation import ImitationSettings, data_free_losses
from piflow_cli.core.schedule import Segments, Shift
from piflow_cli.core.student import Student
from piflow_cli.metrics.precision_recall import NUM_NEIGHBOURS, precision_recall
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.speed.crossings import META, Crossings
from piflow_cli.teachers.flux import FluxBackbone

DOUBLE_BLOCKS, SINGLE_BLOCKS = 19, 38
"""FLUX.1's depth."""
BATCH, LATENT, TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 2, (16, 8, 8), 8, 32, 16
NFE, STATES, WINDOW = 4, 4, 3


def student(double: int, single: int) -> Student:
    """A student with LoRA on a FLUX transformer of random weights, as deep as asked and narrow."""
    from diffusers import FluxTransformer2DModel

    module = FluxTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=double,
        num_single_layers=single,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )
    made = Student.from_teacher(
        module,
        backbone=FluxBackbone(LATENT[0]),
        family=GMFlow(num_components=8, logstd_inner_dim=16),
        generator=torch.Generator().manual_seed(0),
        adapter=AdapterSettings(rank=4),
    )
    made.make_trainable()
    return made


def best_ms(action: Callable[[], object], repeats: int) -> float:
    """The shortest of some times of an action, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return min(times) * 1e3


def switches() -> tuple[Student, Callable[[], None], Callable[[], None]]:
    """A student of FLUX.1's depth, what takes it to its teacher and back, and diffusers' own way of doing so."""
    deep = student(DOUBLE_BLOCKS, SINGLE_BLOCKS)

    def switch() -> None:
        with deep.as_teacher():
            pass

    def walk() -> None:
        deep.module.disable_adapters()
        deep.module.enable_adapters()

    return deep, switch, walk


def switching_ms(repeats: int) -> tuple[int, float, float]:
    """Modules of a student of FLUX.1's depth, ms to its teacher and back, and ms by diffusers' own method."""
    deep, switch, walk = switches()
    return sum(1 for _ in deep.module.modules()), best_ms(switch, repeats), best_ms(walk, repeats)


def micro_step(*, total_substeps: int = 128) -> Crossings:
    """One data-free micro-step, forward and backward, on the stand-in; returns what crossed."""
    network, generator = student(1, 1).to(META), torch.Generator().manual_seed(0)
    condition = TextCondition(
        embeds=torch.empty(BATCH, TEXT_TOKENS, TEXT_WIDTH, device=META),
        pooled=torch.empty(BATCH, POOLED_WIDTH, device=META),
        guidance=torch.empty(BATCH, device=META),
    )

    def teacher(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad(), network.as_teacher():
            return network(x, sigma.to(META), condition)[0]

    shift = Shift(3.2)
    settings = ImitationSettings(
        shift=shift, num_intermediates=STATES, window_substeps=WINDOW, total_substeps=total_substeps
    )
    losses = data_free_losses(
        lambda x, sigma: network.policy(x, sigma, condition),
        teacher,
        torch.empty(BATCH, *LATENT, device=META),
        segments=Segments(NFE),
        settings=settings,
        teacher_ratio=0.5,
        dropout=0.1,
        generator=generator,
    )
    with Crossings() as crossings:
        for loss in losses:
            loss.backward()
    return crossings


def plain_precision_recall(fake: Tensor, real: Tensor) -> tuple[float, float]:
    """What `precision_recall` gives, by distances that are taken pair by pair (no matrix product)."""

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")

    def covered(points: Tensor, centres: Tensor) -> float:
        radii = distances(centres, centres).kthvalue(NUM_NEIGHBOURS + 1, dim=1).values
        return float((distances(points, centres) <= radii).any(dim=1).double().mean())

    return covered(fake, real), covered(real, fake)


def measured_metric(pictures: int, features: int) -> tuple[float, float, bool]:
    """Seconds by matrix products and plainly, and whether both give the same scores."""
    generator = torch.Generator().manual_seed(0)
    fake, real = (torch.randn(pictures, features, generator=generator) * scale for scale in (0.98, 1.0))
    marks = [time.perf_counter()]
    quick = precision_recall(fake, real, seed=0)
    marks.append(time.perf_counter())
    plain = plain_precision_recall(fake, real)
    marks.append(time.perf_counter())
    product_s, plain_s = (after - before for before, after in pairwise(marks))
    return product_s, plain_s, quick == plain


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    modules, ours_ms, walk_ms = switching_ms(options.repeats)
    print(f"switching to the teacher and back, {modules:,} modules: {ours_ms:.2f} ms; diffusers' own {walk_ms:.0f} ms")
    crossed = micro_step()
    print(
        f"one data-free micro-step, {NFE} segments of {STATES} states: the host reads {len(crossed.reads)} times from "
        f"the device and sends {len(crossed.sends)} small tensors"
    )
    product_s, plain_s, same = measured_metric(options.pictures, options.features)
    print(
        f"precision and recall of {options.pictures:,} pictures, {options.features} features: {product_s:.2f} s by "
        f"products, {plain_s:.2f} s pair by pair, {plain_s / product_s:.1f}x; {'the same' if same else 'OTHER'} scores"
    )


if __name__ == "__main__":
    main()
