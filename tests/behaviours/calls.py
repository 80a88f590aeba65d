"""What a call takes and gives."""

import inspect

import numpy as np
import pytest
import torch

from behaviours.subject import CPU, TEXT, Subject, behaviour, same, seed


@behaviour()
def optional_arguments_have_defaults(it: Subject) -> None:
    parameters = inspect.signature(type(it.make()).__call__).parameters
    wanted = {"num_inference_steps", "generator", "output_type", "return_dict", "guidance_scale"}
    wanted |= {"num_images_per_prompt", "latents", "prompt_embeds"} if it.family in TEXT else set()
    assert wanted <= {name for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


@behaviour()
def a_batch_is_as_many_pictures(it: Subject) -> None:
    texts = ("a red cat", "the blue dog on a house", "a " * 30)
    assert len(it.call(it.make(), **it.several(*texts), generator=[seed(i) for i in range(3)])) == 3


@behaviour()
def a_batch_draws_what_single_calls_do(it: Subject) -> None:
    pipe, texts = it.make(), ("a red cat", "the red house", "a red cat")
    batch = it.call(pipe, **it.several(*texts), generator=[seed(i) for i in range(3)])
    for i, text in enumerate(texts):
        same(batch[i : i + 1], it.call(pipe, **it.several(text), generator=[seed(i)]))


@behaviour()
def several_pictures_a_prompt(it: Subject) -> None:
    pipe = it.make()
    for prompts in (1, 2):
        call = it.several(*["a red cat"] * prompts)
        assert len(it.call(pipe, **call, num_images_per_prompt=2)) == 2 * prompts


@behaviour()
def one_generator_repeats(it: Subject) -> None:
    pipe = it.make()
    assert torch.equal(torch.as_tensor(it.call(pipe)), torch.as_tensor(it.call(pipe)))
    assert not torch.equal(torch.as_tensor(it.call(pipe)), torch.as_tensor(it.call(pipe, generator=seed(1))))


@behaviour()
def generators_are_as_many_as_pictures(it: Subject) -> None:
    with pytest.raises(ValueError, match="generators"):
        it.call(it.make(), generator=[seed(0), seed(1), seed(2)])


@behaviour(*TEXT)
def forms_of_pictures_agree(it: Subject) -> None:
    pipe = it.make()
    tensor, array = it.call(pipe), it.call(pipe, output_type="np")
    np.testing.assert_allclose(array, tensor.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    picture = it.call(pipe, output_type="pil")[0]
    np.testing.assert_array_equal(np.asarray(picture), (array[0] * 255).round().astype("uint8"))


@behaviour(*TEXT)
def latents_decode_outside(it: Subject) -> None:
    pipe = it.make().to(torch.bfloat16)
    latents = it.call(pipe, output_type="latent")
    assert latents.dtype == torch.bfloat16
    unpacked = pipe._unpack_latents(latents, 64, 48, pipe.vae_scale_factor)
    config = pipe.vae.config
    if it.family == "flux":
        picture = pipe.vae.decode(unpacked / config.scaling_factor + config.shift_factor).sample
    else:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        picture = pipe.vae.decode((unpacked * std + mean).to(latents.dtype)).sample[:, :, 0]
    same(pipe.image_processor.postprocess(picture, output_type="pt"), it.call(pipe), rtol=0, atol=0.03)


@behaviour(*TEXT)
def noise_can_be_given(it: Subject) -> None:
    pipe = it.make()
    channels = pipe.transformer.config.in_channels // 4
    noise = pipe.prepare_latents(1, channels, 64, 48, torch.float32, CPU, seed(0))
    noise = noise[0] if isinstance(noise, tuple) else noise
    same(it.call(pipe, latents=noise, generator=None), it.call(pipe))


@behaviour()
def progress_is_configured(it: Subject) -> None:
    pipe = it.make()
    pipe.set_progress_bar_config(disable=True)
    with pipe.progress_bar(total=1) as bar:
        assert bar.disable
