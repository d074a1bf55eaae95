import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from shard_writer import FIELDS, batches, content, write

from lemon_sc.io.durable import StoreBusyError
from lemon_sc.io.shards import writing

CHILD = Path(__file__).parents[1] / "shard_writer.py"
N, SHARD = 203, 20


def files(path):
    """Everything below a folder: names and bytes."""
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def check(path, n=N):
    group = zarr.open_group(path, mode="r")
    expected = content(np.arange(n))
    for name in FIELDS:
        np.testing.assert_array_equal(np.asarray(group[name]), expected[name])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.zarr"


@pytest.fixture
def reference(tmp_path):
    write(tmp_path / "reference.zarr", N, SHARD)
    return files(tmp_path / "reference.zarr")


def test_what_is_written_is_there_and_nothing_else(path):
    assert write(path, N, SHARD) == N
    check(path)
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("n", [0, 1, SHARD, SHARD + 1])
def test_any_number_of_rows(path, n):
    write(path, n, SHARD)
    check(path, n)


def test_rows_may_come_in_any_order(path, reference):
    order = np.random.default_rng(0).permutation(N)
    with writing(path, id="a", n=N, shard=SHARD, fields=FIELDS, attrs={"made": "by a test"}, fixed={}) as table:
        table.take(batches(order))
    assert files(path) == reference


def test_a_whole_table_is_not_written_again(path):
    write(path, N, SHARD)
    assert write(path, N, SHARD) == 0


def test_other_content_replaces_a_whole_table_only_when_it_is_whole(path):
    write(path, N, SHARD)
    with (
        pytest.raises(ZeroDivisionError),
        writing(path, id="b", n=4, shard=2, fields=FIELDS, attrs={}, fixed={}) as table,
    ):
        table.take(batches(np.arange(2)) if 1 / 0 else [])
    check(path)
    write(path, 4, 2, id="b")
    check(path, 4)
    assert names(path.parent) == [path.name]


def test_an_error_keeps_what_is_committed_and_says_so(path, caplog, reference):
    def failing(wanted):
        yield from batches(wanted[:100])
        msg = "the image ended"
        raise OSError(msg)

    def attempt():
        with writing(path, id="a", n=N, shard=SHARD, fields=FIELDS, attrs={"made": "by a test"}, fixed={}) as table:
            table.take(failing(np.flatnonzero(table.todo)))

    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="the image ended"):
        attempt()
    assert "of 11 shards are kept" in caplog.text
    assert not path.exists()
    assert write(path, N, SHARD) <= N - 3 * SHARD
    assert files(path) == reference


def test_a_table_goes_on_in_shards_of_the_size_that_it_has(path, reference):
    with (
        pytest.raises(RuntimeError, match="did not receive"),
        writing(path, id="a", n=N, shard=SHARD, fields=FIELDS, attrs={"made": "by a test"}, fixed={}) as table,
    ):
        table.take(batches(np.arange(110)))  # of the sixth shard a part
    assert write(path, N, 2 * SHARD) == N - 100
    assert files(path) == reference
    assert write(path, N, 3 * SHARD) == 0


def test_rows_that_never_come_are_an_error(path):
    with (
        pytest.raises(RuntimeError, match="1 of 11 shards did not receive all"),
        writing(path, id="a", n=N, shard=SHARD, fields=FIELDS, attrs={}, fixed={}) as table,
    ):
        table.take(batches(np.arange(N - 1)))
    assert not path.exists()


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_a_damaged_shard_is_found_and_made_again(path, damage, reference, caplog):
    write(path, N, SHARD)
    file = path / "rows" / "c" / "3" / "0"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "truncated": lambda: file.write_bytes(data[:-9]),
        "altered": lambda: file.write_bytes(data),
        "removed": file.unlink,
    }[damage]()
    with caplog.at_level(logging.WARNING):
        assert write(path, N, SHARD) == SHARD
    assert "1 shards of" in caplog.text
    assert files(path) == reference


def leave_out_the_last_row(path):
    with (
        pytest.raises(RuntimeError),
        writing(path, id="a", n=N, shard=SHARD, fields=FIELDS, attrs={"made": "by a test"}, fixed={}) as table,
    ):
        table.take(batches(np.arange(N - 1)))


def test_a_damaged_shard_of_an_unfinished_table_is_made_again(path, reference):
    leave_out_the_last_row(path)
    file = path.with_name(f".{path.name}.partial") / "group" / "flag" / "c" / "0"
    file.write_bytes(b"")
    assert write(path, N, SHARD) == SHARD + N % SHARD
    assert files(path) == reference


def test_a_torn_line_of_the_journal_is_no_commit(path, reference):
    leave_out_the_last_row(path)
    journal = path.with_name(f".{path.name}.partial") / "shards.jsonl"
    lines = journal.read_text().splitlines()
    assert all(set(json.loads(line)) == {"shard", *FIELDS} for line in lines)
    journal.write_text("\n".join(lines)[:-5])
    assert write(path, N, SHARD) == SHARD + N % SHARD
    assert files(path) == reference


def test_two_runs_do_not_write_one_table(path):
    with writing(path, id="a", n=N, shard=SHARD, fields=FIELDS, attrs={}, fixed={}) as table:
        with pytest.raises(StoreBusyError, match="Another run is writing"):
            write(path, N, SHARD)
        table.take(batches(np.arange(N)))
    check(path)


def child(path, seconds):
    command = [sys.executable, str(CHILD), str(path), str(N), str(SHARD), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_the_result_is_that_of_one_run(path, reference, seed):
    """Each child is killed at a random moment of its work; the last may finish."""
    rng = np.random.default_rng(seed)
    for _ in range(4):
        process = child(path, seconds=0.6)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.wait()
        if path.exists():
            check(path)
    done = write(path, N, SHARD)
    assert files(path) == reference
    assert path.name in names(path.parent)
    assert done <= N


def test_what_zarr_had_begun_to_write_is_not_kept(path, reference):
    """A child that is killed while zarr writes a file leaves that file under another name."""
    process = child(path, seconds=5)
    work = path.with_name(f".{path.name}.partial") / "group"
    while not (work / "rows").exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    stray = work / "rows" / "c" / "6" / "0.77b5c68a5b6a4e99abf774aa03a7866c.partial"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.touch()
    write(path, N, SHARD)
    assert files(path) == reference


def test_killed_between_the_renames_nothing_is_lost(path, reference, monkeypatch):
    """The moment in which the old table has left its place and the new one has not taken it yet."""
    write(path, 4, 2, id="b")
    rename = Path.rename

    def die(self, target):
        if Path(target) == path:
            raise SystemExit
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(SystemExit):
        write(path, N, SHARD)
    monkeypatch.undo()
    assert write(path, N, SHARD) == 0
    assert files(path) == reference
    assert names(path.parent) == ["reference.zarr", path.name]


def test_a_run_that_was_killed_lets_go_of_the_lock(path):
    process = child(path, seconds=20)
    time.sleep(0.3)
    with pytest.raises(StoreBusyError):
        write(path, N, SHARD)
    process.kill()
    process.wait()
    write(path, N, SHARD)
    check(path)


def test_remains_of_other_content_do_not_get_in(path):
    with (
        pytest.raises(RuntimeError),
        writing(path, id="b", n=N, shard=SHARD, fields=FIELDS, attrs={}, fixed={}) as table,
    ):
        table.take((at, {k: v + 1 for k, v in rows.items()}) for at, rows in batches(np.arange(N - 1)))
    assert write(path, N, SHARD) == N
    check(path)
    shutil.rmtree(path)
