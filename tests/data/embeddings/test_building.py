"""Caches are filled by any number of processes, survive being killed, and mend themselves."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hashed_text import WIDTH, encode, encode_one, fill, fill_and_report, plan_of, prompt_set

from piflow_cli.core.conditions import Instruction, TextCondition
from piflow_cli.data.embeddings.building import build_shards
from piflow_cli.data.embeddings.cache import missing_shards, open_cache, shard_path, special_path
from piflow_cli.data.embeddings.codec import packed_rows
from piflow_cli.errors import DataError, StorageError

TESTS = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def check_complete(folder: Path, count: int) -> None:
    prompts = prompt_set(count)
    for i, row in enumerate(open_cache(folder).rows(range(count))):
        assert torch.equal(row.embeds, encode_one(prompts[i]).embeds.float())


def test_a_second_run_builds_nothing(tmp_path: Path) -> None:
    first = fill(tmp_path, 10)
    assert (first.num_prompts, first.built, first.kept, first.shared) == (10, 3, 0, 0)
    assert first.size_bytes == sum(shard_path(tmp_path, i).stat().st_size for i in range(3))
    before = contents(tmp_path)
    encoded = []
    second = build_shards(tmp_path, plan_of(10), lambda texts: encoded.append(texts) or encode(texts))
    assert (second.built, second.kept, second.shared, encoded) == (0, 3, 0, [])
    assert contents(tmp_path) == before
    check_complete(tmp_path, 10)


def test_progress_counts_prompts_up_to_all(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    build_shards(tmp_path, plan_of(10), encode, lambda done, total: calls.append((done, total)), batch_size=3)
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 10)
    assert {3, 4, 7, 8, 10} <= set(done)
    assert {call[1] for call in calls} == {10}


def test_no_call_is_larger_than_a_batch(tmp_path: Path) -> None:
    sizes: list[int] = []
    build_shards(tmp_path, plan_of(10), lambda texts: sizes.append(len(texts)) or encode(texts), batch_size=3)
    assert max(sizes) == 3


def test_the_batch_size_leaves_no_trace(tmp_path: Path) -> None:
    for name, size in (("a", 1), ("b", 3)):
        build_shards(tmp_path / name, plan_of(10), encode, batch_size=size)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_damage_is_mended_and_nothing_else_touched(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    whole = contents(tmp_path)
    path = shard_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    shard_path(tmp_path, 2).with_suffix(".json").unlink()
    (tmp_path / "special.safetensors").write_bytes(b"nothing")
    untouched = shard_path(tmp_path, 0).stat().st_mtime_ns
    assert fill(tmp_path, 10).built == 2
    assert shard_path(tmp_path, 0).stat().st_mtime_ns == untouched
    assert contents(tmp_path) == whole


def test_special_prompts_may_be_added(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    report = build_shards(tmp_path, plan_of(10, specials=("ugly",)), encode)
    assert report.built == 0
    reader = open_cache(tmp_path)
    for text in ("", "blurry", "ugly"):
        assert torch.equal(reader.special(text).embeds, encode_one(text).embeds.float())


def test_further_prompts_are_encoded_alone_and_others_stay_bit_for_bit(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    rows = packed_rows(special_path(tmp_path), range(2), num_encoders=1)
    asked: list[object] = []
    about = Instruction("paint it", names=("cat.png",))
    plan = plan_of(10, specials=("", "ugly"), pictured={"paint it (about 1f)": lambda: about})
    build_shards(tmp_path, plan, lambda texts: asked.extend(texts) or encode([*map(str, texts)]))
    assert asked == ["ugly", about]
    reader = open_cache(tmp_path)
    assert reader.index.specials == ("", "blurry", "ugly", "paint it (about 1f)")
    assert torch.equal(reader.special("paint it (about 1f)").embeds, encode_one("paint it").embeds.float())
    for old, new in zip(rows, packed_rows(special_path(tmp_path), range(2), num_encoders=1), strict=True):
        assert (old.sequences[0].data, old.sequences[0].tokens) == (new.sequences[0].data, new.sequences[0].tokens)
        assert torch.equal(old.pooled, new.pooled)
    nobody = {"paint it (about 1f)": lambda: pytest.fail("read")}
    build_shards(tmp_path, plan_of(10, pictured=nobody), lambda _texts: pytest.fail("encoded"))
    special_path(tmp_path).write_bytes(b"nothing")
    fill(tmp_path, 10)
    assert open_cache(tmp_path).index.specials == ("", "blurry")  # what no plan at hand can encode is left out


def test_further_prompts_of_another_width_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    before = contents(tmp_path)
    narrow = TextCondition(torch.zeros(1, 2, WIDTH - 1))
    with pytest.raises(DataError, match=rf"gave embeddings of width {WIDTH - 1}; .* has {WIDTH}"):
        build_shards(tmp_path, plan_of(10, specials=("ugly",)), lambda _texts: narrow)
    assert contents(tmp_path) == before


def test_no_special_prompts_are_needed(tmp_path: Path) -> None:
    build_shards(tmp_path, plan_of(10, specials=()), encode)
    check_complete(tmp_path, 10)


def test_shards_of_another_cache_are_not_taken_over(tmp_path: Path) -> None:
    build_shards(tmp_path, plan_of(10, fingerprint="hashes-0"), lambda texts: encode([text + "?" for text in texts]))
    (tmp_path / "index.json").unlink()
    assert fill(tmp_path, 10).built == 3
    check_complete(tmp_path, 10)


def test_another_cache_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    before = contents(tmp_path)
    with pytest.raises(DataError, match="hashes-1 there, hashes-2 wanted"):
        build_shards(tmp_path, plan_of(10, fingerprint="hashes-2"), lambda _texts: pytest.fail("encoded"))
    assert contents(tmp_path) == before


def test_a_prompt_that_is_not_finite_is_named_and_not_cached(tmp_path: Path) -> None:
    def overflowing(texts: list[str]) -> TextCondition:
        condition = encode(texts)
        for i, text in enumerate(texts):
            if text == "prompt éé7":
                condition.embeds[i, 0, 0] = torch.inf
        return condition

    with pytest.raises(DataError, match=r"'prompt éé7' encodes to values that are not finite.*bfloat16"):
        build_shards(tmp_path, plan_of(10), overflowing)
    assert missing_shards(tmp_path, plan_of(10)) == [1, 2]
    assert fill(tmp_path, 10).built == 2


def test_an_encoder_that_changes_its_width_is_refused(tmp_path: Path) -> None:
    def narrow(texts: list[str]) -> TextCondition:
        condition = encode(texts)
        return TextCondition(condition.embeds[..., :8], condition.mask) if len(texts) > 1 else condition

    with pytest.raises(DataError, match=f"width 8; .* has {WIDTH}"):
        build_shards(tmp_path, plan_of(10), narrow)


def test_an_encoder_that_loses_prompts_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 conditions for 4 prompts"):
        build_shards(tmp_path, plan_of(10), lambda texts: encode(texts[:1]))


def test_an_error_of_the_encoder_is_not_taken_for_the_disk(tmp_path: Path) -> None:
    def failing(_texts: list[str]) -> TextCondition:
        raise OSError("no weights")

    with pytest.raises(OSError, match="no weights"):
        build_shards(tmp_path, plan_of(10), failing)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write embeddings to .*file/cache: .*data.cache"):
        fill(tmp_path / "file" / "cache", 10)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue, start = context.Queue(), context.Barrier(2)
    worker = context.Process(target=fill_and_report, args=(tmp_path / "both", 40, start, queue))
    worker.start()
    start.wait(timeout=60)
    reports = [fill(tmp_path / "both", 40, pause_s=0.05), queue.get(timeout=60)]
    worker.join()
    assert sum(report.built for report in reports) == 10
    assert all(report.built for report in reports)
    assert all(report.built + report.kept + report.shared == 10 for report in reports)
    check_complete(tmp_path / "both", 40)
    fill(tmp_path / "alone", 40)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_shards_that_another_process_gives_up_are_taken_over(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    shard_path(tmp_path, 1).unlink()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / "locks" / "shard-00001.lock"):
            waiting = pool.submit(fill, tmp_path, 10)
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.result(timeout=10).built == 1
    check_complete(tmp_path, 10)


def test_a_killed_builder_leaves_whole_shards_that_the_next_one_keeps(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\nfrom pathlib import Path\nfrom hashed_text import fill\n"
        f"fill(Path({str(tmp_path)!r}), 40, pause_s=0.1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not shard_path(tmp_path, 2).with_suffix(".json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = missing_shards(tmp_path, plan_of(40))
    assert left == list(range(10 - len(left), 10))
    assert 0 < len(left) <= 7
    report = fill(tmp_path, 40)
    assert (report.kept, report.built, report.shared) == (10 - len(left), len(left), 0)
    check_complete(tmp_path, 40)
    assert not list(tmp_path.glob(".partial-*"))
