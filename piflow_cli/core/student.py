"""The student: the teacher's own module with its final projection replaced by a policy head.

Shapes: B batch, C latent channels, S spatial dims.
"""

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import Backbone, Condition, Policy, PolicyFamily


class Student(nn.Module):
    """A network whose one evaluation gives a policy.

    Args:
        module: a diffusers module with its teacher's projection still in place; it is changed, not copied.
        backbone: how to call it.
        family: the policy's settings.

    Built so, the head is uninitialised: call `init_from_teacher`, or load weights.
    """

    def __init__(self, module: nn.Module, *, backbone: Backbone, family: PolicyFamily) -> None:
        super().__init__()
        self.backbone, self.family = backbone, family
        projection = backbone.projection(module)
        head = family.build_head(
            projection,
            latent_channels=backbone.latent_channels,
            embed_dim=backbone.embed_dim(module),
            layout=backbone.layout,
        )
        channels = family.output_channels(backbone.latent_channels)
        backbone.replace_projection(module, head, output_channels=channels)
        self.module = module

    @property
    def head(self) -> nn.Module:
        """The policy head inside the module."""
        return self.module.get_submodule(self.backbone.projection_name)

    @classmethod
    def from_teacher(
        cls, module: nn.Module, *, backbone: Backbone, family: PolicyFamily, generator: torch.Generator
    ) -> "Student":
        """A student whose initial policy has the teacher's velocity at the source; `module` is changed."""
        projection = backbone.projection(module)
        student = cls(module, backbone=backbone, family=family)
        student.head.init_from_teacher(projection, generator=generator)
        return student

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """The network output (B, channels, *S) and what the head reads off the embedding; x (B, C, *S), sigma (B,)."""
        output = self.backbone.predict(self.module, x, sigma, condition)
        return output, self.head.extra(self.backbone.embed(self.module, sigma, condition))

    def policy(self, x: Tensor, sigma: Tensor, condition: Condition) -> Policy:
        """The policy made at the source x (B, C, *S), sigma (B,): one network evaluation."""
        return make_policy(self, self.family, x, sigma, condition)


def make_policy(network: nn.Module, family: PolicyFamily, x: Tensor, sigma: Tensor, condition: Condition) -> Policy:
    """The policy of one evaluation of `network`, which may be a Student or what a distributed wrapper made of it."""
    output, extra = network(x, sigma, condition)
    return family.policy(output, extra, x, sigma)
