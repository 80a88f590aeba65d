"""The head of a mixture: means, log-weights and a log-std, in the place of the teacher's final projection.

Shapes: B batch, K components, C latent channels, P positions in a patch, N tokens, D network width.
"""

import math

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import PatchLayout


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
        weight, bias = self.layout.rows(projection, c)
        if self.layout.channels_last:  # rows (P, K, C)
            weight, bias = weight[:, None].expand(p, k, c, -1), bias[:, None] + noise
        else:  # rows (K, C, P)
            weight, bias = weight[None].expand(k, c, p, -1), bias[None] + noise[..., None]
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
