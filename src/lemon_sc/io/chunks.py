"""OME-Zarr arrays, read chunk by chunk.

zarr-python schedules every chunk on one event loop, which costs several times the decoding where chunks are small and
threads many. Where an array lies in a folder and its codecs are plain ones, as those of images are, the chunks' files
are read and decoded here, in the calling thread, by the codecs that zarr itself uses. Anything else goes through zarr.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
from numcodecs.checksum32 import CRC32C
from zarr.codecs import ShardingCodec
from zarr.core.metadata.v2 import ArrayV2Metadata
from zarr.storage import FsspecStore, LocalStore

from lemon_sc._core.memory import recycled
from lemon_sc.io.pixels import Box, Pixels, put_planes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import zarr
    from numpy.typing import NDArray

    Decode = Callable[[Any], Any]

EMPTY = np.iinfo(np.uint64).max
"""Offset and length of a chunk that a shard does not have."""

DECODERS: dict[str, Callable[[], Decode]] = {
    "zstd": lambda: numcodecs.Zstd().decode,
    "gzip": lambda: numcodecs.GZip().decode,
    "blosc": lambda: numcodecs.Blosc().decode,
    "crc32c": lambda: CRC32C(location="end").decode,
}
"""Codecs of zarr v3 that turn bytes into bytes."""


def _decoders(codecs: Sequence[Any]) -> list[Decode] | None:
    """What undoes `codecs` of a zarr v3 array of single bytes, in order; None if one of them is not a plain one."""
    names = [codec.to_dict()["name"] for codec in codecs]
    if not names or names[0] != "bytes" or not set(names[1:]) <= set(DECODERS):
        return None
    return [DECODERS[name]() for name in reversed(names[1:])]


@dataclass(frozen=True, eq=False, kw_only=True)
class ChunkFiles:
    """The files of an array, one per chunk or one per shard.

    Attributes
    ----------
    folder
        Of the array.
    metadata
        Of the array; knows the name of a chunk's file.
    decode
        Undoes the codecs of a chunk.
    per_shard
        Chunks per shard along each axis; None without shards.
    decode_index
        Undoes the codecs of a shard's index.
    index_first
        Whether the index stands at the start of the shard.
    """

    folder: Path
    metadata: Any
    decode: Sequence[Decode]
    per_shard: tuple[int, ...] | None = None
    decode_index: Sequence[Decode] | None = None
    index_first: bool = False

    def read(self, at: tuple[int, ...], n_bytes: int) -> Any:
        """Decoded bytes of the chunk `at`, which should be `n_bytes`; None where nothing is stored."""
        grid = self.per_shard or (1,) * len(at)
        name = self.metadata.encode_chunk_key(tuple(a // n for a, n in zip(at, grid, strict=True)))
        path = self.folder / name
        if not path.exists():
            return None
        try:
            if self.per_shard is None:
                decoded: Any = path.read_bytes()
            else:
                decoded = self.from_shard(path, tuple(a % n for a, n in zip(at, grid, strict=True)))
                if decoded is None:
                    return None
            for decode in self.decode:
                decoded = decode(decoded)
        except Exception as error:  # each codec has errors of its own
            msg = f"A chunk of the image is damaged: '{path}' cannot be decoded ({error})."
            raise OSError(msg) from error
        if len(decoded) != n_bytes:
            msg = f"A chunk of the image is damaged: '{path}' gives {len(decoded)} of {n_bytes} bytes."
            raise OSError(msg)
        return decoded

    def from_shard(self, path: Path, within: tuple[int, ...]) -> bytes | None:
        """Encoded bytes of a chunk of a shard."""
        grid = self.per_shard or ()
        n_bytes = 16 * int(np.prod(grid)) + 4 * len(self.decode_index or ())
        with path.open("rb") as file:
            if not self.index_first:
                file.seek(-n_bytes, 2)
            index: Any = file.read(n_bytes)
            for decode in self.decode_index or ():
                index = decode(index)
            table = np.frombuffer(index, dtype="<u8").reshape(*grid, 2)
            offset, length = (int(v) for v in table[within])
            if offset == EMPTY:
                return None
            file.seek(offset)
            return file.read(length)


def _local_root(store: Any) -> Path | None:
    """Folder of a store on this machine; `dask.array.from_zarr` of a path opens one by way of fsspec."""
    if isinstance(store, LocalStore):
        return Path(store.root)
    is_local = isinstance(store, FsspecStore) and "file" in store.fs.protocol
    return Path(store.path) if is_local else None


def _chunk_files(array: zarr.Array) -> ChunkFiles | None:
    """The files of an array, if they can be read without zarr; else None."""
    root, metadata = _local_root(array.store_path.store), array.metadata
    if root is None or array.dtype != np.uint8:
        return None
    folder = root / array.store_path.path
    if isinstance(metadata, ArrayV2Metadata):
        if metadata.filters or metadata.order != "C":
            return None
        plain = [] if metadata.compressor is None else [metadata.compressor.decode]
        return ChunkFiles(folder=folder, metadata=metadata, decode=plain)
    sharding = metadata.codecs[0]
    if not isinstance(sharding, ShardingCodec):
        decode = _decoders(metadata.codecs)
        return None if decode is None else ChunkFiles(folder=folder, metadata=metadata, decode=decode)
    decode, decode_index = _decoders(sharding.codecs), _decoders(sharding.index_codecs)
    fixed = {codec.to_dict()["name"] for codec in sharding.index_codecs} <= {"bytes", "crc32c"}  # of known length
    if len(metadata.codecs) > 1 or decode is None or decode_index is None or not fixed:
        return None
    return ChunkFiles(
        folder=folder,
        metadata=metadata,
        decode=decode,
        per_shard=tuple(s // c for s, c in zip(array.shards or (), array.chunks, strict=True)),
        decode_index=decode_index,
        index_first=sharding.index_location.value == "start",
    )


class ZarrPixels(Pixels):
    """A zarr array of an image.

    Parameters
    ----------
    array
        The array; axes other than c, y, x are one long.
    axes
        Their names.
    """

    def __init__(self, array: zarr.Array, axes: Sequence[str] = "cyx") -> None:
        self.array, self.axes = array, list(axes)
        self.at = [self.axes.index(a) for a in "cyx"]
        n, height, width = (int(array.shape[i]) for i in self.at)
        self.shape, self.dtype = (n, height, width), np.dtype(array.dtype)
        self.chunk = tuple(int(c) for c in array.chunks)  # of a sharded array those within the shards
        self.unit = min(self.chunk[self.at[1]], height), min(self.chunk[self.at[2]], width)
        self.files = _chunk_files(array)

    def __reduce__(self) -> tuple[Any, ...]:
        return ZarrPixels, (self.array, self.axes)

    def planes(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Bring what is stored into the order (c, y, x)."""
        rest = [i for i in range(stored.ndim) if i not in self.at]
        return stored.transpose(*self.at, *rest).reshape(*(stored.shape[i] for i in self.at))

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[Any]:
        """Pixels of a rectangle, (y1 - y0, x1 - x0, c)."""
        out = recycled((y1 - y0, x1 - x0, self.shape[0]), self.dtype)
        whole: Box = (0, y1 - y0, 0, x1 - x0)
        if self.files is None:
            span = {"c": slice(None), "y": slice(y0, y1), "x": slice(x0, x1)}
            part = np.asarray(self.array[tuple(span.get(a, slice(0, 1)) for a in self.axes)])
            put_planes(self.planes(part), whole, out, whole)
            return out
        deep = self.chunk[self.at[0]]
        for (r, c, wanted, to), k in itertools.product(self.units(y0, y1, x0, x1), range(-(-self.shape[0] // deep))):
            first = k * deep
            stored = self.stored(k, r, c)
            if stored is None:
                fill = self.array.fill_value
                out[to[0] : to[1], to[2] : to[3], first : first + deep] = 0 if fill is None else fill
            else:
                put_planes(self.planes(stored)[: self.shape[0] - first], wanted, out, to, first=first)
            del stored  # before the next is decoded
        return out

    def stored(self, k: int, r: int, c: int) -> NDArray[Any] | None:
        """Decode the chunk at channel `k`, row `r`, column `c` of the grid of chunks; None where there is none."""
        at = [0] * len(self.axes)
        for axis, index in zip(self.at, (k, r, c), strict=True):
            at[axis] = index
        decoded = None if self.files is None else self.files.read(tuple(at), int(np.prod(self.chunk)))
        return None if decoded is None else np.frombuffer(decoded, dtype=self.dtype).reshape(self.chunk)
