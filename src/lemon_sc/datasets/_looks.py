"""How the cells of each type stain, and the random detail of every nucleus. Densities are stain amounts (see `_he`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lemon_sc.datasets import _tissue as ti
from lemon_sc.datasets._noise import Noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]


class Look(NamedTuple):
    """Chromatin: fine grain, clumps, rim and nucleoli. Cytoplasm: eosin, haematoxylin, border line, grain, cover."""

    grain: float
    clumps: float
    rim: float
    nucleoli: int
    eosin: float
    basophilia: float
    border: float
    foam: float
    cover: float


LOOKS = {
    ti.TUMOUR: Look(0.15, 0.20, 0.75, 2, 0.52, 0.22, 0.10, 0.10, 1.0),
    ti.EPITHELIAL: Look(0.12, 0.13, 0.35, 1, 0.62, 0.16, 0.14, 0.08, 1.0),
    ti.LYMPHOCYTE: Look(0.08, 0.24, 0.10, 0, 0.22, 0.14, 0.05, 0.10, 0.6),
    ti.FIBROBLAST: Look(0.11, 0.15, 0.20, 0, 0.62, 0.06, 0.00, 0.10, 0.30),
    ti.ENDOTHELIAL: Look(0.09, 0.12, 0.15, 0, 0.60, 0.05, 0.00, 0.05, 0.35),
    ti.MACROPHAGE: Look(0.14, 0.20, 0.45, 1, 0.42, 0.08, 0.06, 0.30, 0.75),
    ti.PLASMA: Look(0.10, 0.34, 0.25, 0, 0.52, 0.42, 0.05, 0.08, 0.9),
}
LOOK_TABLE = np.array([LOOKS[k] for k in range(len(ti.TYPES))])
MAX_NUCLEOLI = 2


@dataclass(frozen=True)
class Details:
    """Random detail that belongs to the tissue, not to a pixel grid."""

    nucleolus_xy: Array
    nucleolus_radius: Array
    tint: Array
    fine: Noise
    clump: Noise
    fibre: Noise
    slow: Noise
    rows: NDArray[np.integer]


def draw_details(rng: np.random.Generator, tissue: ti.Tissue) -> Details:
    """Draw them for every nucleus of `tissue`; `rows` is the type of each nucleus."""
    n = len(tissue.nuclei)
    rows = tissue.cell_type[tissue.cell_of]
    theta, r = rng.uniform(0, 2 * np.pi, (n, MAX_NUCLEOLI)), 0.6 * np.sqrt(rng.uniform(0, 1, (n, MAX_NUCLEOLI)))
    semi = np.stack([tissue.nuclei.a, tissue.nuclei.b], axis=1)[:, None]
    count = LOOK_TABLE[rows, 3] - (rng.uniform(size=n) < 0.3)
    there = np.arange(MAX_NUCLEOLI)[None] < count[:, None]
    return Details(
        nucleolus_xy=np.stack([r * np.cos(theta), r * np.sin(theta)], axis=-1) * semi,
        nucleolus_radius=np.where(there, rng.uniform(0.5, 0.95, (n, MAX_NUCLEOLI)), 0.0),
        tint=rng.normal(1, 0.10, (n, 2)).clip(0.7, 1.3),
        fine=Noise(rng),
        clump=Noise(rng),
        fibre=Noise(rng),
        slow=Noise(rng, 128),
        rows=rows,
    )
