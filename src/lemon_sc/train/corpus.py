"""A corpus to train on: crops of 60 px from many slides, drawn evenly over organs and slides, in a sharded store.

Layout: ``crops`` uint8 (n, S, S, 3), ``slide`` int32 (n,) position in the manifest's slides, ``image`` int32 (n,)
position in its images, ``xy`` float64 (n, 2) level-0 px; attributes: schema, id, digests of the shards, and the
manifest. Crops of an image lie together, in the order in which it is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value, listing
from lemon_sc._core.log import logger, progress
from lemon_sc._core.rng import as_generator
from lemon_sc.crops.stream import TARGET_MPP, reading_order, stream_crops
from lemon_sc.geometry.windows import inside, window_side
from lemon_sc.train.corpus_files import FileDigests
from lemon_sc.train.corpus_reader import SCHEMA, check_place

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from lemon_sc._core.rng import RNG
    from lemon_sc.train.corpus_sources import Picture, Source

TRAIN_PX = 60
"""Side of a crop to train on: a 40 px crop can be turned freely within."""


def level_out(available: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Share `n` as evenly as what is available allows, int64 (k,).

    No share gets more than it has, and none more than one above another that has some left.

    Parameters
    ----------
    available
        What each share can hold, (k,).
    n
        What there is to share; more than all can hold fills all.

    Returns
    -------
    Int64 (k,).
    """
    left, out = min(int(n), int(available.sum())), np.zeros(len(available), dtype=np.int64)
    for done, at in enumerate(np.argsort(available, kind="stable")):  # the smallest first: what it leaves, others get
        out[at] = min(int(available[at]), left // (len(available) - done))
        left -= int(out[at])
    return out


def balanced_counts(available: NDArray[np.int64], organ: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Crops to draw from each slide: evenly over organs, then over the slides of an organ, int64 (n_slides,).

    Parameters
    ----------
    available
        Crops that each slide has, (n_slides,).
    organ
        Organ of each slide, (n_slides,).
    n
        Crops in all.

    Returns
    -------
    Int64 (n_slides,).
    """
    organs, of = np.unique(organ, return_inverse=True)
    shares = level_out(np.bincount(of, weights=available, minlength=len(organs)).astype(np.int64), n)
    out = np.zeros(len(available), dtype=np.int64)
    for k, share in enumerate(shares):
        out[of == k] = level_out(available[of == k], int(share))
    return out


@dataclass(eq=False, kw_only=True)
class Entry:
    """A picture, what was seen in it, and the centres that are still to be drawn from."""

    source: Source
    picture: Picture
    sha256: dict[str, str]
    mpp: tuple[float, float]
    shape: tuple[int, int]
    xy: NDArray[np.float64]
    found: int
    outside: int
    no_centre: int

    @property
    def slide(self) -> str:
        """Name of the slide, unique over all sources."""
        return f"{self.source.name}/{self.picture.slide}"

    def record(self, n: int) -> dict[str, Any]:
        """What the manifest says of it; `n` crops were drawn."""
        return {
            "source": self.source.name,
            "image": self.picture.name,
            "slide": self.slide,
            "organ": self.picture.organ,
            "mpp": list(self.mpp),
            "shape": list(self.shape),
            "sha256": self.sha256,
            "n_nuclei": self.found,
            "n_window_outside": self.outside,
            "n_without_centre": self.no_centre,
            "n_crops": n,
        }


def _look_at(source: Source, picture: Picture, *, size_px: int, digests: FileDigests) -> Entry:
    """Find the nuclei of a picture whose whole window lies inside it, and count the others."""
    looked = picture.look()
    finite = np.isfinite(looked.xy).all(axis=1)
    whole = inside(looked.xy, window_side(size_px, looked.mpp, TARGET_MPP), looked.shape)
    return Entry(
        source=source,
        picture=picture,
        sha256=digests.of(picture.files),
        mpp=looked.mpp,
        shape=looked.shape,
        xy=looked.xy[whole],
        found=len(looked.xy),
        outside=int((finite & ~whole).sum()),
        no_centre=int((~finite).sum()),
    )


def _draw(entries: Sequence[Entry], n: int, rng: np.random.Generator) -> None:
    """Leave `n` of the centres of some pictures, drawn without replacement, in place."""
    sizes = [len(e.xy) for e in entries]
    if n >= sum(sizes):
        return
    kept = np.zeros(sum(sizes), dtype=np.bool_)
    kept[rng.choice(len(kept), n, replace=False)] = True
    for entry, part in zip(entries, np.split(kept, np.cumsum(sizes)[:-1]), strict=True):
        entry.xy = entry.xy[part]


def find(
    sources: Sequence[Source], *, n: int | None, per_slide: int | None, size_px: int, rng: RNG, digests: FileDigests
) -> list[Entry]:
    """Look at all pictures, and draw.

    Parameters
    ----------
    sources
        Where the pictures come from.
    n, per_slide, size_px, rng
        As in `build_corpus`.
    digests
        Digests of the files read so far.

    Returns
    -------
    Pictures with the centres that were drawn, those of a slide together.

    Raises
    ------
    ValueError
        If the images of a slide are said to be of several organs.
    """
    todo = [(source, picture) for source in sources for picture in source.pictures()]
    slides: dict[str, list[Entry]] = {}
    with progress(total=len(todo), desc="Finding nuclei", unit="images") as bar:
        for source, picture in todo:
            entry = _look_at(source, picture, size_px=size_px, digests=digests)
            slides.setdefault(entry.slide, []).append(entry)
            bar.update()
    _check_organs(slides)
    first, second = as_generator(rng).spawn(2)
    if per_slide is not None:
        for stream, entries in zip(first.spawn(len(slides)), slides.values(), strict=True):
            _draw(entries, per_slide, stream)
    if n is not None:
        available = np.array([sum(len(e.xy) for e in entries) for entries in slides.values()])
        organ = np.array([entries[0].picture.organ for entries in slides.values()])
        counts = balanced_counts(available, organ, n)
        for stream, entries, count in zip(second.spawn(len(slides)), slides.values(), counts, strict=True):
            _draw(entries, int(count), stream)
    return [entry for entries in slides.values() for entry in entries]


def _check_organs(slides: Mapping[str, Sequence[Entry]]) -> None:
    """Raise if the images of a slide are said to be of several organs."""
    for name, entries in slides.items():
        organs = sorted({e.picture.organ for e in entries})
        if len(organs) > 1:
            msg = f"The images of slide {name!r} are said to be of several organs: {listing(organs)}."
            raise ValueError(msg)


def _check_enough(entries: Sequence[Entry], least_slides: int) -> None:
    """Raise if too few slides give crops."""
    slides = {e.slide for e in entries if len(e.xy)}
    if len(slides) < max(least_slides, 1):
        seen, outside = sum(e.found for e in entries), sum(e.outside for e in entries)
        msg = (
            f"Only {len(slides)} of {len({e.slide for e in entries})} slides give crops ({seen} nuclei were found, the "
            f"windows of {outside} are not wholly inside their image); at least {least_slides} are needed, for a "
            "model learns the stain of a single slide. Add slides, or pass `least_slides=`."
        )
        raise ValueError(msg)


def _in_reading_order(entry: Entry, size_px: int) -> None:
    """Put the centres of a picture that is read in blocks in the order in which their crops come from it."""
    if len(entry.xy) and entry.picture.in_blocks:
        order = reading_order(entry.picture.open(), entry.xy, mpp=entry.mpp, size_px=size_px)
        entry.xy = entry.xy[order]


def _manifest_of(sources: Sequence[Source], entries: Sequence[Entry], size_px: int) -> dict[str, Any]:
    """What the corpus is made of, in plain types."""
    images = [e.record(len(e.xy)) for e in entries]
    organ = {e.slide: e.picture.organ for e in entries}
    origin = {e.slide: e.source.name for e in entries}
    by_source, by_slide = _totals(images, "source"), _totals(images, "slide")
    return {
        "size_px": size_px,
        "mpp": TARGET_MPP,
        "n_crops": sum(i["n_crops"] for i in images),
        "sources": [{"name": s.name, "licence": s.licence, **by_source[s.name]} for s in sources],
        "slides": [{"name": s, "source": origin[s], "organ": organ[s], **by_slide[s]} for s in organ],
        "images": images,
    }


COUNTS = ("n_nuclei", "n_window_outside", "n_without_centre", "n_crops")


def _totals(images: Sequence[Mapping[str, Any]], by: str) -> dict[str, dict[str, int]]:
    """Counts of images, added up by source or slide, in the order in which those come."""
    out: dict[str, dict[str, int]] = {}
    for image in images:
        counts = out.setdefault(image[by], dict.fromkeys(COUNTS, 0))
        for name in COUNTS:
            counts[name] += image[name]
    return out


def cut(entries: Sequence[Entry], todo: NDArray[np.bool_], size_px: int) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """Crops of the rows that are missing, one image after the other: (positions, fields).

    Parameters
    ----------
    entries
        Pictures with the centres that were drawn.
    todo
        Rows of the store that are missing, bool (n,).
    size_px
        Side of the crops.

    Yields
    ------
    Positions in the store, int64 (b,), and their crops, uint8 (b, S, S, 3), under ``crops``.
    """
    starts = np.cumsum([0, *(len(e.xy) for e in entries)])
    with progress(total=int(todo.sum()), desc="Cutting crops") as bar:
        for entry, start, stop in zip(entries, starts[:-1], starts[1:], strict=True):
            missing = np.flatnonzero(todo[start:stop])
            if not len(missing):
                continue
            batches = stream_crops(entry.picture.open(), entry.xy[missing], mpp=entry.mpp, size_px=size_px)
            for index, crops in batches:
                yield start + missing[index], {"crops": crops}
                bar.update(len(index))


def _check_sources(sources: Iterable[Source]) -> list[Source]:
    """The sources as a list, if there are some and each has a name and a licence of its own."""
    found = list(sources)
    if not found:
        raise bad_value("sources", must="hold at least one source", got=found)
    names = [s.name for s in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        msg = f"Sources share a name: {listing(twice)}. Name each differently."
        raise ValueError(msg)
    for source in found:
        if not source.name or not source.licence:
            msg = f"Source {source.name!r} needs a name and a licence: both are kept with whatever is trained on it."
            raise ValueError(msg)
    return found


def build_corpus(
    sources: Iterable[Source],
    path: str | os.PathLike[str],
    *,
    n: int | None = None,
    per_slide: int | None = None,
    least_slides: int = 2,
    size_px: int = TRAIN_PX,
    rng: RNG = 0,
) -> dict[str, Any]:
    """Cut crops of nuclei out of many images into one store, evenly over organs and slides.

    A nucleus is taken only where its whole window lies inside the image; the others are counted. The same call goes on
    where an interrupted one stopped, and gives the same store. Memory is bounded by one image (a few blocks of a slide)
    and the centres.

    Parameters
    ----------
    sources
        `FolderSource`, `SlideSource` and `SpatialDataSource`, in any number.
    path
        Folder to write, by custom ``*.zarr``. An older corpus there is replaced when the new one is whole.
    n
        Crops in all: shared evenly over organs, within an organ over its slides; what a small one lacks, the others
        give. ``None`` takes all.
    per_slide
        Most crops of one slide.
    least_slides
        Fewer slides with crops than this are an error.
    size_px
        Side of the crops in px of 0.25 um.
    rng
        Which nuclei are drawn. With a Generator a run cannot go on where another one stopped.

    Returns
    -------
    The manifest, which is also an attribute of the store: size and pixel size of the crops; per source its licence; per
    slide its organ; per image its pixel size and the SHA-256 of its files; and for each of them the nuclei found, those
    without a whole window or a centre, and the crops taken.

    Raises
    ------
    ValueError
        If there are too few slides, an image is not uint8 RGB, a pixel size is missing or contradicted, or something
        that is no corpus lies at `path`.
    OSError
        If an image is damaged, or the store cannot be written.
    """
    from lemon_sc.io.shards import Field, hidden, writing

    for name, value in {"n": n, "per_slide": per_slide, "least_slides": least_slides, "size_px": size_px}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
            raise bad_value(name, must="be an int >= 1", got=value)
    path = Path(path)
    check_place(path)
    known = _check_sources(sources)
    with FileDigests(hidden(path, "sha256.jsonl")) as digests:
        entries = find(known, n=n, per_slide=per_slide, size_px=size_px, rng=rng, digests=digests)
        _check_enough(entries, least_slides)
        for entry in entries:
            _in_reading_order(entry, size_px)
        manifest = _manifest_of(known, entries, size_px)
        slides = {s["name"]: k for k, s in enumerate(manifest["slides"])}
        sizes = [len(e.xy) for e in entries]
        xy = np.concatenate([e.xy for e in entries])
        with writing(
            path,
            id=_corpus_id(manifest, xy),
            n=len(xy),
            fields={"crops": Field(dtype="uint8", shape=(size_px, size_px, 3))},
            attrs={"schema": SCHEMA, "manifest": manifest},
            fixed={
                "slide": np.repeat(np.array([slides[e.slide] for e in entries], dtype=np.int32), sizes),
                "image": np.repeat(np.arange(len(entries), dtype=np.int32), sizes),
                "xy": xy,
            },
        ) as shards:
            shards.take(cut(entries, shards.todo, size_px))
        digests.forget()
    _report(manifest)
    return manifest


def _corpus_id(manifest: Mapping[str, Any], xy: NDArray[np.float64]) -> str:
    """Fingerprint of what the corpus holds."""
    digest = hashlib.sha256(json.dumps(dict(manifest), sort_keys=True).encode())
    digest.update(np.ascontiguousarray(xy).tobytes())
    return digest.hexdigest()[:16]


def _report(manifest: Mapping[str, Any]) -> None:
    """Say what was taken and what was not."""
    images = manifest["images"]
    logger.info(
        "%d crops of %d slides; of %d nuclei the windows of %d are not wholly inside their image, %d have no centre",
        manifest["n_crops"],
        sum(s["n_crops"] > 0 for s in manifest["slides"]),
        *(sum(i[k] for i in images) for k in COUNTS[:3]),
    )
