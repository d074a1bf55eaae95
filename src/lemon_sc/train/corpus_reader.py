"""A corpus in front of the training loop: any crop at once, from memory or a memory-mapped file.

Besides the store that `build_corpus` writes there are two plain forms, for machines without zarr: one ``.npy`` file of
pixels, which is mapped into memory and may be larger than it, and one of JPEG files, about a fifth as large or less,
which is unpacked into memory. Both are a folder with ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pil

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SCHEMA = "lemon_sc.corpus/1"
MANIFEST = "manifest.json"
BATCH = 4096
"""Crops that are handled at once: those of a shard."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus:
    """An open corpus, read only.

    Attributes
    ----------
    crops
        Uint8 (n, S, S, 3), in memory or memory-mapped.
    slide
        Slide of each crop, int32 (n,), position in ``manifest["slides"]``.
    manifest
        What the corpus is made of, see `lemon_sc.train.corpus.build_corpus`.
    """

    crops: NDArray[np.uint8]
    slide: NDArray[np.int32]
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def size_px(self) -> int:
        """Side of the crops."""
        return int(self.crops.shape[1])

    @property
    def slides(self) -> list[str]:
        """Names of the slides."""
        return [s["name"] for s in self.manifest["slides"]]

    @property
    def organ(self) -> NDArray[Any]:
        """Organ of each crop, (n,)."""
        return np.array([s["organ"] for s in self.manifest["slides"]], dtype=object)[self.slide]

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Crops at these positions, in this order, (b, S, S, 3)."""
        return np.asarray(self.crops[index])

    def batches(self, size: int = BATCH) -> Iterator[NDArray[np.uint8]]:
        """All crops in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield np.asarray(self.crops[start : start + size])


def _check_memory(n: int, size_px: int, path: Path) -> None:
    """Raise if so many crops do not fit into the memory of this machine, where it can be known."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    need = n * size_px**2 * 3
    if need > 0.8 * have:
        msg = (
            f"'{path}' holds {need / 2**30:.0f} GiB of crops, this machine has {have / 2**30:.0f} GiB of memory. Write "
            "it as plain pixels with `export_corpus(...)` and open that: it is mapped, not loaded."
        )
        raise MemoryError(msg)


def check_place(path: Path) -> None:
    """Raise if something other than a corpus lies where one is to be written.

    Parameters
    ----------
    path
        Where; nothing needs to be there.

    Raises
    ------
    ValueError
        If something else is.
    """
    if path.exists():
        open_group(path)


def open_group(path: Path) -> Any:
    """The zarr group of a corpus.

    Parameters
    ----------
    path
        Folder of the corpus.

    Returns
    -------
    The group, open for reading.

    Raises
    ------
    ValueError
        If what is there is not a corpus.
    """
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
    except (zarr.errors.BaseZarrError, ValueError, OSError) as error:
        msg = f"'{path}' exists and is not a corpus of lemon_sc ({type(error).__name__}). Choose another path."
        raise ValueError(msg) from error
    if group.attrs.get("schema") != SCHEMA:
        schema = group.attrs.get("schema")
        msg = f"'{path}' exists and is not a corpus of lemon_sc (schema {schema!r}). Choose another path."
        raise ValueError(msg)
    return group


def _shards_of(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Crops of a store, shard by shard; each is checked against its digest.

    Raises
    ------
    ValueError
        If a shard is missing, cut off or altered.
    """
    from lemon_sc.io.shards import DIGESTS, file_digest

    group = open_group(path)
    rows, digests = int(group.attrs["rows_per_shard"]), group.attrs[DIGESTS]
    crops = group["crops"]
    for k, start in enumerate(range(0, crops.shape[0], rows)):
        file = path / "crops" / "c" / f"{k}" / "0" / "0" / "0"
        if file_digest(file) != digests[str(k)]["crops"]:
            msg = (
                f"'{file}' is not what was written: it is missing, cut off or altered. Run `build_corpus` again with "
                "the same arguments: it makes the damaged shards anew and keeps the others."
            )
            raise ValueError(msg)
        yield np.asarray(crops[start : start + rows])


def open_corpus(path: str | os.PathLike[str]) -> Corpus:
    """Open a corpus: a store of `build_corpus`, or a folder of `export_corpus`.

    A store is read into memory, and so are JPEG files; plain pixels are mapped.

    Parameters
    ----------
    path
        The folder.

    Returns
    -------
    The crops, uint8 (n, S, S, 3), the slide of each, and the manifest.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If it is not a corpus, or a part of it is missing, cut off or altered.
    MemoryError
        If it does not fit into memory.
    """
    path = Path(path)
    if not path.exists():
        msg = f"No corpus at '{path}'. Make one with `build_corpus(sources, path)`."
        raise FileNotFoundError(msg)
    if (path / MANIFEST).is_file():
        return _open_plain(path)
    group = open_group(path)
    n, size, *_ = group["crops"].shape
    _check_memory(n, size, path)
    crops = np.empty((n, size, size, 3), dtype=np.uint8)
    at = 0
    for part in _shards_of(path):
        crops[at : at + len(part)] = part
        at += len(part)
    return Corpus(crops=crops, slide=np.asarray(group["slide"]), manifest=group.attrs["manifest"])


def export_corpus(path: str | os.PathLike[str], folder: str | os.PathLike[str], *, quality: int | None = None) -> None:
    """Write a corpus in a plain form that needs no zarr to be read.

    Parameters
    ----------
    path
        The store.
    folder
        Where to write; must not exist.
    quality
        ``None`` keeps the pixels. 1 to 100 stores JPEG of that quality, colours at full resolution, which changes them
        a little.

    Returns
    -------
    Nothing. The folder appears when it is whole.

    Raises
    ------
    FileExistsError
        If there is something at `folder`.
    ValueError
        If `path` is not a whole corpus.
    """
    path, folder = Path(path), Path(folder)
    if quality is not None and not 1 <= quality <= 100:
        raise bad_value("quality", must="be None or lie in 1 to 100", got=quality)
    if folder.exists():
        msg = f"There is something at '{folder}'. Remove it, or choose another folder."
        raise FileExistsError(msg)
    group = open_group(path)
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shape = tuple(group["crops"].shape)
    np.save(work / "slide.npy", np.asarray(group["slide"]))
    if quality is None:
        out = np.lib.format.open_memmap(work / "crops.npy", mode="w+", dtype=np.uint8, shape=shape)
        at = 0
        for part in _shards_of(path):
            out[at : at + len(part)] = part
            at += len(part)
        out.flush()
        del out
    else:
        _write_jpeg(path, work, quality)
    head = {
        "schema": SCHEMA,
        "shape": shape,
        "quality": quality,
        "sha256": {file.name: _sha256(file) for file in sorted(work.iterdir())},
        "manifest": group.attrs["manifest"],
    }
    (work / MANIFEST).write_text(json.dumps(head), encoding="utf-8")
    work.rename(folder)


def _write_jpeg(path: Path, work: Path, quality: int) -> None:
    """One file after the other, and where each ends."""
    ends, at = [], 0
    with (work / "crops.jpegs").open("wb") as out:
        for part in _shards_of(path):
            for crop in part:
                buffer = io.BytesIO()
                Pil.fromarray(crop).save(buffer, "jpeg", quality=quality, subsampling=0, optimize=True)
                at += out.write(buffer.getbuffer())
                ends.append(at)
    np.save(work / "ends.npy", np.array(ends, dtype=np.int64))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_plain(folder: Path) -> Corpus:
    head = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if head.get("schema") != SCHEMA:
        msg = f"'{folder}' is not a corpus of lemon_sc (schema {head.get('schema')!r})."
        raise ValueError(msg)
    is_mapped = head["quality"] is None
    _check_files(folder, head["sha256"], skip="crops.npy" if is_mapped else "")
    slide = np.load(folder / "slide.npy")
    if is_mapped:
        try:
            crops = np.load(folder / "crops.npy", mmap_mode="r")
        except (ValueError, OSError) as error:  # shorter than its header says
            msg = f"'{folder / 'crops.npy'}' is missing or cut off ({error}). Copy or export it again."
            raise ValueError(msg) from error
    else:
        _check_memory(head["shape"][0], head["shape"][1], folder)
        crops = _unpacked(folder, head["shape"])
    return Corpus(crops=crops, slide=slide, manifest=head["manifest"])


def _check_files(folder: Path, digests: dict[str, str], *, skip: str) -> None:
    """Raise if a file is not what was written; `skip` is too large to be read for that."""
    for name, digest in digests.items():
        if name != skip and (not (folder / name).is_file() or _sha256(folder / name) != digest):
            msg = f"'{folder / name}' is missing, cut off or altered. Copy or export the corpus again."
            raise ValueError(msg)


def _unpacked(folder: Path, shape: Sequence[int]) -> NDArray[np.uint8]:
    ends = np.load(folder / "ends.npy")
    data = np.memmap(folder / "crops.jpegs", dtype=np.uint8, mode="r")
    crops = np.empty(tuple(shape), dtype=np.uint8)
    start = 0
    for k, end in enumerate(ends.tolist()):
        crops[k] = np.asarray(Pil.open(io.BytesIO(data[start:end].tobytes())))
        start = end
    return crops
