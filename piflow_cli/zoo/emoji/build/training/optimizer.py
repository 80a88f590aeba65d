# Muon for the matrices of a network and AdamW for the rest, as one optimiser.

from collections.abc import Iterable

import torch
from torch import nn

from piflow_cli.zoo.emoji.build.training.schedule import Recipe

NEWTON_SCHULZ_STEPS = 3
"""Of the usual five: they are a third of a step's time on a CPU, and three leave only the weakest directions weaker."""
SMALLEST_SIDE = 8
"""A weight with a side below this, as of the first and last layers, is no matrix to orthogonalise."""


class MatrixOptimizer:
    """Muon for the weights that are matrices, AdamW for the rest.

    A convolution's kernel (out, in, h, w) is the matrix (out, in h w). torch's Muon takes matrices only, so it is given
    views of the kernels. Updates are scaled to AdamW's root mean square, hence rates of AdamW's size.

    Args:
        parameters: all of a network's, by name, contiguous.
        recipe: its rates and weight decay.
        excluded: parts of the names of matrices that are tables, such as embeddings; they get AdamW.

    Source: Muon, kellerjordan.github.io/posts/muon; the scaling, arXiv 2502.16982.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], recipe: Recipe, *, excluded: tuple[str, ...] = ()
    ) -> None:
        named = [(name, p) for name, p in parameters if p.requires_grad]
        matrices = [
            p
            for name, p in named
            if p.ndim in (2, 4) and min(p.shape[:2]) >= SMALLEST_SIDE and not any(part in name for part in excluded)
        ]
        taken = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in taken]
        self.views = [(nn.Parameter(p.data.flatten(1)), p) for p in matrices]
        self.rates = (recipe.muon_lr, recipe.adam_lr)
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                [view for view, _ in self.views],
                lr=recipe.muon_lr,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
                ns_steps=NEWTON_SCHULZ_STEPS,
            ),
            torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay),
        )

    def step(self, rate_factor: float) -> None:
        """Apply the gradients and drop them."""
        for view, parameter in self.views:
            view.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * rate_factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for _, parameter in self.views:
            parameter.grad = None

    def state_dict(self) -> list[dict]:
        """States of both."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        """Restore what `state_dict` gave."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
