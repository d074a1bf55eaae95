"""Robustness to stain: the same nuclei in the stains of other slides."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.log import logger
from lemon_sc.analysis.stability import Original
from lemon_sc.bench.features import features
from lemon_sc.bench.folds import class_folds
from lemon_sc.bench.probes import logistic, n_train, rows_of
from lemon_sc.crops.stain import estimate_stains, normalize_stains
from lemon_sc.crops.stain_references import REFERENCES
from lemon_sc.metrics.classification import METRICS
from lemon_sc.metrics.means import nanmean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from lemon_sc.bench.features import Change, Features
    from lemon_sc.bench.kinds import Labelled, Task
    from lemon_sc.crops.stain import StainEstimate
    from lemon_sc.models import Encoder

    Row = dict[str, Any]

K = 100
"""Neighbours whose overlap is counted."""

MAX_SIDE = 1024
"""px: of larger images the middle is looked at."""

MAX_IMAGES = 40
"""Images of a slide that its stains are estimated from."""

ORIGINAL = "original"
"""What the column ``fold`` says of nuclei in their own stains."""


def stains_of(labelled: Labelled, nuclei: pd.DataFrame) -> dict[str, StainEstimate]:
    """The stains of each slide, from its images.

    Parameters
    ----------
    labelled
        Says how to open the images.
    nuclei
        Rows of its table.

    Returns
    -------
    By slide; one whose stains cannot be told is not in it.
    """
    found = {}
    for slide, part in nuclei.groupby("slide", sort=True):
        names = sorted(set(part["image"]))
        step = max(len(names) // MAX_IMAGES, 1)
        pixels = [_middle(labelled, name).reshape(-1, 3) for name in names[::step][:MAX_IMAGES]]
        estimate = estimate_stains(np.concatenate(pixels))
        if estimate is not None:
            found[str(slide)] = estimate
    return found


def _middle(labelled: Labelled, name: str) -> NDArray[np.uint8]:
    level = labelled.open(name).levels[0]
    height, width = level.shape
    y, x = max((height - MAX_SIDE) // 2, 0), max((width - MAX_SIDE) // 2, 0)
    return level.read(y, min(y + MAX_SIDE, height), x, min(x + MAX_SIDE, width))


def robustness(
    task: Task,
    labelled: Labelled,
    nuclei: pd.DataFrame,
    encoders: Mapping[str, Encoder],
    *,
    seed: int,
    cache: Path | None,
    device: str,
) -> Iterator[Row]:
    """How far embeddings move when nuclei are shown in the stains of each reference, and what a probe loses by it.

    Nuclei of slides whose stains cannot be told are left out, and counted in the log.

    Parameters
    ----------
    task, labelled
        The task and its nuclei.
    nuclei
        Rows that are taken.
    encoders
        By name.
    seed
        Of folds.
    cache, device
        As for `features`.

    Yields
    ------
    Rows: ``rmse``, ``cosine``, ``knn_overlap`` and its chance level by reference, protocol ``stain``; and the scores of
    a probe that learned from the originals, by what it was tested on, protocol ``stain_probe``.

    Raises
    ------
    ValueError
        If no slide has an estimate.
    """
    stains = stains_of(labelled, nuclei)
    known = nuclei[nuclei["slide"].astype(str).isin(stains)]
    if known.empty:
        msg = f"The stains of none of {nuclei['slide'].nunique()} slides can be told: is this an H&E?"
        raise ValueError(msg)
    if len(known) < len(nuclei):
        logger.warning("%s: %d nuclei of slides without stains left out", task.name, len(nuclei) - len(known))
    options: dict[str, Any] = {"window_px": task.window_px, "cache": cache, "device": device}
    plain = features(labelled, known, encoders, **options)
    k = min(K, len(next(iter(plain.values())).rows) - 1)
    originals = {name: Original.of(made.z, k=k) for name, made in plain.items()}
    for name, made in plain.items():
        yield from _under_shift(task, known, made, made.z, name, ORIGINAL, seed=seed)
    slide = nuclei["slide"].astype(str)
    for reference, target in REFERENCES.items():
        shown = features(labelled, known, encoders, **options, change=_restained(stains, target, slide))
        for name, made in shown.items():
            start = time.perf_counter()
            found = originals[name].against(made.z)
            rows, seconds = rows_of(task, name, made.z.shape[1]), time.perf_counter() - start
            for metric in ("rmse", "cosine", "knn_overlap"):
                value = getattr(found, metric)
                yield rows.row("stain", reference, metric, value, n=found.n, seconds=seconds)
            yield rows.row("stain", reference, "knn_overlap_chance", found.chance, n=found.n)
            yield from _under_shift(task, known, plain[name], made.z, name, reference, seed=seed)


def _restained(stains: Mapping[str, StainEstimate], target: StainEstimate, slide: pd.Series) -> Change:
    def change(rows: NDArray[np.intp], crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        out, names = np.empty_like(crops), slide.loc[rows].to_numpy(str)
        for name in np.unique(names):
            here = names == name
            out[here] = normalize_stains(crops[here], stains[name], reference=target)
        return out

    return change


def _under_shift(
    task: Task, nuclei: pd.DataFrame, made: Features, z: NDArray[np.float32], encoder: str, shown: str, *, seed: int
) -> Iterator[Row]:
    """Mean over folds of the scores of a probe that learned from the originals, on nuclei as they are shown."""
    if "label" not in nuclei:
        return
    table = nuclei.loc[made.rows]
    folds = class_folds(table, task.protocols[0], seed=seed)
    start, labels = time.perf_counter(), table["label"].to_numpy(str)
    result = logistic(made.z, labels, folds, encoder, seed=seed, n_null=0, pos_label=task.pos_label, held_out_ND=z)
    seconds, trained = time.perf_counter() - start, int(n_train(folds).mean())
    rows = rows_of(task, encoder, z.shape[1])
    for metric, value in zip(METRICS, nanmean(result.metrics, axis=0), strict=True):
        yield rows.row("stain_probe", shown, metric, value, n=len(labels), n_train=trained, seconds=seconds)
