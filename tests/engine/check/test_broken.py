"""Families that are wrong in one thing each: a check finds it, and says what it probably is."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch
from tiny_models import tiny_flux, tiny_qwen
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.engine.check import check as checks
from piflow_cli.engine.check.networks import check_gradient, check_lora, check_student
from piflow_cli.engine.check.pictures import check_decoding, check_pictures
from piflow_cli.engine.check.projection import check_embedding, check_projection
from piflow_cli.engine.check.storing import check_other_base
from piflow_cli.engine.check.subject import Finding, Subject
from piflow_cli.engine.check.walks import (
    check_arguments,
    check_guidance,
    check_padding,
    check_time,
    check_velocity,
    check_walk,
)
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.teachers.flux import Flux, FluxBackbone, FluxSpace
from piflow_cli.teachers.qwen_image import QwenImage, QwenImageBackbone, QwenImageSpace
from piflow_cli.teachers.text.teacher import TextTeacher
from piflow_cli.teachers.text.tokens import BackboneClass

Measure = Callable[[Subject], Finding]


def student(subject: Subject) -> Finding:
    return check_student(subject, GMFlow(num_components=2, logstd_inner_dim=4))


def gradient(subject: Subject) -> Finding:
    return check_gradient(subject, GMFlow(num_components=2, logstd_inner_dim=4))


def walk(subject: Subject) -> Finding:
    return check_walk(subject, guided=False)


class OtherSign(FluxBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return -super().predict(module, x, sigma, condition)


class TwiceAsFast(FluxBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return 2 * super().predict(module, x, sigma, condition)


class GivesData(FluxBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return x - sigma.view(-1, 1, 1, 1) * super().predict(module, x, sigma, condition)


class GivesNoise(FluxBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return x + (1 - sigma.view(-1, 1, 1, 1)) * super().predict(module, x, sigma, condition)


class ThousandTimes(FluxBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return super().predict(module, x, 1000 * sigma, condition)


class OtherWay(FluxBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return super().predict(module, x, 1 - sigma, condition)


class ColumnsFirst(FluxBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return super().predict(module, x.mT, sigma, condition).mT


class ChannelsLast(FluxBackbone):
    layout = PatchLayout(sides=(2, 2), channels_last=True)


class PatchOfOne(FluxBackbone):
    layout = PatchLayout(sides=(1, 1), channels_last=False)


class NoSuchProjection(FluxBackbone):
    projection_name = "final_layer.linear"


class TimeOfItsOwn(FluxBackbone):
    def embed(self, module: nn.Module, sigma: Tensor, condition: Any) -> Tensor:
        return super().embed(module, sigma / 1000, condition)


class WithoutGraph(FluxBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return super().predict(module, x, sigma, condition).detach().requires_grad_()


class KeepsItsProjection(FluxBackbone):
    def replace_projection(self, module: nn.Module, head: nn.Module, *, output_channels: int) -> None:
        """Nothing."""


class TargetsOfAnother(FluxBackbone):
    def lora_targets(self, module: nn.Module) -> list[str]:
        return [*super().lora_targets(module), "layers.0.mlp"]


class TargetsWhatGoes(FluxBackbone):
    def lora_targets(self, module: nn.Module) -> list[str]:
        return [*super().lora_targets(module), "norm_out.linear"]


class WithoutMask(QwenImageBackbone):
    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return super().predict(module, x, sigma, TextCondition(condition.embeds))


class TargetsNobodyReads(QwenImageBackbone):
    def lora_targets(self, module: nn.Module) -> list[str]:
        last = len(module.transformer_blocks) - 1
        return [*super().lora_targets(module), f"transformer_blocks.{last}.txt_mlp.net.2"]


class CountsFromZero(QwenImageSpace):
    def base_guidance(self, scale: float) -> dict[str, Any]:
        return {"true_cfg_scale": scale + 1 if scale != 1 else 1}


class CutsTooEarly(QwenImageSpace):
    def embed(
        self, prompts: list[str], *, length: int, others: Mapping[str, list[str]] = MappingProxyType({})
    ) -> TextCondition:
        whole = super().embed(prompts, length=length, others=others)
        return whole if len(prompts) > 1 else TextCondition(whole.embeds[:, :-1])


class NoShift(FluxSpace):
    def to_pixels(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]


class NoScale(FluxSpace):
    def to_latents(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().to_latents(pixels, generator) / self.pipeline.vae.config.scaling_factor


def flux(backbone: type[FluxBackbone] = FluxBackbone, space: type[FluxSpace] = FluxSpace) -> Flux:
    class Broken(Flux):
        backbone_class: ClassVar[BackboneClass] = backbone
        space_class: ClassVar[Callable[..., FluxSpace]] = space

    return Broken.model_validate(tiny_flux().model_dump())


def qwen(
    backbone: type[QwenImageBackbone] = QwenImageBackbone, space: type[QwenImageSpace] = QwenImageSpace
) -> QwenImage:
    class Broken(QwenImage):
        backbone_class: ClassVar[BackboneClass] = backbone
        space_class: ClassVar[Callable[..., QwenImageSpace]] = space

    return Broken.model_validate(tiny_qwen().model_dump())


class TakesAnyBase(Flux):
    def check_base(self, network: dict[str, Any], teacher: TextTeacher) -> None:
        """Nothing."""


BROKEN = {
    "other sign": (flux(OtherSign), check_velocity, "the velocity has the other sign"),
    "twice as fast": (flux(TwiceAsFast), check_velocity, "the velocity is 2 times the base's"),
    "x_0": (flux(GivesData), check_velocity, "what comes out is x_0, not a velocity"),
    "noise": (flux(GivesNoise), check_velocity, "what comes out is the noise, not a velocity"),
    "1000 times": (
        flux(ThousandTimes),
        check_time,
        "time is 1000 times as large: the network gets 1000 sigma, from the base sigma",
    ),
    "other way": (
        flux(OtherWay),
        check_time,
        "time runs the other way: the network gets (1 - sigma), from the base sigma",
    ),
    "columns first": (flux(ColumnsFirst), check_arguments, "the network is called otherwise: hidden_states differs by"),
    "columns first, walked": (flux(ColumnsFirst), walk, "4 Euler steps end"),
    "channels last": (
        flux(ChannelsLast),
        check_projection,
        "its tokens are not channels last: channels_last is False",
    ),
    "patch of one": (
        flux(PatchOfOne),
        check_projection,
        "proj_out gives 16 features a token, but 4 latent channels in patches of 1 make 4",
    ),
    "no such projection": (
        flux(NoSuchProjection),
        check_projection,
        "the module has no final_layer.linear; its last linear layer is proj_out",
    ),
    "time of its own": (flux(TimeOfItsOwn), check_embedding, "what embed gives: is its time scaled?"),
    "without graph": (flux(WithoutGraph), gradient, "none goes into the network: is its output cut from the graph?"),
    "keeps its projection": (flux(KeepsItsProjection), student, "leaves the teacher's projection where it was"),
    "no such target": (flux(TargetsOfAnother), check_lora, "layers.0.mlp is no linear layer of the module"),
    "target that goes": (flux(TargetsWhatGoes), check_lora, "norm_out.linear is in what students replace"),
    "any base": (
        TakesAnyBase.model_validate(tiny_flux().model_dump()),
        check_other_base,
        "was taken: does check_base compare configs?",
    ),
    "without mask": (qwen(WithoutMask), check_arguments, "encoder_hidden_states_mask is None, the base's a tensor"),
    "without mask, padded": (qwen(WithoutMask), check_padding, "beside a longer prompt; is its mask passed on?"),
    "counts from zero": (qwen(space=CountsFromZero), check_guidance, "does its scale count from 0?"),
    "cuts too early": (qwen(space=CutsTooEarly), check_padding, "a prompt's velocity changes by"),
    "idle targets": (
        qwen(TargetsNobodyReads),
        gradient,
        "none reaches LoRA on transformer_blocks.1.txt_mlp.net.2: nothing reads what it gives",
    ),
    "no shift": (
        flux(space=NoShift),
        check_pictures,
        "decoding does not undo encoding: latents come back times 1, plus",
    ),
    "no shift, compared": (flux(space=NoShift), check_decoding, "beside those of the base's pipeline"),
    "no scale": (flux(space=NoScale), check_pictures, "decoding does not undo encoding: latents come back times"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_found_and_named(name: str) -> None:
    settings, measure, said = BROKEN[name]
    finding = measure(Subject(settings, settings.load()))
    assert finding.passed is False, finding
    assert re.search(re.escape(said), finding.said), finding.said


def test_what_a_family_raises_is_a_finding() -> None:
    class Raises(FluxBackbone):
        def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
            raise ValueError("no such argument")

    result = checks.check_teacher(flux(Raises))
    assert not result.passed
    found = {finding.name: finding for finding in result.failures}
    assert found["time"].said == "ValueError: no such argument"
    assert "lora" not in found
