"""Plans of caches: embeddings and latents by hand, against what was published and what processors make of pictures."""

from pathlib import Path

import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from piflow_cli.engine.plan.plan import plan
from piflow_cli.engine.plan.report import report
from piflow_cli.errors import DataError
from piflow_cli.preset import load_preset


def test_the_data_free_recipes_say_the_published_cache() -> None:
    flux = plan(load_preset("flux-4nfe-datafree"), gpus=(8,)).embedding_cache
    assert flux.total_bytes == 768_128 * (512 * 4096 * 3 // 4 + 512 * 4 + 768 * 4)
    assert plan(load_preset("flux-4nfe"), gpus=(8,)).embedding_cache.total_bytes is None
    qwen = plan(load_preset("qwen-4nfe-datafree"), gpus=(8,)).embedding_cache
    assert qwen.total_bytes == 2_304_128 * (66 * 3584 * 3 // 4 + 66 * 4)
    assert plan(load_preset("digits-1nfe"), gpus=(1,)).embedding_cache is None


def test_what_an_encoder_sees_of_pictures_is_cached_twice() -> None:
    """In a prompt's embedding and in that of the negative one; the autoencoder's latents of a million pixels beside."""
    seen = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2)(Image.new("RGB", (384, 384)), return_tensors="pt")
    picture = int(seen.image_grid_thw.prod()) // 2**2 + len(["Picture", " ", "1", ":", " ", "start", "end"])
    cache = plan(load_preset("qwen-edit-4nfe-datafree"), gpus=(8,)).embedding_cache
    assert cache.tokens == 66 + picture + 6 + picture
    assert cache.reference_bytes == 16 * 128 * 128 * 2
    small = plan(load_preset("qwen-edit-4nfe-datafree", ["data.reference_size=512x512"]), gpus=(8,))
    assert small.embedding_cache.reference_bytes == cache.reference_bytes, "they are scaled up again, as by the base"
    wide = plan(load_preset("qwen-edit-4nfe-datafree", ["data.reference_size=512x1024"]), gpus=(8,))
    assert wide.facts.reference_tokens == (1440 // 16) * (736 // 16)
    klein = ["data.references=references", "data.reference_size=512x1024"]
    flux2 = plan(load_preset("flux2-klein-4nfe-datafree", klein), gpus=(8,))
    assert flux2.facts.reference_tokens == 32 * 64
    assert flux2.embedding_cache.tokens == 512, "whose encoder sees none"


def test_latents_are_counted(tmp_path: Path) -> None:
    """In float16: Wan's videos of 81 frames at 832x480 are 16 channels of 21 x 60 x 104 positions."""
    for i in range(3):
        (tmp_path / f"{i}.gif").write_bytes(b"GIF89a")
        (tmp_path / f"{i}.png").write_bytes(b"beside")
        (tmp_path / f"{i}.txt").write_text("a cat")
    wan = plan(load_preset("wan-4nfe", [f"data.path={tmp_path}"]), gpus=(8,))
    assert (wan.latent_cache.what, wan.latent_cache.used) == ("videos", True)
    assert wan.latent_cache.total_bytes == 3 * 16 * 21 * 60 * 104 * 2
    assert wan.embedding_cache.prompts == 3
    assert wan.to_dict()["latent_cache"]["item_bytes"] == 4_193_280
    assert plan(load_preset("wan22-5b-4nfe"), gpus=(8,)).latent_cache.item_bytes == 48 * 31 * 44 * 80 * 2
    assert ("in all", "12.6 MB = 3 videos") in [
        tuple(cell.strip() for cell in row) for section in report(wan) for row in section.rows if len(row) == 2
    ]
    qwen = plan(load_preset("qwen-4nfe"), gpus=(8,)).latent_cache
    assert (qwen.what, qwen.used, qwen.total_bytes, qwen.item_bytes) == ("pictures", False, None, 16 * 128 * 128 * 2)
    assert plan(load_preset("wan-4nfe-datafree"), gpus=(8,)).latent_cache is None


def test_prompts_that_are_here_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a" * 45 + "\n" + "b" * 135 + "\n", encoding="utf-8")
    changes = [f"data.path={path}", "data.limit=2", "data.cache_storage=bf16"]
    cache = plan(load_preset("qwen-4nfe-datafree", changes), gpus=(8,)).embedding_cache
    assert (cache.prompts, cache.tokens) == (2, 90 / 4.5 + 5)
    assert cache.total_bytes == 2 * (25 * 3584 * 2 * 3 // 4)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="no prompts"):
        plan(load_preset("qwen-4nfe-datafree", changes), gpus=(8,))
