"""The autoencoder and the teacher train, stop, go on as if they had not stopped, and become ordinary folders."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from safetensors.torch import load_file
from torch import nn

from piflow_cli.errors import DataError, StorageError
from piflow_cli.zoo.emoji.build import __main__ as build_emoji
from piflow_cli.zoo.emoji.build import latents as emoji_latents
from piflow_cli.zoo.emoji.build import teacher as emoji_teacher
from piflow_cli.zoo.emoji.build import vae as emoji_vae
from piflow_cli.zoo.emoji.build.data.captions import wording_of
from piflow_cli.zoo.emoji.build.data.pictures import Emoji, Pictures
from piflow_cli.zoo.emoji.build.data.prompts import PROMPTS
from piflow_cli.zoo.emoji.build.data.text import NUM_TOKENS
from piflow_cli.zoo.emoji.build.latents import cached_latents, load_vae
from piflow_cli.zoo.emoji.build.teacher import TeacherTask, train_teacher
from piflow_cli.zoo.emoji.build.training import loop as emoji_training
from piflow_cli.zoo.emoji.build.training.loop import Habits
from piflow_cli.zoo.emoji.build.training.optimizer import MatrixOptimizer
from piflow_cli.zoo.emoji.build.training.schedule import Budget, Progress, Recipe
from piflow_cli.zoo.emoji.build.vae import VaeTask, psnr_of, to_signed, train_vae

CPU = torch.device("cpu")
RECIPE = Recipe(muon_lr=3e-3, adam_lr=1e-3, seed=0, batch_size=2, warmup_steps=2, decay_share=0.5)
QUIET = Habits(line_s=1e9, judge_s=1e9, save_s=1e9)
CHANNELS = (8, 16)
BLOCKS = (1, 1)


@pytest.fixture(autouse=True)
def _quick_judging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji_teacher, "JUDGED_PICTURES", 4)
    monkeypatch.setattr(emoji_teacher, "PROMPTS", ("a cat", "a dog"))
    monkeypatch.setattr(emoji_teacher, "DRAWN_STEPS", 1)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    names = ("cat face", "red heart", "woman astronaut: dark skin tone", "flag: France", "pizza", "hot dog")
    emoji = tuple(
        Emoji(key=str(i), base=str(i), label=n, tags=("x",), group="g", subgroup="") for i, n in enumerate(names)
    )
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    held_out = torch.tensor([False] * 5 + [True])
    return Pictures(images=images, emoji=emoji, style=torch.arange(6) % 3, held_out=held_out)


@pytest.fixture(scope="module")
def with_vae(pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    assert vae_run(pictures, work, Budget(steps=2)) is not None
    return work


def vae_run(pictures: Pictures, work: Path, budget: Budget, **changes) -> Path | None:
    options = {"recipe": RECIPE, "habits": QUIET, "channels": CHANNELS} | changes
    return train_vae(pictures, work, budget=budget, device=CPU, **options)


def teacher_run(pictures: Pictures, work: Path, budget: Budget) -> Path | None:
    return train_teacher(pictures, work, budget=budget, device=CPU, recipe=RECIPE, habits=QUIET, blocks=BLOCKS)


def network_of(run_folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run_folder / "checkpoint.pt", weights_only=True)
    return state["network"] | {f"ema.{name}": value for name, value in state["ema"].items()}


def stop_at(monkeypatch: pytest.MonkeyPatch, task: type, call: int) -> None:
    """Let the step number `call` (from 1) of the next training be the last, as SIGTERM would."""
    plain, calls = task.loss, []

    def loss(self, generator):
        calls.append(None)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, generator)

    monkeypatch.setattr(task, "loss", loss)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_interrupted_autoencoder_equals_the_uninterrupted(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(steps=4)
    folder = vae_run(pictures, tmp_path / "whole", budget)
    with monkeypatch.context() as patched:
        stop_at(patched, VaeTask, 3)
        assert vae_run(pictures, tmp_path / "parts", budget) is None
    assert vae_run(pictures, tmp_path / "parts", budget) is not None
    assert_same(network_of(tmp_path / "whole" / "vae"), network_of(tmp_path / "parts" / "vae"))
    vae = AutoencoderKL.from_pretrained(folder)
    assert vae.config.scaling_factor > 0
    posterior = vae.encode(to_signed(pictures.images[:5])).latent_dist
    latents = (posterior.mean - vae.config.shift_factor) * vae.config.scaling_factor
    total = latents.var() + (posterior.std * vae.config.scaling_factor).square().mean()
    assert total.item() == pytest.approx(1, abs=0.02)
    result = json.loads((tmp_path / "whole" / "vae" / "result.json").read_text())
    assert result["step"] == 4
    assert (tmp_path / "whole" / "vae" / "previews" / "00000004.png").exists()
    assert "psnr" in (tmp_path / "whole" / "vae" / "metrics.jsonl").read_text()


def test_a_longer_budget_goes_on_from_before_the_decay(pictures: Pictures, tmp_path: Path) -> None:
    vae_run(pictures, tmp_path / "grown", Budget(steps=3))
    vae_run(pictures, tmp_path / "grown", Budget(steps=6))
    vae_run(pictures, tmp_path / "whole", Budget(steps=6))
    assert_same(network_of(tmp_path / "whole" / "vae"), network_of(tmp_path / "grown" / "vae"))


def test_another_recipe_is_refused(pictures: Pictures, with_vae: Path) -> None:
    with pytest.raises(StorageError, match="another recipe"):
        vae_run(pictures, with_vae, Budget(steps=2), recipe=Recipe(muon_lr=1.0, adam_lr=1e-3, seed=0, batch_size=2))


def test_interrupted_teacher_equals_the_uninterrupted(
    pictures: Pictures, with_vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(steps=3)
    teacher_run(pictures, with_vae, budget)
    whole = network_of(with_vae / "teacher")
    (with_vae / "teacher" / "checkpoint.pt").unlink()
    with monkeypatch.context() as patched:
        stop_at(patched, TeacherTask, 2)
        assert teacher_run(pictures, with_vae, budget) is None
    folder = teacher_run(pictures, with_vae, budget)
    assert folder is not None
    assert_same(whole, network_of(with_vae / "teacher"))
    monkeypatch.setattr(emoji_teacher, "load_vae", lambda work: (load_vae(work)[0], "another"))
    with pytest.raises(StorageError, match="autoencoder another"):
        teacher_run(pictures, with_vae, budget)


def test_teacher_is_an_ordinary_pipeline(pictures: Pictures, with_vae: Path) -> None:
    folder = teacher_run(pictures, with_vae, Budget(steps=3))
    assert folder is not None
    pipeline = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 2, "max_sequence_length": NUM_TOKENS, "height": 16, "width": 16}
    output = pipeline("A purple cat", negative_prompt="", true_cfg_scale=3.0, output_type="pt", **arguments).images
    assert output.shape == (1, 3, 16, 16)
    assert output.isfinite().all()
    stored = {p.suffix for p in folder.rglob("*") if p.is_file()}
    assert stored <= {".json", ".safetensors"}, "nothing pickled"
    weights = [load_file(path) for path in folder.rglob("*.safetensors")]
    assert {value.dtype for tensors in weights for value in tensors.values()} == {torch.float16}


def test_conditions_and_velocity_are_the_pipelines(pictures: Pictures, with_vae: Path) -> None:
    vae, vae_hash = load_vae(with_vae)
    latents = cached_latents(vae, vae_hash, pictures.images, with_vae / "teacher" / "latents.safetensors")
    wordings = [wording_of(emoji) for emoji in pictures.emoji]
    torch.manual_seed(0)
    task = TeacherTask(pictures, wordings, vae, latents, batch_size=2, device=CPU, blocks=BLOCKS)
    task.network.eval()
    pipeline = FluxPipeline(
        scheduler=None,
        vae=vae,
        tokenizer=task.clip_tokenizer,
        tokenizer_2=task.t5_tokenizer,
        **dict(task.network.items()),
    )
    with torch.no_grad():
        condition = task.condition(["a cat face", ""])
        embeds, pooled, _ = pipeline.encode_prompt(["a cat face", ""], None, max_sequence_length=NUM_TOKENS)
    assert torch.equal(condition.embeds, embeds)
    assert torch.equal(condition.pooled, pooled)
    u = task.velocity(torch.randn(2, *task.mean.shape[1:]), torch.tensor([0.2, 0.8]), condition)
    assert u.eq(0).all(), "the network begins at zero"


def test_latents_are_made_once_for_an_autoencoder(
    pictures: Pictures, with_vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, vae_hash = load_vae(with_vae)
    path = tmp_path / "latents.safetensors"
    made = cached_latents(vae, vae_hash, pictures.images, path)
    again = cached_latents(vae, vae_hash, pictures.images, path)
    assert all(torch.equal(*pair) for pair in zip(made, again, strict=True))
    monkeypatch.setattr(emoji_latents, "encode_all", lambda *_: (torch.zeros(1), torch.ones(1)))
    assert cached_latents(vae, "other", pictures.images, path)[0].shape == (1,)


def test_teacher_needs_the_autoencoder(pictures: Pictures, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"emoji\.build vae"):
        teacher_run(pictures, tmp_path, Budget(steps=1))


def test_psnr_of_a_known_error() -> None:
    images = torch.full((2, 3, 4, 4), -1.0)
    rebuilt = images + torch.tensor([2 * 51 / 255, 0.0]).view(2, 1, 1, 1)
    assert psnr_of(images, rebuilt).tolist() == pytest.approx([-20 * math.log10(51 / 255), 100])


def test_schedule_warms_up_stays_and_falls() -> None:
    budget, factors, progress = Budget(steps=10), [], Progress()
    while not progress.done:
        progress = progress.begin_decay(budget, 0.5)
        factors.append(progress.rate_factor(2))
        progress = Progress(progress.step + 1, 0.0, progress.decay_from, progress.decay_steps)
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert Progress(step=30, spent_s=1.0).begin_decay(Budget(hours=1, finish=True), 0.25).decay_steps == 10
    assert not Progress(step=30, spent_s=2699.0).begin_decay(Budget(hours=1), 0.25).decaying
    assert Progress(step=2700, spent_s=2700.0).begin_decay(Budget(hours=1), 0.25).decay_steps == 900


def test_matrices_are_orthogonalised_and_the_rest_is_not() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"conv": nn.Conv2d(8, 16, 3), "table": nn.Embedding(10, 8), "first": nn.Conv2d(3, 16, 3)})
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    recipe = Recipe(muon_lr=0.1, adam_lr=0.01, seed=0, batch_size=1, weight_decay=0.0)
    optimizer = MatrixOptimizer(network.named_parameters(), recipe, excluded=("table",))
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(1.0)
    moved = {name: (p.detach() - before[name]) for name, p in network.named_parameters()}
    for name in ("table.weight", "first.weight", "conv.bias"):
        assert moved[name].abs().max().item() == pytest.approx(0.01, rel=1e-3), "AdamW's first step"
    singular = torch.linalg.svdvals(moved["conv.weight"].flatten(1))
    assert singular.max() / singular.min() < 3, "near orthogonal"
    assert all(p.grad is None for p in network.parameters())


def test_infinite_losses_end_the_training(pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji_training, "BAD_STEPS", 2)
    monkeypatch.setattr(emoji_vae, "KL_WEIGHT", float("nan"))
    with pytest.raises(emoji_training.TrainingError, match="2 steps in a row"):
        vae_run(pictures, tmp_path, Budget(steps=9))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_emoji.main(["vae", "--work", str(tmp_path)]) == 1
    assert "emoji.build data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build_emoji.main(["vae", "--hours", "0"])
    with pytest.raises(SystemExit):
        build_emoji.main(["vae", "--hours", "1", "--steps", "2"])


def test_fifty_prompts() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) == 50
