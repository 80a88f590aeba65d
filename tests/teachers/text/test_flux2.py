"""FLUX.2: which pipelines are teachers, prompts in their chat templates, latents by the autoencoder's statistics."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_bases import tiny_flux2, tiny_flux2_dev
from torch import Tensor

from piflow_cli.engine.check.find import family_of, teacher_settings
from piflow_cli.errors import ModelError
from piflow_cli.teachers.flux2.backbone import patchify
from piflow_cli.teachers.flux2.family import Flux2
from piflow_cli.teachers.flux2.space import Flux2Space

PIPELINES = {"klein": tiny_flux2, "dev": tiny_flux2_dev}
PROMPTS = ["a red cat", "blue dog on the house"]
ORIGINAL = {
    "single_transformer_blocks": "single_blocks",
    "transformer_blocks": "double_blocks",
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_out": "linear2",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "_modulation_img.linear": "_modulation_img.lin",
    "_modulation_txt.linear": "_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "proj_out": "final_layer.linear",
}
"""Parts of names, diffusers' and as published; norms of single blocks and of pictures are told apart in code."""


@pytest.fixture(scope="module", params=PIPELINES)
def space(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Flux2Space:
    return PIPELINES[request.param](tmp_path_factory.mktemp("flux2") / "base").load_space()


@pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES)
def test_the_index_says_the_family(tmp_path: Path, make: Callable[..., Flux2]) -> None:
    source = make(tmp_path / "base").source
    assert family_of(source) == "flux2"
    assert isinstance(teacher_settings(source), Flux2)


def test_a_distilled_klein_is_no_teacher(tmp_path: Path) -> None:
    settings = tiny_flux2(tmp_path / "base")
    index = tmp_path / "base" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"is_distilled": True}))
    with pytest.raises(ModelError, match=r"no teacher: it was distilled to a few steps itself.*klein-base-4B"):
        settings.check_source()
    with pytest.raises(ModelError, match="distilled"):
        settings.load()


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    settings = tiny_flux2(tmp_path / "base")
    (tmp_path / "base" / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"has no chat template \(chat_template\.jinja"):
        settings.load_space()
    settings.load_space(encoders=False)


def test_prompts_are_as_long_as_their_chats(space: Flux2Space) -> None:
    """Counted where the encoder gets them: what is no padding."""
    masks: list[Tensor] = []

    def note(_module: object, _args: object, arguments: dict[str, Tensor]) -> None:
        masks.append(arguments["attention_mask"])

    handle = space.pipeline.text_encoder.register_forward_pre_hook(note, with_kwargs=True)
    condition = space.encode_prompts(PROMPTS)
    handle.remove()
    assert masks[0].sum(dim=1).tolist() == space.prompt_lengths(PROMPTS)
    assert masks[0].shape[1] == condition.embeds.shape[1] == space.max_tokens
    assert space.dropped_tokens(PROMPTS) == [0, 0]
    assert space.dropped_tokens(["the cat " * 200])[0] > 0
    assert not torch.equal(*condition.embeds)


def test_what_is_decoded_has_the_statistics_of_the_autoencoder(space: Flux2Space) -> None:
    """As torch's batch normalisation takes them off again."""
    vae, decoded = space.pipeline.vae, []
    latents = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    handle = vae.post_quant_conv.register_forward_pre_hook(lambda _module, args: decoded.append(args[0]))
    space.decode(latents)
    handle.remove()
    torch.testing.assert_close(vae.bn(patchify(decoded[0])), patchify(latents))


def test_a_file_in_the_original_names_is_the_folder(tmp_path: Path) -> None:
    settings = tiny_flux2_dev(tmp_path / "base")
    folder = settings.load(encoders=False).module
    save_file(original_names(folder.state_dict()), tmp_path / "flux2.safetensors")
    file = settings.model_copy(update={"transformer": str(tmp_path / "flux2.safetensors")}).load(encoders=False).module
    for name, tensor in folder.state_dict().items():
        assert torch.equal(file.state_dict()[name], tensor), name


def original_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's weights as they were published beside diffusers': q, k and v in one, shift before scale."""
    left, found = dict(weights), {}
    for name in [name for name in weights if name.endswith((".attn.to_q.weight", ".attn.add_q_proj.weight"))]:
        side, parts = ("img", "to_{}") if "to_q" in name else ("txt", "add_{}_proj")
        block = name.split(".")[1]
        names = [f"transformer_blocks.{block}.attn.{parts.format(kind)}.weight" for kind in "qkv"]
        found[f"double_blocks.{block}.{side}_attn.qkv.weight"] = torch.cat([left.pop(part) for part in names])
    scale, shift = left.pop("norm_out.linear.weight").chunk(2)
    found["final_layer.adaLN_modulation.1.weight"] = torch.cat([shift, scale])
    for name, tensor in left.items():
        norm = "norm." if name.startswith("single") else "img_attn.norm."
        for kind, word in (("q", "query"), ("k", "key")):
            name = name.replace(f"attn.norm_{kind}.weight", f"{norm}{word}_norm.scale")
        for ours, theirs in ORIGINAL.items():
            name = name.replace(ours, theirs)
        found[name] = tensor
    return {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in found.items()}


def test_published_sizes_of_encoders_and_autoencoder() -> None:
    from diffusers import AutoencoderKLFlux2
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    shared = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    qwen = {"vocab_size": 151_936, "num_hidden_layers": 36} | shared
    mistral = MistralConfig(
        vocab_size=131_072, hidden_size=5120, intermediate_size=32_768, num_hidden_layers=40, **shared
    )
    vision = {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision |= {"patch_size": 14}
    with torch.device("meta"):
        modules = {
            "FLUX.2-klein-base-4B": Qwen3ForCausalLM(
                Qwen3Config(hidden_size=2560, intermediate_size=9728, tie_word_embeddings=True, **qwen)
            ),
            "FLUX.2-klein-base-9B": Qwen3ForCausalLM(
                Qwen3Config(hidden_size=4096, intermediate_size=12_288, tie_word_embeddings=False, **qwen)
            ),
            "FLUX.2-dev": Mistral3ForConditionalGeneration(
                Mistral3Config(text_config=mistral, vision_config=vision, tie_word_embeddings=False)
            ),
        }
        autoencoder = AutoencoderKLFlux2()
    for architecture, module in modules.items():
        parts = Flux2(source="none/none", architecture=architecture).pipeline_parts()
        assert [part.parameters for part in parts] == [
            sum(parameter.numel() for parameter in part.parameters()) for part in (module, autoencoder)
        ]


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("FLUX.2-klein-base-4B", 3_875_544_576),
        ("FLUX.2-klein-base-9B", 9_078_581_248),
        ("FLUX.2-dev", 32_223_281_152),
    ],
)
def test_architectures(architecture: str, parameters: int) -> None:
    module, backbone = Flux2(source="none/none", architecture=architecture).describe()
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert backbone.latent_channels == 32
