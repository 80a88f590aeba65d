"""Precisions, devices, memory and what else changes how a network runs."""

import diffusers
import pytest
import torch

from behaviours.subject import CPU, TEXT, Subject, behaviour, parts_of, same


@behaviour()
def it_runs_in_bfloat16(it: Subject) -> None:
    pipe = it.make().to(torch.bfloat16)
    assert {part.dtype for part in parts_of(pipe).values()} == {torch.bfloat16}
    assert torch.as_tensor(it.call(pipe)).isfinite().all()


@behaviour()
def it_runs_in_float16(it: Subject) -> None:
    pipe = it.make()
    wanted = torch.as_tensor(it.call(pipe)).float()
    found = torch.as_tensor(it.call(pipe.to(torch.float16))).float()
    assert found.isfinite().all()
    assert float((found - wanted).abs().mean()) < 0.1


@behaviour(*TEXT)
def dtypes_go_by_part(it: Subject) -> None:
    pipe = it.make()
    pipe.save_pretrained(it.folder / "parts")
    asked = {"default": torch.bfloat16, "vae": torch.float32}
    again = type(pipe).from_pretrained(it.folder / "parts", torch_dtype=asked)
    assert {name: part.dtype for name, part in parts_of(again).items()} == {
        name: asked.get(name, torch.bfloat16) for name in parts_of(again)
    }


@behaviour()
def it_moves_as_a_whole(it: Subject) -> None:
    pipe = it.make()
    assert pipe.to("meta") is pipe
    assert {part.device.type for part in parts_of(pipe).values()} == {"meta"}
    assert it.make().to(torch.float64).dtype == torch.float64
    assert it.make().device == CPU


@behaviour()
def attention_slicing_changes_nothing(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.enable_attention_slicing()
    same(it.call(pipe), wanted)
    pipe.disable_attention_slicing()
    same(it.call(pipe), wanted)


@behaviour()
def xformers_are_asked_for_where_they_are_not(it: Subject) -> None:
    with pytest.raises((ModuleNotFoundError, ValueError), match=r"xformers|memory.efficient"):
        it.make().enable_xformers_memory_efficient_attention()


@behaviour()
def models_are_offloaded(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    same(it.call(pipe), wanted)
    same(it.call(pipe), wanted)
    pipe.remove_all_hooks()
    same(it.call(pipe), wanted)


@behaviour()
def groups_are_offloaded(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.transformer.enable_group_offload(onload_device=CPU, offload_type="leaf_level")
    same(it.call(pipe), wanted)
    same(it.call(pipe), wanted)


@behaviour()
def weights_are_stored_in_eight_bits(it: Subject) -> None:
    pipe = it.make()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {p.dtype for p in pipe.transformer.parameters()}
    assert torch.float8_e4m3fn in stored
    assert torch.as_tensor(it.call(pipe)).isfinite().all()
    assert {p.dtype for p in pipe.transformer.parameters()} == stored


@behaviour(*TEXT)
def blocks_are_cached(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.0))
    same(it.call(pipe), wanted)
    pipe.transformer.disable_cache()
    same(it.call(pipe), wanted)


@behaviour()
def the_transformer_is_compiled(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    same(it.call(pipe), wanted)
    torch._dynamo.reset()


@behaviour()
def the_transformer_is_replaced(it: Subject) -> None:
    pipe = it.make()
    pipe.transformer = type(pipe.transformer).from_config(pipe.transformer.config)
    assert torch.as_tensor(it.call(pipe)).isfinite().all()


@behaviour(*TEXT)
def the_autoencoder_works_in_tiles(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    same(it.call(pipe), wanted, rtol=0, atol=0.02)


@behaviour(*TEXT)
def projections_are_fused(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.transformer.fuse_qkv_projections()
    same(it.call(pipe), wanted)
    pipe.transformer.unfuse_qkv_projections()
    same(it.call(pipe), wanted)
