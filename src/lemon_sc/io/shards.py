"""Rows that take hours to compute and must survive: written shard by shard, each whole or absent.

A table of rows is a zarr v3 group with one array per field. While it is being written it lies in a hidden folder beside
its place, with a journal that holds one line per committed shard: number and digests of its files. A line is written
only when the files have reached the disk, so a process may be killed at any moment: the next run checks the digests,
keeps what is whole, and computes the rest. The group takes its place in one rename when its last shard is there; the
journal goes with it, as the attribute ``shards``. A lock keeps two runs apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from lemon_sc._core.log import logger
from lemon_sc._core.memory import return_freed
from lemon_sc.io.durable import disk, hidden, locked, swap, sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    Rows = dict[str, NDArray[Any]]

SHARD = 4096
"""Rows of a shard: what a crash costs at most, and one file per field."""
SHARD_BYTES = 2 << 20
"""Rows are gathered in memory until a shard is full, and zarr copies them a few times: large rows make small shards."""
CHUNK = 256
"""Rows that are decoded at once when single rows are read."""
DIGESTS = "shards"
JOURNAL = "shards.jsonl"
PENDING = 1
"""Shards that are written while the next one is computed."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One array of the table: type, and shape of a row."""

    dtype: str
    shape: tuple[int, ...] = ()


def rows_per_shard(row_bytes: int, *, most: int = SHARD) -> int:
    """Rows of a shard: `most`, or fewer whole chunks where rows are so large that gathering them would fill memory.

    Parameters
    ----------
    row_bytes
        Of all fields together.
    most
        Where rows are small.

    Returns
    -------
    Number of rows.
    """
    return min(most, max(SHARD_BYTES // (row_bytes * CHUNK), 1) * CHUNK)


def file_digest(path: Path) -> str:
    """BLAKE2 digest of a file, empty where there is none.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    32 hexadecimal digits, or "".
    """
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class Shards:
    """A table that is being written. Made by `writing`.

    Parameters
    ----------
    path
        Where the table shall lie, for messages.
    group
        Folder of the zarr group.
    n
        Rows.
    shard
        Rows per shard.
    fields
        Names of its arrays.
    digests
        Per committed shard and field, the digest of the file.
    journal
        File to note commits in; ``None`` where they go to the group's attributes.
    """

    def __init__(
        self,
        path: Path,
        *,
        group: Path,
        n: int,
        shard: int,
        fields: Iterable[str],
        digests: dict[int, dict[str, str]],
        journal: Path,
    ) -> None:
        self.path, self.group, self.n, self.shard, self.fields = path, group, n, shard, list(fields)
        self.digests, self.journal = digests, journal
        self.arrays = {name: zarr.open_array(group, path=name, mode="r+") for name in self.fields}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lemon_sc-write")
        self._pending: list[Future[None]] = []

    @property
    def n_shards(self) -> int:
        """How many shards the table has."""
        return -(-self.n // self.shard)

    @property
    def todo(self) -> NDArray[np.bool_]:
        """Rows that are not committed yet, (n,)."""
        there = np.zeros(self.n_shards, dtype=np.bool_)
        there[list(self.digests)] = True
        return ~np.repeat(there, self.shard)[: self.n]

    def file(self, field: str, k: int) -> Path:
        """File of a shard."""
        return self.group / field / "c" / "/".join(map(str, (k, *[0] * (self.arrays[field].ndim - 1))))

    def verify(self) -> list[int]:
        """Forget the shards whose files are not what was committed; return their numbers."""
        bad = [k for k, d in self.digests.items() if any(file_digest(self.file(f, k)) != d[f] for f in self.fields)]
        for k in bad:
            del self.digests[k]
        return bad

    def take(self, batches: Iterable[tuple[NDArray[np.int64], Rows]]) -> None:
        """Gather rows into shards, and commit each when it is full.

        Parameters
        ----------
        batches
            Positions, int64 (b,), and for each field the rows, (b, ...). All of `todo`, each once, in any order; memory
            is bounded where positions that belong together come together.
        """
        held: dict[int, tuple[Rows, list[int]]] = {}
        for at, rows in batches:
            for k in np.unique(at // self.shard).tolist():
                here = np.flatnonzero(at // self.shard == k)
                size = min(self.shard, self.n - k * self.shard)
                if k not in held:
                    held[k] = ({f: np.empty((size, *a.shape[1:]), a.dtype) for f, a in self.arrays.items()}, [0])
                buffers, count = held[k]
                for name, buffer in buffers.items():
                    buffer[at[here] - k * self.shard] = rows[name][here]
                count[0] += len(here)
                if count[0] == size:
                    self._submit(k, held.pop(k)[0])
        self._wait(0)
        if held:
            msg = f"{len(held)} of {self.n_shards} shards did not receive all of their rows."
            raise RuntimeError(msg)

    def _submit(self, k: int, rows: Rows) -> None:
        self._pending.append(self._pool.submit(self._commit, k, rows))
        self._wait(PENDING)

    def _wait(self, most: int) -> None:
        while len(self._pending) > most:
            self._pending.pop(0).result()

    def _commit(self, k: int, rows: Rows) -> None:
        """Write a shard, have it reach the disk, and only then note that it is there."""
        with disk(self.path):
            self._write(k, rows)

    def _write(self, k: int, rows: Rows) -> None:
        start = k * self.shard
        found = {}
        for name, values in rows.items():
            path = self.file(name, k)
            path.unlink(missing_ok=True)  # zarr would read what a crash has left there
            self.arrays[name][start : start + len(values)] = values
            if path.exists():  # zarr keeps no file for rows that are all zero
                sync(path)
            found[name] = file_digest(path)
        with self.journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"shard": k, **found}) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.digests[k] = found
        return_freed()  # what the codecs took

    def close(self) -> None:
        """Let the writing thread finish what it was given."""
        self._pool.shutdown(cancel_futures=True)


def _read_journal(path: Path) -> dict[int, dict[str, str]]:
    """Digests by shard; a line that a crash cut off is none."""
    found: dict[int, dict[str, str]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            found[int(entry.pop("shard"))] = entry
    return found


def _create(
    folder: Path,
    *,
    id: str,
    n: int,
    shard: int,
    fields: Mapping[str, Field],
    attrs: Mapping[str, Any],
    fixed: Mapping[str, NDArray[Any]],
) -> None:
    """An empty table in `folder`, which appears only when it is complete."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    group = zarr.open_group(new / "group", mode="w", zarr_format=3)
    for name, field in fields.items():
        group.create_array(
            name,
            shape=(n, *field.shape),
            chunks=(min(CHUNK, shard), *field.shape),
            shards=(shard, *field.shape),
            dtype=field.dtype,
            compressors=ZstdCodec(checksum=True),  # so that what was altered is not read as if it were data
        )
    for name, values in fixed.items():
        group.create_array(name, data=values)
    group.attrs.update({**attrs, "id": id, "rows_per_shard": shard})
    new.rename(folder)


def _is_store(path: Path, id: str) -> bool:
    """Whether a table with this id lies at `path`, whole or not."""
    try:
        return bool(zarr.open_group(path, mode="r").attrs.get("id") == id)
    except (zarr.errors.BaseZarrError, ValueError, OSError):
        return False


@contextmanager
def writing(
    path: str | os.PathLike[str],
    *,
    id: str,
    n: int,
    fields: Mapping[str, Field],
    attrs: Mapping[str, Any],
    fixed: Mapping[str, NDArray[Any]],
    shard: int = SHARD,
) -> Iterator[Shards]:
    """Write a table, or go on writing it: `Shards.todo` says what is missing.

    Parameters
    ----------
    path
        Where the zarr group shall lie. What lies there is replaced when the new table is whole; a table of the same
        `id` is kept, and only shards that are not what was committed are asked for again.
    id
        Of the content. A run continues what an earlier one with the same id has left.
    n, fields, shard
        Rows, arrays, rows per shard at most.
    attrs, fixed
        Attributes of the group, and arrays that are known from the start.

    Yields
    ------
    The table; it takes its place when the block ends without a row to do.

    Raises
    ------
    StoreBusyError
        If another process is writing it.
    """
    path = Path(path)
    row_bytes = sum(np.dtype(f.dtype).itemsize * int(np.prod(f.shape, dtype=np.int64)) for f in fields.values())
    shard = rows_per_shard(row_bytes, most=shard)
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        with disk(path):
            shards = _open_or_create(path, id=id, n=n, fields=fields, attrs=attrs, fixed=fixed, shard=shard)
            del fixed  # written by now; what was made for this alone need not be kept for hours
            bad = shards.verify()
        if bad:
            logger.warning("%d shards of '%s' are damaged and are made again", len(bad), path)
        try:
            yield shards
        except BaseException:
            kept, n_shards = len(shards.digests), shards.n_shards
            logger.warning(
                "'%s' is unfinished: %d of %d shards are kept, and the same call goes on from there",
                path,
                kept,
                n_shards,
            )
            raise
        finally:
            shards.close()
        if not shards.todo.any():
            with disk(path):
                finish(shards)


def _open_or_create(
    path: Path,
    *,
    id: str,
    n: int,
    fields: Mapping[str, Field],
    attrs: Mapping[str, Any],
    fixed: Mapping[str, NDArray[Any]],
    shard: int,
) -> Shards:
    """The whole table with this id, else what a run has left of it, else an empty one; parameters are `writing`'s."""
    work = hidden(path, "partial")
    whole = _is_store(path, id)
    if not whole and not _is_store(work / "group", id):
        shutil.rmtree(work, ignore_errors=True)  # of other content, or of a run that died at its first step
        _create(work, id=id, n=n, shard=shard, fields=fields, attrs=attrs, fixed=fixed)
    work.mkdir(exist_ok=True)
    group, journal = path if whole else work / "group", work / JOURNAL
    noted: Any = zarr.open_group(group, mode="r").attrs
    digests = {int(k): d for k, d in noted.get(DIGESTS, {}).items()} | _read_journal(journal)
    shard = int(noted["rows_per_shard"])  # of what is there, whatever a new one would have
    return Shards(path, group=group, n=n, shard=shard, fields=fields, digests=digests, journal=journal)


def finish(shards: Shards) -> None:
    """Put a whole table in its place; what lay there goes only once the new one is there.

    Parameters
    ----------
    shards
        The table, all of its shards committed.
    """
    path, work = shards.path, hidden(shards.path, "partial")
    group = zarr.open_group(shards.group, mode="r+")
    group.attrs[DIGESTS] = {str(k): shards.digests[k] for k in sorted(shards.digests)}
    sync(shards.group / "zarr.json")
    for stray in shards.group.rglob("*.partial"):  # what zarr was writing when an earlier run was killed
        stray.unlink()
    if shards.group != path:
        swap(shards.group, path)
    shutil.rmtree(work)
