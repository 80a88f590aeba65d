"""Batches are the same whatever reads them and wherever a run begins; errors and dead readers come out as words."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hashed_text import encode
from PIL import Image
from pixel_space import PixelSpace
from torch import Tensor

from piflow_cli.core.interfaces import DataSource, Draw
from piflow_cli.data.captioned import Captioned
from piflow_cli.data.digits import Digits
from piflow_cli.data.embeddings.building import build_shards
from piflow_cli.data.embeddings.cache import CachePlan
from piflow_cli.data.loading import Loaded, Loader
from piflow_cli.data.prompts import Prompts
from piflow_cli.data.reading import FEW_PICTURES
from piflow_cli.errors import DataError

STEPS, MICRO = 4, 2
COUNT = FEW_PICTURES + 6
TESTS = Path(__file__).parents[1]


def seed_of(step: int, micro: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{step}/{micro}".encode()).digest()[:7], "little")


def loader(source: DataSource, *, workers: int, batch_size: int = 3) -> Loader:
    return Loader(source, batch_size=batch_size, micro_batches=MICRO, steps=STEPS, seed_of=seed_of, workers=workers)


def all_of(loading: Loader, *, start: int = 0) -> list[Loaded]:
    with loading:
        return [loading.batch(step, micro) for step in range(start, STEPS) for micro in range(MICRO)]


def assert_same(first: list[Loaded], second: list[Loaded]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.size_px == other.size_px
        assert (one.latents is None) == (other.latents is None)
        assert one.latents is None or torch.equal(one.latents, other.latents)
        if isinstance(one.condition, list):
            assert one.condition == other.condition
        else:
            assert torch.equal(one.condition.embeds, other.condition.embeds)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of one grey each with captions that say which, some of them damaged."""
    root = tmp_path / "set"
    root.mkdir()
    for i in range(COUNT):
        Image.new("RGB", (20, 12), (i * 3,) * 3).save(root / f"{i}.png")
        (root / f"{i}.txt").write_text(str(i))
        if i % 7 == 0:
            (root / f"{i}.png").write_bytes(b"no picture")
    return root


def captioned(folder: Path, **settings: object) -> DataSource:
    return Captioned(path=str(folder), resolutions=("8x16", "12x12"), **settings).open(PixelSpace())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_draws_do_not_depend_on_the_number_of_processes(folder: Path, workers: int) -> None:
    alone, shared = captioned(folder), captioned(folder)
    expected = all_of(loader(alone, workers=0))
    assert_same(all_of(loader(shared, workers=workers)), expected)
    assert shared.skipped == alone.skipped != []
    for loaded in expected:
        assert loaded.latents.shape[2:] == (loaded.size_px[1] // 2, loaded.size_px[0] // 2)
        greys = ((loaded.latents.mean(dim=(1, 2, 3)) + 1) / 2 * 255 / 3).round().long().tolist()
        assert [abs(grey - int(text)) <= 1 for grey, text in zip(greys, loaded.condition, strict=True)]
    assert len({loaded.size_px for loaded in expected}) == 2


def as_shard(folder: Path, kind: str) -> Path:
    """The pictures of a folder with their captions in one tar or parquet."""
    path = folder.parent / f"shard.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            for file in sorted(folder.iterdir()):
                tar.add(file, file.name)
        return path
    pictures = sorted(folder.glob("*.png"))
    images, texts = [p.read_bytes() for p in pictures], [p.stem for p in pictures]
    pq.write_table(pa.table({"image": images, "text": texts}), path, row_group_size=8)
    return path


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_shards_are_read_by_others_too(folder: Path, kind: str) -> None:
    path = as_shard(folder, kind)
    assert_same(all_of(loader(captioned(path), workers=2)), all_of(loader(captioned(path), workers=0)))


@pytest.mark.parametrize("kind", ["png", "tar", "parquet"])
def test_what_reads_can_be_sent_to_a_process_that_starts_anew(folder: Path, kind: str) -> None:
    source = captioned(folder if kind == "png" else as_shard(folder, kind))
    draw = source.plan(4, torch.Generator().manual_seed(1), size_px=(8, 16))
    there, here = pickle.loads(pickle.dumps(source.reader)).read(draw), source.reader.read(draw)
    assert torch.equal(there.pixels, here.pixels)
    assert (there.conditions, there.failures) == (here.conditions, here.failures)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_gets_what_it_would_have_got(folder: Path, workers: int) -> None:
    whole = all_of(loader(captioned(folder), workers=workers))
    assert_same(all_of(loader(captioned(folder), workers=workers), start=2), whole[2 * MICRO :])
    with loader(captioned(folder), workers=workers) as again:  # a step back, as after a checkpoint
        assert_same([again.batch(1, 1), again.batch(0, 1), again.batch(1, 0)], [whole[3], whole[1], whole[2]])


def test_cached_embeddings_are_read_by_others_too(folder: Path, tmp_path: Path) -> None:
    prompts = captioned(folder).prompts
    build_shards(tmp_path / "cache", CachePlan(prompts, "hashes-1", storage="bf16", shard_size=16), encode)
    (tmp_path / "p.txt").write_text("\n".join(prompts))
    source = Prompts(path=str(tmp_path / "p.txt"), cache=str(tmp_path / "cache")).open(PixelSpace())
    assert source.reads_files
    assert_same(all_of(loader(source, workers=2)), all_of(loader(source, workers=0)))


def test_a_source_in_memory_starts_no_process() -> None:
    source = Digits().open()
    loading = loader(source, workers=3)
    assert loading.workers == 0
    generator = torch.Generator().manual_seed(seed_of(1, 1))
    latents, labels = source.draw(3, generator)
    loaded = loading.batch(1, 1)
    assert torch.equal(loaded.latents, latents)
    assert torch.equal(loaded.condition, labels)


def test_what_is_not_there_is_no_batch() -> None:
    for place in ((STEPS, 0), (0, MICRO), (-1, 0)):
        with pytest.raises(IndexError, match="micro-batch"):
            loader(Digits().open(), workers=0).batch(*place)


@dataclass(frozen=True)
class Reading(DataSource):
    """A source whose reader does something else at the row it is told."""

    reader: "Reading | Dying | Refusing | Slow"

    has_images = False
    reads_files = True

    def plan(self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None) -> Draw:
        return Draw(rows=(int(torch.randint(100, (1,), generator=generator)),))

    def encode(self, batch: Tensor) -> tuple[None, Tensor]:
        return None, batch


class Dying:
    def read(self, draw: Draw) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(draw.rows)


class Refusing:
    def read(self, draw: Draw) -> Tensor:
        raise DataError(f"row {draw.rows[0]} is refused")


class Slow:
    def read(self, draw: Draw) -> Tensor:
        time.sleep(0.05)
        return torch.tensor([os.getpid()])


def test_a_process_that_dies_is_told_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"has died: .*training.data_workers; 0 reads in the training process"):
        loader(Reading(Dying()), workers=1).batch(0)


def test_a_process_that_dies_while_the_trainer_computes_is_told_too() -> None:
    loading = loader(Reading(Slow()), workers=1)
    with pytest.raises(DataError, match=r"has died: .*training.data_workers"), loading:  # noqa: PT012
        os.kill(int(loading.batch(0).condition), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.01)


class Faulty:
    def read(self, draw: Draw) -> Tensor:
        return torch.zeros(2) @ torch.zeros(3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_is_none_of_the_data(workers: int) -> None:
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        loader(Reading(Faulty()), workers=workers).batch(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_known_error_keeps_its_words(workers: int) -> None:
    with pytest.raises(DataError, match=r"^row \d+ is refused$"):
        loader(Reading(Refusing()), workers=workers).batch(0)


def test_reading_happens_elsewhere_and_ends_with_the_loader() -> None:
    with loader(Reading(Slow()), workers=2) as loading:
        readers = {int(loading.batch(step, micro).condition) for step in range(STEPS) for micro in range(MICRO)}
    assert len(readers) == 2
    assert os.getpid() not in readers
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{reader}").exists() for reader in readers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{reader}").exists() for reader in readers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_readers_outlive_a_signal_to_the_group(number: signal.Signals) -> None:
    """The trainer answers it by saving, for which it goes on to the end of the step."""
    code = (
        f"import os, signal, sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / 'data')!r}]\n"
        "from test_loading import Reading, Slow, loader\n"
        f"signal.signal({int(number)}, lambda *_: None)\n"
        "with loader(Reading(Slow()), workers=2) as loading:\n"
        "    loading.batch(0, 0)\n"
        f"    os.killpg(0, {int(number)})\n"
        "    print([int(loading.batch(step, 0).condition) > 0 for step in range(1, 4)])\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True, timeout=60, check=False
    )
    assert (process.returncode, process.stdout) == (0, "[True, True, True]\n"), process.stderr


class Stuck:
    def read(self, draw: Draw) -> Tensor:
        time.sleep(3600)
        return torch.tensor(draw.rows)


def test_a_loader_that_nobody_closed_keeps_no_process_from_ending() -> None:
    """Readers do not heed the SIGTERM that multiprocessing sends at the end, and it waits for them."""
    code = (
        f"import sys, time; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / 'data')!r}]\n"
        "from test_loading import Reading, Stuck, loader\n"
        "kept = loader(Reading(Stuck()), workers=1)\n"
        "kept._begin(0, 0)\n"
        "time.sleep(1)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
