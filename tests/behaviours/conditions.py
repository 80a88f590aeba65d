"""Callbacks, embeddings, negative prompts, guidance and sizes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from behaviours.subject import FLUX, TEXT, Subject, behaviour, given_embeds, same


@behaviour(*TEXT)
def callbacks_see_and_change_latents(it: Subject) -> None:
    pipe, steps = it.make(), []

    def blank(_: Any, i: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        assert set(given) <= set(pipe._callback_tensor_inputs)
        steps.append(i)
        last = i == pipe.num_timesteps - 1
        return given | ({"latents": torch.zeros_like(given["latents"])} if last else {})

    names = list(pipe._callback_tensor_inputs)
    found = it.call(pipe, callback_on_step_end=blank, callback_on_step_end_tensor_inputs=names, output_type="latent")
    assert steps == [0, 1]
    assert float(found.abs().sum()) == 0


@behaviour(*TEXT)
def callbacks_see_what_is_offered_alone(it: Subject) -> None:
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        it.call(it.make(), callback_on_step_end=lambda *_: {}, callback_on_step_end_tensor_inputs=["noise_pred"])


@behaviour(*TEXT)
def callbacks_interrupt(it: Subject) -> None:
    pipe, seen = it.make(), []

    def stop(called: Any, _: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        called._interrupt = True
        seen.append(given["latents"])
        return given

    found = it.call(pipe, callback_on_step_end=stop, output_type="latent")
    assert len(seen) == 1
    assert torch.equal(found, seen[0])


@behaviour(*TEXT)
def embeddings_in_place_of_prompts(it: Subject) -> None:
    pipe = it.make()
    same(it.call(pipe, prompt=None, **given_embeds(it, pipe)), it.call(pipe))


@behaviour(*TEXT)
def prompts_are_encoded_the_same_each_time(it: Subject) -> None:
    pipe = it.make()
    first = given_embeds(it, pipe)
    it.call(pipe)
    second = given_embeds(it, pipe)
    assert all(torch.equal(first[name], second[name]) for name in first)


@behaviour(*FLUX)
def a_second_prompt_acts(it: Subject) -> None:
    pipe = it.make()
    assert not torch.equal(it.call(pipe, prompt_2="the blue dog"), it.call(pipe))


@behaviour(*TEXT)
def negative_prompts_double_the_evaluations(it: Subject) -> None:
    pipe, counted = it.make(), []
    pipe.transformer.register_forward_hook(lambda *_: counted.append(1))
    it.call(pipe, true_cfg_scale=1.0)
    plain = len(counted)
    it.call(pipe, negative_prompt="the blue dog", true_cfg_scale=3.0)
    assert len(counted) == 3 * plain


@behaviour(*TEXT)
def negative_embeddings_guide(it: Subject) -> None:
    pipe = it.make()
    given = given_embeds(it, pipe)
    negative = {f"negative_{name}": -2 * t if t.is_floating_point() else t for name, t in given.items()}
    guided = it.call(pipe, prompt=None, **given, **negative, true_cfg_scale=3.0)
    assert float((guided - it.call(pipe, true_cfg_scale=1.0)).abs().max()) > 1e-4


@behaviour(*TEXT)
def a_prompt_and_its_embeddings_are_too_much(it: Subject) -> None:
    pipe = it.make()
    with pytest.raises(ValueError, match="Cannot forward both"):
        it.call(pipe, **given_embeds(it, pipe))


@behaviour(*TEXT)
def sizes_are_cut_to_what_divides(it: Subject) -> None:
    assert it.call(it.make(), height=79, width=50).shape[-2:] == (64, 48)


@behaviour()
def it_takes_a_guidance_scale(it: Subject) -> None:
    assert torch.as_tensor(it.call(it.make(), guidance_scale=2.0)).isfinite().all()


@behaviour(*TEXT)
def it_takes_sigmas(it: Subject) -> None:
    assert it.call(it.make(), sigmas=[1.0, 0.5]).isfinite().all()


@behaviour(*TEXT)
def attention_takes_arguments(it: Subject) -> None:
    pipe = it.make()
    same(it.call(pipe, **{it.attention(): {"scale": 1.0}}), it.call(pipe))
