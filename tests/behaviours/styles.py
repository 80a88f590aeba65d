"""Other LoRA, and image prompts."""

from tiny_pipelines import STYLES, style

from behaviours.subject import FLUX, TEXT, Subject, behaviour, same


@behaviour(*TEXT)
def style_is_loaded_scaled_and_unloaded(it: Subject) -> None:
    pipe = it.make()
    plain = it.call(pipe)
    pipe.load_lora_weights(style(pipe, STYLES[it.family]["shared"], seed=0), adapter_name="style")
    on = it.call(pipe)
    assert float((on - plain).abs().max()) > 1e-3
    same(it.call(pipe, **{it.attention(): {"scale": 0.0}}), plain)
    pipe.set_adapters("style", 0.5)
    assert float((it.call(pipe) - on).abs().max()) > 1e-4
    pipe.unload_lora_weights()
    same(it.call(pipe), plain)


@behaviour(*TEXT)
def style_is_switched_off_and_on(it: Subject) -> None:
    pipe = it.make()
    plain = it.call(pipe)
    pipe.load_lora_weights(style(pipe, STYLES[it.family]["beside"], seed=0), adapter_name="style")
    on = it.call(pipe)
    pipe.disable_lora()
    same(it.call(pipe), plain)
    pipe.enable_lora()
    same(it.call(pipe), on)


@behaviour(*TEXT)
def style_is_fused_and_unfused(it: Subject) -> None:
    pipe = it.make()
    pipe.load_lora_weights(style(pipe, STYLES[it.family]["beside"], seed=0), adapter_name="style")
    on = it.call(pipe)
    pipe.fuse_lora()
    assert pipe.num_fused_loras == 1
    same(it.call(pipe), on)
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    same(it.call(pipe), on)


@behaviour(*TEXT)
def style_is_swapped_while_compiled(it: Subject) -> None:
    it.make().enable_lora_hotswap(target_rank=8)


@behaviour(*FLUX)
def image_prompts_are_loaded(it: Subject) -> None:
    try:
        it.make().load_ip_adapter({}, weight_name="", image_encoder_pretrained_model_name_or_path=None)
    except ValueError as error:
        if "Required keys" not in str(error):  # what the base says to an adapter without weights: it would read one
            raise
