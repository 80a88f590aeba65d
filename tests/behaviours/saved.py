"""What is saved, loaded, copied and made into another pipeline."""

import copy
import inspect

import diffusers
import pytest
import torch
from tiny_pipelines import aligned

from behaviours.subject import (
    TEXT,
    Subject,
    behaviour,
    given_embeds,
    same,
)


@behaviour()
def saved_and_loaded_it_draws_the_same(it: Subject) -> None:
    pipe = it.make()
    pipe.save_pretrained(it.folder / "saved")
    same(it.call(aligned(type(pipe).from_pretrained(it.folder / "saved"))), it.call(pipe))


@behaviour()
def it_takes_the_older_way_of_saving(it: Subject) -> None:
    pipe = it.make()
    pipe.save_pretrained(it.folder / "old", safe_serialization=False)
    same(it.call(aligned(type(pipe).from_pretrained(it.folder / "old"))), it.call(pipe))


@behaviour(*TEXT)
def it_loads_a_variant(it: Subject) -> None:
    pipe, extra = it.make(), {"save_base": True} if it.student else {}
    pipe.save_pretrained(it.folder / "variant", variant="fp16", **extra)
    assert list((it.folder / "variant").rglob("vae/*.fp16.safetensors"))
    same(it.call(aligned(type(pipe).from_pretrained(it.folder / "variant", variant="fp16"))), it.call(pipe))
    with pytest.raises(Exception, match=r"fp32|bf16|variant"):
        type(pipe).from_pretrained(it.folder / "variant", variant="bf16")


@behaviour(*TEXT)
def it_loads_without_a_text_encoder(it: Subject) -> None:
    pipe = it.make()
    embeds = given_embeds(it, pipe)
    pipe.save_pretrained(it.folder / "light")
    again = aligned(type(pipe).from_pretrained(it.folder / "light", text_encoder=None, tokenizer=None))
    assert again.text_encoder is None
    same(it.call(again, prompt=None, **embeds), it.call(pipe))


@behaviour()
def dict_and_tuple_hold_the_same(it: Subject) -> None:
    pipe = it.make()
    assert torch.equal(torch.as_tensor(it.call(pipe, return_dict=False)), torch.as_tensor(it.call(pipe)))


@behaviour()
def components_make_another(it: Subject) -> None:
    pipe = it.make()
    assert set(pipe.components) <= set(inspect.signature(type(pipe).__init__).parameters)
    again = aligned(type(pipe)(**pipe.components))
    same(it.call(again), it.call(pipe))


@behaviour()
def a_copied_transformer_makes_another(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    again = aligned(type(pipe)(**(pipe.components | {"transformer": copy.deepcopy(pipe.transformer)})))
    for parameter in pipe.transformer.parameters():
        parameter.data.zero_()
    same(it.call(again), wanted)


@behaviour()
def from_pipe_of_its_own_class_is_the_same(it: Subject) -> None:
    pipe = it.make()
    again = aligned(type(pipe).from_pipe(pipe))
    assert set(again.components) == set(pipe.components)
    same(it.call(again), it.call(pipe))


@behaviour(*TEXT)
def from_pipe_makes_image_to_image(it: Subject) -> None:
    kind = diffusers.FluxImg2ImgPipeline if it.family == "flux" else diffusers.QwenImageImg2ImgPipeline
    assert isinstance(kind.from_pipe(it.make()), kind)


@behaviour(*TEXT)
def auto_pipelines_convert_it(it: Subject) -> None:
    assert diffusers.AutoPipelineForImage2Image.from_pipe(it.make()) is not None
