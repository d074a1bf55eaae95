"""Images with instance masks, from folders: what segmenters learn from and are measured on.

A folder holds ``images/<name>.jpg`` (or another suffix), ``masks/<name>.png`` (integers, 0 is background) and, where
nuclei have types or images belong to slides, ``nuclei.csv`` with the columns image, id, and type or slide.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image as Pil

from lemon_sc._core.errors import bad_value, listing, missing_key
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc.geometry.windows import check_mpp
from lemon_sc.seg.card import check_classes
from lemon_sc.seg.targets import check_labels
from lemon_sc.train.corpus_images import read_rgb
from lemon_sc.train.corpus_sources import MASK_SUFFIXES, SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

TOLERANCE = 0.05
"""Images whose px differ by less than this share from those wanted are taken as they are."""


@dataclass(frozen=True, kw_only=True)
class NucleiFolder:
    """A folder of images with masks, and what is known of it."""

    path: str | Path
    """The folder."""
    licence: str
    """Of the images and masks; it is kept on the card of what is trained on them."""
    mpp: float = 0.25
    """um per px of the images."""
    name: str = ""
    """Name of the set; that of the folder, if empty."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Class of each type of ``nuclei.csv``, where they are called otherwise."""
    group: str = "slide"
    """Column of ``nuclei.csv`` that says which images belong together; images without it are groups of their own."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Field:
    """One image of a set.

    Attributes
    ----------
    name
        Of set and image.
    image, mask
        Files.
    mpp
        um per px of both.
    source, group
        Set, and what the image belongs to within it.
    types
        Class of each id, uint8 (largest id + 1,); None where there are no classes.
    """

    name: str
    image: Path
    mask: Path
    mpp: float
    source: str
    group: str
    types: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class NucleiSet:
    """Images with masks.

    Attributes
    ----------
    fields
        The images, in the order of their names.
    classes
        Names of the types by channel, the background first; empty where there are no types.
    mpp
        um per px that images are given at.
    sources
        Name, licence and number of images of each folder.
    """

    fields: tuple[Field, ...]
    classes: tuple[str, ...]
    mpp: float
    sources: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.fields)

    def read(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Image and instance map of a field, at ``mpp``.

        Parameters
        ----------
        i
            Which field.

        Returns
        -------
        uint8 (H, W, 3) and int32 (H, W).

        Raises
        ------
        ValueError
            The mask is of another size than the image, or no instance map.
        OSError
            A file that is damaged.
        """
        this = self.fields[i]
        pixels, labels = read_rgb(this.image), _read_labels(this.mask)
        if labels.shape != pixels.shape[:2]:
            msg = (
                f"'{this.mask}' is {_size(labels)} px, its image is {_size(pixels)} px. They must be of the same size."
            )
            raise ValueError(msg)
        scale = this.mpp / self.mpp
        return rescaled(pixels, labels, scale=scale) if abs(scale - 1) > TOLERANCE else (pixels, labels)

    def present(self) -> NDArray[np.bool_]:
        """Whether an image shows a type, (n_images, n_types); the background is not among them."""
        rows = [
            np.bincount(this.types, minlength=len(self.classes))[1:] > 0
            for this in self.fields
            if this.types is not None
        ]
        return np.array(rows) if rows else np.zeros((len(self), 0), bool)

    def split(self, share: float, *, rng: RNG = 0) -> tuple[NucleiSet, NucleiSet]:
        """Take whole groups out of each source, about a share of its images.

        Parameters
        ----------
        share
            Of the images, between 0 and 1.
        rng
            Seed or Generator of the draw.

        Returns
        -------
        The rest, and what was taken out.

        Raises
        ------
        ValueError
            A share outside this range, or a source with a single group.
        """
        if not 0 < share < 1:
            raise bad_value("share", must="lie between 0 and 1", got=share)
        draw = as_generator(rng)
        taken: set[tuple[str, str]] = set()
        for source in sorted({this.source for this in self.fields}):
            groups = [this.group for this in self.fields if this.source == source]
            names = sorted(set(groups))
            if len(names) < 2:
                msg = f"The images of {source!r} are one group ({names[0]!r}) and cannot be split without a leak."
                raise ValueError(msg)
            wanted = share * len(groups)
            for name in draw.permutation(names)[:-1]:
                taken.add((source, str(name)))
                if sum((source, group) in taken for group in groups) >= wanted:
                    break
        return (
            self._part([i for i, this in enumerate(self.fields) if (this.source, this.group) not in taken]),
            self._part([i for i, this in enumerate(self.fields) if (this.source, this.group) in taken]),
        )

    def _part(self, rows: Sequence[int]) -> NucleiSet:
        fields = tuple(self.fields[i] for i in rows)
        count = {s["name"]: sum(this.source == s["name"] for this in fields) for s in self.sources}
        return replace(self, fields=fields, sources=tuple({**s, "n_images": count[s["name"]]} for s in self.sources))

    def record(self) -> dict[str, Any]:
        """What is kept of a set with what is trained on it: ``sha256`` of names and masks, classes, mpp, sources."""
        digest = hashlib.sha256()
        for this in self.fields:
            digest.update(f"{this.name} {this.image.stat().st_size} {this.mpp}\n".encode())
            digest.update(this.mask.read_bytes())
            digest.update(b"" if this.types is None else this.types.tobytes())
        return {
            "sha256": digest.hexdigest(),
            "n_images": len(self),
            "classes": list(self.classes),
            "mpp": self.mpp,
            "sources": [dict(s) for s in self.sources],
        }


def open_nuclei(folders: Sequence[NucleiFolder], *, classes: Sequence[str] = (), mpp: float = 0.25) -> NucleiSet:
    """List the images of folders with their masks; no pixels are read.

    Parameters
    ----------
    folders
        Where they are.
    classes
        Types by channel, ``"background"`` first; empty for nuclei without types.
    mpp
        um per px to give images at; those of other sizes are resampled as they are read.

    Returns
    -------
    The set.

    Raises
    ------
    FileNotFoundError
        No such folder, or images without masks.
    KeyError
        A table that lacks a column.
    ValueError
        Types that are no class, nuclei without a type, or two folders of one name.
    """
    classes = tuple(classes)
    check_classes(classes)
    check_mpp(mpp)
    found: list[Field] = []
    sources: list[dict[str, Any]] = []
    for folder in folders:
        name = folder.name or Path(folder.path).name
        if name in {s["name"] for s in sources}:
            raise bad_value("folders", must="have different names", got=name, fix="Pass `name=` to NucleiFolder.")
        check_mpp(folder.mpp)
        fields = _fields(folder, name, classes)
        found += fields
        sources.append({"name": name, "licence": folder.licence, "n_images": len(fields)})
    if not found:
        raise bad_value("folders", must="name at least one folder of images", got=list(folders))
    return NucleiSet(fields=tuple(found), classes=classes, mpp=float(mpp), sources=tuple(sources))


def _fields(folder: NucleiFolder, name: str, classes: tuple[str, ...]) -> list[Field]:
    path = Path(folder.path)
    images = sorted(p for p in (path / "images").glob("*") if p.suffix.lower() in SUFFIXES)
    if not images:
        msg = f"There are no images in '{path / 'images'}'. A set is a folder with images/ and masks/."
        raise FileNotFoundError(msg)
    masks = {p.stem: p for suffix in reversed(MASK_SUFFIXES) for p in (path / "masks").glob(f"*{suffix}")}
    if bare := [p.name for p in images if p.stem not in masks]:
        msg = f"{len(bare)} of {len(images)} images have no mask of their name in '{path / 'masks'}': {listing(bare)}."
        raise FileNotFoundError(msg)
    table = _table(path / "nuclei.csv", needed=["type"] if classes else [])
    groups: dict[str, str] = {}
    if folder.group in table:
        kept = table.dropna(subset=[folder.group]).drop_duplicates("image")
        groups = dict(zip(kept["image"], kept[folder.group].astype(str), strict=True))
    types = _types(table, folder, name, classes)
    return [
        Field(
            name=f"{name}/{p.stem}",
            image=p,
            mask=masks[p.stem],
            mpp=folder.mpp,
            source=name,
            group=groups.get(p.stem, p.stem),
            types=types.get(p.stem, np.zeros(1, np.uint8)) if classes else None,
        )
        for p in images
    ]


def _table(path: Path, *, needed: list[str]) -> pd.DataFrame:
    if not path.is_file():
        if needed:
            msg = f"There is no '{path}', and types were asked for. It has the columns image, id and type."
            raise FileNotFoundError(msg)
        return pd.DataFrame({"image": [], "id": []})
    table = pd.read_csv(path, dtype={"image": str, "type": str, "slide": str})
    for column in ("image", "id", *needed):
        if column not in table:
            raise missing_key(column, where=str(path), have=table.columns)
    return table


def _types(
    table: pd.DataFrame, folder: NucleiFolder, name: str, classes: tuple[str, ...]
) -> dict[str, NDArray[np.uint8]]:
    """Class of each id, by image."""
    if not classes:
        return {}
    if missing := int(table["type"].isna().sum()):
        msg = f"{missing} of {len(table)} nuclei of {name!r} have no type. Leave `classes` empty, or leave the set out."
        raise ValueError(msg)
    named = table["type"].map(lambda t: folder.types.get(t, t))
    if unknown := sorted(set(named) - set(classes[1:])):
        msg = (
            f"Types of {name!r} that are no class: {listing(unknown)} (classes: {listing(classes[1:], most=40)}). Say "
            "what they are with `NucleiFolder(types={type: class})`."
        )
        raise ValueError(msg)
    codes = named.map({c: k for k, c in enumerate(classes)}).to_numpy(np.uint8)
    found = {}
    for image, rows in table.groupby("image", sort=False).indices.items():
        ids = table["id"].to_numpy(np.int64)[rows]
        by_id = np.zeros(ids.max() + 1, np.uint8)
        by_id[ids] = codes[rows]
        found[str(image)] = by_id
    return found


def _read_labels(path: Path) -> NDArray[np.int32]:
    try:
        found = np.load(path) if path.suffix == ".npy" else np.asarray(Pil.open(path))
    except (OSError, SyntaxError, ValueError) as error:
        msg = f"'{path}' cannot be read: it is damaged, or cut off ({error}). Replace it, or leave it out."
        raise OSError(msg) from error
    try:
        return check_labels(found).astype(np.int32)
    except ValueError as error:
        msg = f"'{path}': {error}"
        raise ValueError(msg) from error


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def rescaled(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32], *, scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Image and instance map in another number of px: the image by bicubic, labels by the nearest px.

    Parameters
    ----------
    pixels, labels
        uint8 (H, W, 3) and int32 (H, W).
    scale
        Px of the result per px.

    Returns
    -------
    The same, of ``round(scale * side)`` px, at least 1.
    """
    height, width = (max(round(side * scale), 1) for side in labels.shape)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * side / n).astype(np.int64), side - 1)
        for n, side in zip((height, width), labels.shape, strict=True)
    )
    image = np.asarray(Pil.fromarray(pixels).resize((width, height), Pil.Resampling.BICUBIC))
    return image, labels[np.ix_(rows, columns)]
