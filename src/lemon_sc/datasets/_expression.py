"""Planted expression: which gene follows what, and how strongly, is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

MARKERS = {
    "tumour": ("EPCAM", "ERBB2", "FASN", "CEACAM6"),
    "epithelial": ("KRT5", "KRT14", "KRT15", "ELF3"),
    "lymphocyte": ("CD3E", "CD2", "IL7R", "CCR7"),
    "fibroblast": ("COL1A1", "LUM", "PDGFRA", "POSTN"),
    "endothelial": ("PECAM1", "VWF", "KDR", "CLEC14A"),
    "macrophage": ("CD68", "CD163", "C1QA", "FCGR3A"),
    "plasma": ("MZB1", "TNFRSF17", "SLAMF7", "DERL3"),
}
MARKER_ON, MARKER_OFF = 9.0, 0.25
STRENGTHS = (0.95, 0.85, 0.70, 0.50)
LOG_SD = 0.8  # of the log rate of a gene that follows something
BASE_RATE = 8.0
N_NOISE, N_BALANCE, N_CONTROL = 15, 6, 5
BALANCE_FLOOR = 4.0
CONTROL_RATE = 0.08
DISPERSION = 0.05  # extra variance of the gamma-Poisson counts: var = mean + DISPERSION mean^2
LIBRARY_SD = 0.2
SILENT = 0.01  # share of cells without a single count


@dataclass(frozen=True)
class Expression:
    """Counts (n_cells, n_genes) and one row of truth per gene."""

    counts: NDArray[np.int64]
    var: pd.DataFrame


def plant_expression(
    rng: np.random.Generator, *, cell_type: NDArray[np.str_], xy: Array, log_area: Array, chromatin: Array
) -> Expression:
    """Draw counts.

    A gene that follows a quantity has ``log rate = log 8 + 0.8 (r z + sqrt(1 - r^2) eps)`` with ``z`` the standardised
    quantity and ``eps`` independent normal, so that the log rate correlates with it by `r`; counting noise comes on
    top. Library size varies independently of everything else and does not touch noise and control genes. The
    balancing genes take up what the planted ones leave of a constant expected total, so that dividing by the total
    does not carry morphology into genes that have none.

    Parameters
    ----------
    cell_type
        Name of the type per cell (n,).
    xy
        Position in um (n, 2).
    log_area, chromatin
        Of the cell's nucleus (n,), NaN without one; such a cell counts as average.
    """
    n = len(cell_type)
    rates: list[Array] = []
    rows: list[tuple[str, str, str, float]] = []
    for kind, genes in MARKERS.items():
        for gene in genes:
            rates.append(np.where(cell_type == kind, MARKER_ON, MARKER_OFF))
            rows.append((gene, "marker", kind, np.nan))
    quantities = {"AREA": ("log_area", _standardise(log_area)), "CHROM": ("chromatin", _standardise(chromatin))}
    for prefix, (of, z) in quantities.items():
        for i, r in enumerate(STRENGTHS):
            rates.append(_follow(rng, z, r))
            rows.append((f"{prefix}{i + 1}", "morphology", of, r))
    for i, r in enumerate(STRENGTHS):
        rates.append(_follow(rng, _standardise(_smooth_field(rng, xy)), r))
        rows.append((f"POS{i + 1}", "position", "position", r))
    planted = np.stack(rates, axis=1)
    total = planted.sum(axis=1)
    left = np.maximum(np.quantile(total, 0.98) - total, 0) + BALANCE_FLOOR
    share = rng.dirichlet(np.full(N_BALANCE, 5.0))
    library = np.exp(LIBRARY_SD * rng.standard_normal((n, 1)))
    rows += [(f"BALANCE{i + 1}", "balance", "", np.nan) for i in range(N_BALANCE)]
    rows += [(f"NOISE{i + 1}", "noise", "", 0.0) for i in range(N_NOISE)]
    rows += [(f"NegControlProbe_{i + 1:05d}", "control", "", 0.0) for i in range(N_CONTROL)]
    noise = np.broadcast_to(rng.uniform(1.5, 6.0, N_NOISE), (n, N_NOISE))
    control = np.full((n, N_CONTROL), CONTROL_RATE)
    rate = np.concatenate([planted * library, left[:, None] * share * library, noise, control], axis=1)
    counts = rng.poisson(rate * rng.gamma(1 / DISPERSION, DISPERSION, rate.shape))
    counts[rng.permutation(n)[: max(1, round(SILENT * n))]] = 0
    return Expression(counts, _var(rows))


def _var(rows: list[tuple[str, str, str, float]]) -> pd.DataFrame:
    """The columns that `spatialdata_io.xenium` gives, then the truth."""
    names, truth, of, r = zip(*rows, strict=True)
    control = np.array(truth) == "control"
    return pd.DataFrame(
        {
            "gene_ids": np.where(control, names, [f"ENSGPHANTOM{i:04d}" for i in range(len(names))]),
            "feature_types": np.where(control, "Negative Control Probe", "Gene Expression"),
            "genome": "Unknown",
            "truth": pd.Categorical(truth),
            "truth_of": list(of),
            "truth_r": np.array(r, dtype=float),
        },
        index=pd.Index(names, dtype=object),
    )


def _standardise(values: Array) -> Array:
    """Zero mean and unit variance; NaN becomes the mean."""
    return np.nan_to_num((values - np.nanmean(values)) / np.nanstd(values))


def _follow(rng: np.random.Generator, z: Array, r: float) -> Array:
    eps = rng.standard_normal(len(z))
    return BASE_RATE * np.exp(LOG_SD * (r * z + np.sqrt(1 - r**2) * eps))


def _smooth_field(rng: np.random.Generator, xy: Array, waves: int = 6) -> Array:
    """A sum of plane waves no shorter than about half the extent of the tissue."""
    extent = np.ptp(xy, axis=0).max()
    theta = rng.uniform(0, 2 * np.pi, waves)
    k = 2 * np.pi / extent * rng.uniform(0.6, 2.0, waves) * np.stack([np.cos(theta), np.sin(theta)])
    return np.cos(xy @ k + rng.uniform(0, 2 * np.pi, waves)).sum(axis=1)
