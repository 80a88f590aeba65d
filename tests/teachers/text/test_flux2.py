"""FLUX.2: which pipelines are teachers, prompts in their chat templates, latents by the autoencoder's statistics."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_bases import tiny_flux2, tiny_flux2_dev
from torch import Tensor

from piflow_cli.engine.check.find import family_of, teacher_settings
from piflow_cli.errors import ModelError
from piflow_cli.teachers.flux2 import Flux2, Flux2Space, patchify

PIPELINES = {"klein": tiny_flux2, "dev": tiny_flux2_dev}
PROMPTS = ["a red cat", "blue dog on the house"]


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
