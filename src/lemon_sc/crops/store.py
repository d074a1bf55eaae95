"""The crop store: a zarr v3 group with the crops, whose they are, and how they were cut.

Layout: ``crops`` uint8 (n, S, S, 3), ``xy`` float64 (n, 2) level-0 px, ``rank`` int64 (n,) (0 for the nucleus that
stands for its cell), ``verdict`` uint8 (n,) position in the QC categories, ``obs_name`` newline-joined UTF-8;
attributes: schema, id, digests of the shards, and the record of the extraction. Crops lie in the order in which the
image is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr

from lemon_sc._core.errors import listing
from lemon_sc.io.shards import CHUNK, Field, writing

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

SCHEMA = "lemon_sc.crops/2"


@dataclass(frozen=True, eq=False, kw_only=True)
class CropStore:
    """An open crop store, read only."""

    path: Path
    group: zarr.Group
    crops: zarr.Array
    obs_name: NDArray[Any]

    @property
    def attrs(self) -> dict[str, Any]:
        """Schema, id, pixel size, crop size and extraction record."""
        return dict(self.group.attrs)

    @property
    def size_px(self) -> int:
        """Side of the crops."""
        return int(self.crops.shape[1])

    def __len__(self) -> int:
        return len(self.obs_name)

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Crops at positions in the store, (b, S, S, 3), in the order asked for; chunks that hold none are not read."""
        index = np.asarray(index, dtype=np.int64)
        out = np.empty((len(index), *self.crops.shape[1:]), dtype=np.uint8)
        for chunk in np.unique(index // CHUNK):  # slices, for zarr's fancy indexing decodes a shard per row
            wanted = np.flatnonzero(index // CHUNK == chunk)
            part = self._decoded(chunk * CHUNK, (chunk + 1) * CHUNK)
            out[wanted] = part[index[wanted] - chunk * CHUNK]
        return out

    def batches(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """The wanted crops in store order, shard by shard: (positions, crops)."""
        size = int(self.attrs["rows_per_shard"])
        for start in range(0, len(self), size):
            kept = np.flatnonzero(wanted[start : start + size])
            if len(kept):
                yield start + kept, self._decoded(start, start + size)[kept]

    def _decoded(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Crops of a range; an error if what lies on the disk is not what was written."""
        try:
            return np.asarray(self.crops[start:stop])
        except (RuntimeError, ValueError, OSError) as error:
            msg = (
                f"The crop store '{self.path}' is damaged between positions {start} and {stop} ({error}). Run "
                "`lm.pp.extract_nuclei` again with the same settings: it makes what is damaged anew."
            )
            raise ValueError(msg) from error


def store_id(obs_name: NDArray[Any], xy: NDArray[np.float64], attrs: Mapping[str, Any]) -> str:
    """Fingerprint of what the store holds: names, centres, and how the crops were cut.

    Parameters
    ----------
    obs_name
        Name of the cell of each crop, (n,).
    xy
        Centres in image px, (n, 2).
    attrs
        How the crops were cut; it must be JSON, or text will do.

    Returns
    -------
    16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(dict(attrs), sort_keys=True, default=str).encode())
    digest.update("\0".join(map(str, obs_name)).encode())
    digest.update(np.ascontiguousarray(xy).tobytes())
    return digest.hexdigest()[:16]


def write_store(
    path: str | os.PathLike[str],
    cut: Callable[[NDArray[np.int64]], Iterable[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]],
    *,
    obs_name: NDArray[Any],
    xy: NDArray[np.float64],
    rank: NDArray[np.int64],
    size_px: int,
    attrs: Mapping[str, Any],
) -> str:
    """Write a crop store, or what is missing of it; it appears at `path` only when it is whole.

    Parameters
    ----------
    path
        Folder to write, by custom ``*.zarr``. An existing crop store is replaced when the new one is whole; anything
        else is left alone.
    cut
        Takes the positions that are missing, ascending, and gives batches: positions among those, and ``crops``
        (b, S, S, 3) and ``verdict`` (b,) for each.
    obs_name, xy, rank
        Whose crop it is, where its centre lies, and which of the cell's nuclei it shows, for every position.
    size_px
        Side of the crops.
    attrs
        Record of the extraction.

    Returns
    -------
    The id of the store.

    Raises
    ------
    ValueError
        If there is something else at `path`.
    StoreBusyError
        If another process is writing it.
    OSError
        If it cannot be written: a full disk, or a folder without leave to write.
    """
    path = Path(path)
    if path.exists():
        open_store(path)  # raises unless it is a crop store, so that nothing else is ever overwritten
    made = store_id(obs_name, xy, attrs)
    with writing(
        path,
        id=made,
        n=len(obs_name),
        fields={"crops": Field(dtype="uint8", shape=(size_px, size_px, 3)), "verdict": Field(dtype="uint8")},
        attrs={"schema": SCHEMA, **attrs},
        fixed={
            "obs_name": np.frombuffer("\n".join(map(str, obs_name)).encode(), dtype=np.uint8),
            "rank": rank,
            "xy": np.asarray(xy, float),
        },
    ) as shards:
        todo = shards.todo
        if len(todo) and todo.all():
            shards.take(cut(np.arange(len(todo))))  # not held here: of a million they take 8 MB
        elif todo.any():
            missing = np.flatnonzero(todo)
            shards.take((missing[at], rows) for at, rows in cut(missing))
    return made


def open_store(path: str | os.PathLike[str]) -> CropStore:
    """Open a crop store.

    Parameters
    ----------
    path
        Folder of the store.

    Returns
    -------
    The store; its crops are read when they are asked for.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If what is there is not a crop store.
    """
    path = Path(path)
    if not path.exists():
        msg = f"No crop store at '{path}'. Make it again with `lm.pp.extract_nuclei(..., store=...)`."
        raise FileNotFoundError(msg)
    try:
        group = zarr.open_group(path, mode="r")
    except (zarr.errors.BaseZarrError, ValueError, NotADirectoryError, FileNotFoundError) as error:
        msg = f"'{path}' exists and is not a crop store of lemon_sc ({type(error).__name__}). Choose another path."
        raise ValueError(msg) from error
    schema = group.attrs.get("schema")
    if schema != SCHEMA:
        msg = f"'{path}' exists and is not a crop store of lemon_sc (schema {schema!r}). Choose another path."
        raise ValueError(msg)
    names = np.asarray(group["obs_name"]).tobytes().decode()
    obs_name = np.array(names.split("\n") if names else [], dtype=object)
    crops = zarr.open_array(path, path="crops", mode="r")
    return CropStore(path=path, group=group, crops=crops, obs_name=obs_name)


def positions(store: CropStore, obs_names: NDArray[Any]) -> NDArray[np.int64]:
    """Row of `obs_names` for each crop of the store, -1 for crops of cells that are not among them.

    Parameters
    ----------
    store
        Crops.
    obs_names
        Names of a table's rows.

    Returns
    -------
    int64, one per crop.

    Raises
    ------
    ValueError
        If the store knows none of the names: it was cut for another table.
    """
    found = pd.Index(obs_names).get_indexer(pd.Index(store.obs_name)).astype(np.int64)
    if len(found) and not (found >= 0).any():
        msg = (
            f"The crop store '{store.path}' holds none of the table's cells: {listing(store.obs_name, most=3)} against "
            f"{listing(obs_names, most=3)}. Run `lm.pp.extract_nuclei` again."
        )
        raise ValueError(msg)
    return found
