"""What tests of styles (other LoRA) ask of a student's pipeline."""

from peft.tuners.lora import LoraLayer
from tiny_pipelines import STYLES, style
from torch import Tensor

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.student import StudentPipeline

KINDS = ("beside", "shared")


def load_both(pipe: StudentPipeline, family: str) -> None:
    for seed, kind in enumerate(KINDS):
        pipe.load_lora_weights(style(pipe, STYLES[family][kind], seed=seed), adapter_name=kind)


def own_lora_acts(pipe: StudentPipeline) -> bool:
    layers = [p for p in pipe.transformer.modules() if isinstance(p, LoraLayer) and ADAPTER in p.lora_A]
    return bool(layers) and all(
        ADAPTER in layer.active_adapters
        and layer.scaling[ADAPTER] == 1
        and not layer.disable_adapters
        and not layer.merged
        for layer in layers
    )


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def layers_of(pipe: StudentPipeline) -> list[tuple[str, LoraLayer]]:
    return [(name, part) for name, part in pipe.transformer.named_modules() if isinstance(part, LoraLayer)]
