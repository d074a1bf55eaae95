"""Single transcripts that add up to the counts of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lemon_sc.datasets._cells import RAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.datasets._tissue import Tissue

    Array = NDArray[np.floating]

UNASSIGNED = 0.02
QV_PASS, QV_MAX = 20.0, 40.0


def draw_transcripts(
    rng: np.random.Generator,
    tissue: Tissue,
    body: Array,
    counts: NDArray[np.int64],
    *,
    genes: list[str],
    cell_id: NDArray[np.generic],
) -> pd.DataFrame:
    """One row per transcript, as in ``transcripts.parquet``; those of cells lie in the cell and have qv >= 20.

    Another `UNASSIGNED` share lies anywhere, belongs to no cell (``"UNASSIGNED"``, or -1) and may have a low qv.
    """
    cell, gene = np.repeat(np.array(np.nonzero(counts)), counts[np.nonzero(counts)], axis=1)
    nucleus = np.full(len(cell_id), -1)
    nucleus[tissue.cell_of[::-1]] = np.arange(len(tissue.cell_of))[::-1]  # the first nucleus of each cell
    at = nucleus[cell]
    ray = rng.integers(0, RAYS, len(cell))
    theta = ray * 2 * np.pi / RAYS
    radius = body[at, ray] * np.sqrt(rng.uniform(size=len(cell)))
    xy = tissue.nuclei.origin[at] + radius[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=1)
    angles = np.arange(RAYS) * 2 * np.pi / RAYS
    contour = tissue.nuclei.radius(np.broadcast_to(angles, body.shape))
    inside = (radius < contour[at, ray]) & (at < tissue.n_nuclei)
    n, stray = len(cell), round(UNASSIGNED * len(cell))
    nobody = "UNASSIGNED" if cell_id.dtype.kind in "UO" else -1
    xy = np.concatenate([xy, rng.uniform(0, tissue.side, (stray, 2))])
    qv = np.concatenate([rng.uniform(QV_PASS, QV_MAX, n), rng.uniform(0, QV_MAX, stray)])
    names = pd.Categorical.from_codes(np.concatenate([gene, rng.integers(0, len(genes), stray)]), categories=genes)
    return pd.DataFrame(
        {
            "x": xy[:, 0].astype(np.float32),
            "y": xy[:, 1].astype(np.float32),
            "z": rng.uniform(10, 18, n + stray).astype(np.float32),
            "feature_name": names,
            "cell_id": np.concatenate([cell_id[cell], np.full(stray, nobody)]),
            "qv": qv.astype(np.float32),
            "overlaps_nucleus": np.concatenate([inside, np.zeros(stray, bool)]).astype(np.uint8),
            "transcript_id": np.uint64(281474976710656) + np.arange(n + stray, dtype=np.uint64),
        }
    )
