"""The student: the teacher's own module with its final projection replaced by a policy head.

Trained in full it is a copy; with an adapter it is the teacher's own module, whose frozen weights both share.

Shapes: B batch, C latent channels, S spatial dims.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from piflow_cli.core import adapter as adapters
from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.flow import beside
from piflow_cli.core.interfaces import Backbone, Condition, Policy, PolicyFamily
from piflow_cli.errors import ModelError


class Student(nn.Module):
    """A network whose one evaluation gives a policy.

    Args:
        module: a diffusers module with its teacher's projection still in place; it is changed, not copied.
        backbone: how to call it.
        family: the policy's settings.
        adapter: LoRA on the frozen module; None is every weight its own.

    Built so, the head is uninitialised: call `init_from_teacher`, or load weights.

    Raises:
        ModelError: an adapter on a family that has none.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        backbone: Backbone,
        family: PolicyFamily,
        adapter: AdapterSettings | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.family, self.adapter = backbone, family, adapter
        projection = backbone.projection(module)
        head = family.build_head(
            projection,
            latent_channels=backbone.latent_channels,
            embed_dim=backbone.embed_dim(module),
            layout=backbone.layout,
        )
        if adapter is not None:
            self._adapt(module, adapter)
            head = adapters.TwoSided(module.get_submodule(backbone.projection_name), head)
        channels = family.output_channels(backbone.latent_channels)
        backbone.replace_projection(module, head, output_channels=channels)
        self.module = module
        self._switch = adapters.TeacherSwitch(module)
        self._evaluates_teacher = False

    def _adapt(self, module: nn.Module, settings: AdapterSettings) -> None:
        """Freeze the module and put LoRA and copies beside what it has."""
        published = self.backbone.lora_targets(module)
        if not published and settings.targets is None:
            raise ModelError("students of this teacher family are trained in full; leave the [adapter] table out")
        module.requires_grad_(False)
        replaced = (*self.backbone.trained_modules, self.backbone.projection_name)
        adapters.add_lora(module, adapters.chosen_targets(module, settings, published, replaced=replaced), settings)
        adapters.split_sides(module, self.backbone.trained_modules)

    @property
    def head(self) -> nn.Module:
        """The policy head inside the module."""
        found = self.module.get_submodule(self.backbone.projection_name)
        return found.student if isinstance(found, adapters.TwoSided) else found

    @classmethod
    def from_teacher(
        cls,
        module: nn.Module,
        *,
        backbone: Backbone,
        family: PolicyFamily,
        generator: torch.Generator,
        adapter: AdapterSettings | None = None,
    ) -> "Student":
        """A student whose initial policy has the teacher's velocity at the source; `module` is changed."""
        projection = backbone.projection(module)
        student = cls(module, backbone=backbone, family=family, adapter=adapter)
        student.head.init_from_teacher(projection, generator=generator)
        if adapter is not None:
            student.init_lora(generator)
        return student

    @torch.no_grad()
    def init_lora(
        self, generator: torch.Generator, *, write: Callable[[Tensor, Tensor], object] = Tensor.copy_
    ) -> None:
        """Draw the LoRA factors A from the generator, uniform in +-1/sqrt(in_features); B is zero.

        Args:
            generator: source of the draws, in the order of the layers.
            write: (parameter, whole value) -> put there; parameters may be sharded.
        """
        for name, parameter in self.module.named_parameters():
            if parameter.is_meta:
                continue
            if f".lora_A.{adapters.ADAPTER}." in name:
                draw = torch.rand(parameter.shape, generator=generator, device=generator.device)
                write(parameter, (draw * 2 - 1) / parameter.shape[1] ** 0.5)
            elif f".lora_B.{adapters.ADAPTER}." in name:
                parameter.zero_()

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The weights that make the student, by the names they are stored under: all, or those beside the base."""
        if self.adapter is None:
            return dict(self.module.named_parameters())
        named = ((adapters.stored_name(name), p) for name, p in self.module.named_parameters())
        return {name: p for name, p in named if name is not None}

    def make_trainable(self) -> None:
        """Let gradients reach the student's own weights, in float32, and no others."""
        self.requires_grad_(False)
        for parameter in self.own_parameters().values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    @contextmanager
    def as_teacher(self) -> Iterator[None]:
        """Within the context an adapted student evaluates its teacher: forward returns the teacher's output and None.

        Raises:
            ModelError: the student has no adapter, so that the teacher is no longer in it.
        """
        if self.adapter is None:
            raise ModelError("a student trained in full does not hold its teacher")
        self._evaluates_teacher = True
        try:
            with self._switch.as_teacher():
                yield
        finally:
            self._evaluates_teacher = False

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """The network output (B, channels, *S) and what the head reads off the embedding; x (B, C, *S), sigma (B,)."""
        output = self.backbone.predict(self.module, x, sigma, condition)
        if self._evaluates_teacher:
            return output, None
        return output, self.head.extra(self.backbone.embed(self.module, sigma, condition))

    def policy(self, x: Tensor, sigma: Tensor, condition: Condition) -> Policy:
        """The policy made at the source x (B, C, *S), sigma (B,): one network evaluation."""
        return make_policy(self, self.family, x, sigma, condition)


def make_policy(network: nn.Module, family: PolicyFamily, x: Tensor, sigma: Tensor, condition: Condition) -> Policy:
    """The policy of one evaluation of `network`, which may be a Student or what a distributed wrapper made of it."""
    sigma = beside(sigma, x)
    output, extra = network(x, sigma, condition)
    return family.policy(output, extra, x, sigma)
