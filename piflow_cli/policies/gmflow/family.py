"""The GMFlow family (pi-Flow, section 3.2; GMFlow, arXiv 2504.05304): a Gaussian mixture over x_0 at every position.

Shapes: B batch, K components, C latent channels, S spatial dims.
"""

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.flow import noised_copies, single_or_double
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.core.schedule import Segments
from piflow_cli.core.settings import SamplingSettings, Settings
from piflow_cli.policies.gmflow.head import GMFlowHead
from piflow_cli.policies.gmflow.policy import GMFlowPolicy, mixture_policy


class GMFlow(Settings):
    """A mixture of K Gaussians over x_0 at every latent position; sampling sharpens it with a temperature."""

    type: Literal["gmflow"] = "gmflow"
    local_keys: ClassVar[tuple[str, ...]] = ("compiled",)
    sizes: ClassVar[tuple[str, tuple[int, ...]]] = ("num_components", (1, 4, 8))
    num_components: int = Field(8, ge=1, le=256, description="K, Gaussian components at every latent position")
    dropout: float = Field(0.05, ge=0, lt=1, description="probability of dropping a component of the detached policy")
    eps: float = Field(1e-6, gt=0, le=1e-2, description="floor of sigma inside the policy")
    logstd_inner_dim: int = Field(1024, ge=1, description="width of the hidden layer that predicts the log-std")
    constant_logstd: float | None = Field(None, description="fixed log-std instead of a predicted one")
    bias_noise: float = Field(0.05, ge=0, description="std of the noise that tells the initial components apart")
    initial_std: float = Field(0.05, gt=0, description="std of the components, in units of sigma_src, before training")
    compiled: bool = Field(False, description="run rollouts without gradient through torch.compile")

    @classmethod
    def derived_keys(cls, sampling: SamplingSettings) -> dict[str, float]:  # noqa: ARG003
        """None: a mixture serves any segments and any shift."""
        return {}

    def still(self) -> Self:
        """The settings without bias noise."""
        return self.model_copy(update={"bias_noise": 0.0})

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

    def first_output(self, velocity: Tensor, *, spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Every mean at the teacher's velocity (B, C, *S), equal weights, and components of `initial_std`."""
        means = noised_copies(velocity, self.num_components, spread=spread, generator=generator)
        weights = means.new_zeros(len(means), self.num_components, *means.shape[2:])
        logstd = math.log(self.initial_std) if self.constant_logstd is None else self.constant_logstd
        return torch.cat([means, weights], dim=1), means.new_full((len(means),), logstd)

    def check_sampling(self, *, segments: Segments, shift: float) -> None:
        """A mixture serves any segments and any shift."""
