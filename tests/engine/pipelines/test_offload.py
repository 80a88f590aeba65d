"""diffusers' own ways to move, offload and compile: the latents stay the same, up to rounding.

Weights that block or leaf groups have offloaded to disk hold anything on a CPU, so that a module that is used outside
its group's time shows; other kinds of offloading need a GPU to show it.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_pipelines import FAMILIES, STYLES, latents, pipeline, style

from piflow_cli import load_pipeline
from piflow_cli.engine.pipelines.student import StudentPipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on", "ignore:Already found a `peft_config` attribute")

CPU = torch.device("cpu")
ATOL = 1e-3
"""Of latents."""


def check(family: str, enable: Callable[[StudentPipeline], object], *, device: str = "cpu") -> None:
    """The same latents, twice, and pictures, after `enable` as before."""
    plain = latents(pipeline(family, device=device), family)
    pipe = pipeline(family)
    enable(pipe)
    for _ in range(2):
        torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=ATOL)
    picture = pipe("a red cat", height=64, width=48, max_sequence_length=128, output_type="pt").images
    assert picture.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_model_offload(family: str) -> None:
    check(family, lambda pipe: pipe.enable_model_cpu_offload(device="cpu"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload(family: str, kind: str, tmp_path: Path) -> None:
    options = {"onload_device": CPU, "offload_device": CPU, "offload_type": kind, "num_blocks_per_group": 1}
    check(family, lambda pipe: pipe.enable_group_offload(**options))
    on_disk = options | {"offload_to_disk_path": str(tmp_path)}
    check(family, lambda pipe: pipe.transformer.enable_group_offload(**on_disk))


@pytest.mark.parametrize("family", FAMILIES)
def test_style_lora_and_offload_go_together(family: str, tmp_path: Path) -> None:
    pipe = pipeline(family)
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0), adapter_name="style")
    styled = latents(pipe, family)
    pipe.enable_model_cpu_offload(device="cpu")
    torch.testing.assert_close(latents(pipe, family), styled, rtol=0, atol=ATOL)
    pipe.remove_all_hooks()
    pipe.transformer.enable_group_offload(
        onload_device=CPU, offload_type="block_level", num_blocks_per_group=1, offload_to_disk_path=str(tmp_path)
    )
    torch.testing.assert_close(latents(pipe, family), styled, rtol=0, atol=ATOL)
    with pytest.raises(ValueError, match="fuse LoRA before it is enabled"):
        pipe.fuse_lora()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", ["wrapped", "in place"])
def test_compiled_transformer(family: str, place: str) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable:
        graphs.append(graph)
        return graph.forward

    plain = latents(pipeline(family), family)
    pipe = pipeline(family)
    if place == "wrapped":
        pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    else:
        pipe.transformer.compile(backend=backend)
    torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=ATOL)
    count = len(graphs)
    assert count > 0
    torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=ATOL)
    assert len(graphs) == count  # a call leaves nothing behind that would compile the next one anew
    torch._dynamo.reset()


def test_attention_backend_and_tiling() -> None:
    check("flux", lambda pipe: pipe.transformer.set_attention_backend("native"))
    check("flux", lambda pipe: pipe.vae.enable_tiling())


def test_moving_moves_every_part() -> None:
    pipe = load_pipeline("digits-1nfe").to(torch.float64)
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float64}
    pipe = pipeline("flux", torch_dtype=torch.bfloat16)
    assert pipe.to("cpu", torch.float32) is pipe
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu(family: str) -> None:
    cuda = torch.device("cuda")
    check(family, lambda pipe: pipe.to("cuda"), device="cuda")
    check(family, lambda pipe: pipe.enable_model_cpu_offload(), device="cuda")
    check(family, lambda pipe: pipe.enable_sequential_cpu_offload(), device="cuda")
    for kind in ("block_level", "leaf_level"):
        for use_stream in (False, True):
            options = {"onload_device": cuda, "offload_type": kind, "num_blocks_per_group": 1, "use_stream": use_stream}
            check(family, lambda pipe, options=options: pipe.enable_group_offload(**options), device="cuda")
