"""From labelled nuclei to embeddings: crops in parts, each part embedded once and kept by the digest of its content.

A part is a few thousand crops. What is kept is found again by the pixels and the encoder, whatever task or run asks:
an interrupted run goes on, and two tasks on the same nuclei share their embeddings.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.log import logger, progress
from lemon_sc.bench.encoders import identity
from lemon_sc.bench.kept import keep
from lemon_sc.crops.stream import stream_crops
from lemon_sc.geometry.windows import inside, window_side
from lemon_sc.io.durable import disk
from lemon_sc.models import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from lemon_sc.bench.kinds import Labelled
    from lemon_sc.models import Encoder

    Part = tuple[NDArray[np.intp], NDArray[np.uint8]]
    Change = Callable[[NDArray[np.intp], NDArray[np.uint8]], NDArray[np.uint8]]

PART_ROWS = 4096
"""Crops that are embedded, and kept, together."""

WINDOW_MPP = 0.25
"""um per px of the window that must lie in the image."""

SCHEMA = "lemon_sc.bench.embedding/1"


@dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """Embeddings of the nuclei of a task that have a whole window."""

    rows: NDArray[np.intp]
    """(n,) rows of the table of nuclei, ascending."""
    z: NDArray[np.float32]
    """(n, D)."""


def drawn(nuclei: pd.DataFrame, most: int | None, *, by: str | None = None, seed: int = 0) -> pd.DataFrame:
    """At most so many nuclei (items, where windows belong together), of all or of each group, in the table's order.

    Parameters
    ----------
    nuclei
        The table.
    most
        How many; ``None``: all.
    by
        Column of the groups; ``None``: the table is one.
    seed
        Of the draw.

    Returns
    -------
    The rows, with their index.
    """
    if most is None:
        return nuclei
    if by is None:
        return nuclei.sample(min(most, len(nuclei)), random_state=seed).sort_index()
    unit = nuclei["item"] if "item" in nuclei else nuclei.index.to_series()  # windows of an item stay together
    kept = [
        units.sample(min(most, len(units)), random_state=seed)
        for units in (unit[part.index].drop_duplicates() for _, part in nuclei.groupby(by, sort=True))
    ]
    return nuclei[unit.isin(np.concatenate(kept)).to_numpy()]


def parts(
    labelled: Labelled, nuclei: pd.DataFrame, *, size_px: int, window_px: int, mpp: float = WINDOW_MPP
) -> Iterator[Part]:
    """Crops of nuclei whose window lies in their image, image by image, some thousand at a time.

    Parameters
    ----------
    labelled
        Says how to open the images.
    nuclei
        Rows of its table.
    size_px, mpp
        Side of a crop in px, and um per crop px.
    window_px
        Side of the window, in px of 0.25 um, that must lie in the image.

    Yields
    ------
    Rows of the table, and crops uint8 (b, S, S, 3), at most `PART_ROWS` of them.
    """
    held: list[Part] = []
    for image, part in nuclei.groupby("image", sort=True):
        opened, scale = labelled.open(str(image)), labelled.mpp[str(image)]
        xy = part[["x", "y"]].to_numpy(np.float64)
        whole = inside(xy, window_side(window_px, scale, WINDOW_MPP), opened.levels[0].shape)
        rows, xy = part.index.to_numpy(np.intp)[whole], xy[whole]
        if not len(rows):
            continue
        crops = np.empty((len(rows), size_px, size_px, 3), np.uint8)
        for index, cut in stream_crops(opened, xy, mpp=scale, size_px=size_px, target_mpp=mpp):
            crops[index] = cut
        held.append((rows, crops))
        if sum(len(rows) for rows, _ in held) >= PART_ROWS:
            joined, held = _joined(held), []
            while len(joined[0]) >= PART_ROWS:
                yield joined[0][:PART_ROWS], joined[1][:PART_ROWS]
                joined = joined[0][PART_ROWS:], joined[1][PART_ROWS:]
            held = [joined] if len(joined[0]) else []
    if held:
        yield _joined(held)


def _joined(held: list[Part]) -> Part:
    return np.concatenate([rows for rows, _ in held]), np.concatenate([crops for _, crops in held])


def features(
    labelled: Labelled,
    nuclei: pd.DataFrame,
    encoders: Mapping[str, Encoder],
    *,
    window_px: int,
    cache: Path | None = None,
    device: str = "auto",
    change: Change | None = None,
) -> dict[str, Features]:
    """Embeddings of nuclei by several encoders; crops of one size are cut once for all of them.

    Parameters
    ----------
    labelled, nuclei, window_px
        As for `parts`.
    encoders
        By name.
    cache
        Folder that keeps embeddings; ``None``: nothing is kept.
    device
        As for `lm.models.encode`.
    change
        Changes crops before they are embedded: from rows and crops to crops.

    Returns
    -------
    By name of the encoder, all with the same rows.

    Raises
    ------
    ValueError
        If an encoder needs a larger window than the task gives, or no nucleus has a whole one.
    """
    sizes: dict[tuple[int, float], list[str]] = {}
    for name, encoder in encoders.items():
        check_window(encoder, window_px)
        sizes.setdefault((encoder.card.input_px, encoder.card.mpp), []).append(name)
    made: dict[str, Features] = {}
    for (size_px, mpp), names in sizes.items():
        keys = {name: identity(encoders[name]) for name in names}
        rows: list[NDArray[np.intp]] = []
        z: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
        with progress(total=len(nuclei), desc=f"Embedding crops of {size_px} px") as bar:
            for index, cut in parts(labelled, nuclei, size_px=size_px, window_px=window_px, mpp=mpp):
                crops = cut if change is None else change(index, cut)
                digest = hashlib.sha256(np.ascontiguousarray(crops).tobytes()).hexdigest()
                for name in names:
                    z[name].append(_embedded(crops, digest, encoders[name], keys[name], cache=cache, device=device))
                rows.append(index)
                bar.update(len(index))
        if not rows:
            msg = f"None of {len(nuclei)} nuclei has a window of {window_px} px at 0.25 um/px inside its image."
            raise ValueError(msg)
        order = np.argsort(np.concatenate(rows))
        for name in names:
            made[name] = Features(rows=np.concatenate(rows)[order], z=np.concatenate(z[name])[order])
    return made


def check_window(encoder: Encoder, window_px: int) -> None:
    """Raise unless the crop of an encoder lies within the window that all nuclei of a task have.

    Parameters
    ----------
    encoder
        The encoder.
    window_px
        Side of the window, in px of 0.25 um.

    Raises
    ------
    ValueError
        If it does not.
    """
    card = encoder.card
    if card.input_px * card.mpp > window_px * WINDOW_MPP * (1 + 1e-9):
        msg = (
            f"{card.name!r} takes crops of {card.input_px} px at {card.mpp} um/px, more than the {window_px} px at "
            f"{WINDOW_MPP} um/px around each nucleus of this task. Load it with a smaller `input_px`."
        )
        raise ValueError(msg)


def _embedded(
    crops: NDArray[np.uint8], digest: str, encoder: Encoder, key: str | None, *, cache: Path | None, device: str
) -> NDArray[np.float32]:
    """Embedding of a part, from the cache or made now and kept there."""
    if cache is None or key is None:
        return encode(crops, encoder, device=device)
    name = hashlib.sha256(f"{SCHEMA}\n{digest}\n{key}".encode()).hexdigest()
    path = cache / name[:2] / f"{name}.npy"
    kept = _kept(path, (len(crops), encoder.card.dim))
    if kept is not None:
        return kept
    z = encode(crops, encoder, device=device)
    with disk(path):
        keep(path, lambda file: np.save(file, z))
    return z


def _kept(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """What is kept, unless it is damaged."""
    if not path.is_file():
        return None
    try:
        z = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        logger.warning("'%s' is damaged (%s); it is made again.", path, error)
        return None
    if z.shape != shape or z.dtype != np.float32 or not np.isfinite(z).all():
        logger.warning("'%s' holds %s %s instead of float32 %s; it is made again.", path, z.dtype, z.shape, shape)
        return None
    return z
