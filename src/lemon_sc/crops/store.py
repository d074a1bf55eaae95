"""The crop store: a zarr v3 group with the crops, whose they are, and how they were cut.

Layout: ``crops`` uint8 (n, S, S, 3), ``xy`` float64 (n, 2) level-0 px, ``rank`` int64 (n,) (0 for the nucleus that
stands for its cell), ``obs_name`` newline-joined UTF-8; attributes: schema, id and the record of the extraction. Crops
lie in the order in which the image was read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr

from lemon_sc._core.errors import listing
from lemon_sc.crops.stream import rebatched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

SCHEMA = "lemon_sc.crops/1"
CHUNK = 256
SHARD = 4096


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
            part = np.asarray(self.crops[chunk * CHUNK : (chunk + 1) * CHUNK])
            out[wanted] = part[index[wanted] - chunk * CHUNK]
        return out

    def batches(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """The wanted crops in store order, shard by shard: (positions, crops)."""
        for start in range(0, len(self), SHARD):
            kept = np.flatnonzero(wanted[start : start + SHARD])
            if len(kept):
                yield start + kept, np.asarray(self.crops[start : start + SHARD])[kept]


def store_id(obs_name: NDArray[Any], xy: NDArray[np.float64], attrs: Mapping[str, Any]) -> str:
    """Fingerprint of what the store holds: names, centres, and how the crops were cut."""
    digest = hashlib.sha256(json.dumps(dict(attrs), sort_keys=True, default=str).encode())
    digest.update("\0".join(map(str, obs_name)).encode())
    digest.update(np.ascontiguousarray(xy).tobytes())
    return digest.hexdigest()[:16]


def write_store(
    path: str | os.PathLike[str],
    batches: Iterable[tuple[NDArray[np.int64], NDArray[np.uint8]]],
    *,
    obs_name: NDArray[Any],
    xy: NDArray[np.float64],
    rank: NDArray[np.int64],
    size_px: int,
    attrs: Mapping[str, Any],
) -> str:
    """Write a crop store; it appears at `path` only when it is whole, and replaces an older one only then.

    Parameters
    ----------
    path
        Folder to write, by custom ``*.zarr``. An existing crop store is replaced; anything else is left alone.
    batches
        (positions into `obs_name`, crops (b, S, S, 3)).
    obs_name, xy, rank
        Whose crop it is, where its centre lies, and which of the cell's nuclei it shows, for every position.
    size_px
        Side of the crops.
    attrs
        Record of the extraction.

    Returns
    -------
    The id of the store.
    """
    path = Path(path)
    if path.exists():
        open_store(path)  # raises unless it is a crop store, so that nothing else is ever overwritten
    made = store_id(obs_name, xy, attrs)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        group = zarr.open_group(part, mode="w", zarr_format=3)
        group.attrs.update({"schema": SCHEMA, "id": made, **attrs})
        crops = group.create_array(
            "crops",
            shape=(len(obs_name), size_px, size_px, 3),
            chunks=(CHUNK, size_px, size_px, 3),
            shards=(SHARD, size_px, size_px, 3),
            dtype="uint8",
        )
        order = np.zeros(len(obs_name), dtype=np.int64)
        at = 0
        for index, pixels in rebatched(batches, SHARD):  # whole shards: each is written once
            order[at : at + len(index)] = index
            crops[at : at + len(index)] = pixels
            at += len(index)
        group.create_array("xy", data=np.asarray(xy, dtype=np.float64)[order])
        group.create_array("rank", data=np.asarray(rank, dtype=np.int64)[order])
        names = "\n".join(str(name) for name in np.asarray(obs_name)[order]).encode()
        group.create_array("obs_name", data=np.frombuffer(names, dtype=np.uint8))
        swap(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return made


def swap(part: Path, path: Path) -> None:
    """Put a finished folder in its place; the older one goes only once the new one is there."""
    old = path.with_name(f"{path.name}.old-{os.getpid()}")
    if path.exists():
        path.rename(old)
    part.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def open_store(path: str | os.PathLike[str]) -> CropStore:
    """Open a crop store.

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
