"""Six slides' stains, to show nuclei in: as other laboratories and scanners would have them.

Each is the typical slide of a public set of human H&E images: of all slides of the set, the one whose stains lie
nearest to the median. `benchmarks/stain_references.py` finds them. Only these numbers are kept; there is no image in
them.

=========  ==================================================================  =========
name       set and slide (of how many)                                         licence
=========  ==================================================================  =========
tnbc       TNBC (Naylor et al. 2018), breast: patient 2 (11)                   CC BY 4.0
nuinsseg   NuInsSeg (Mahbod et al. 2024), 23 human organs: tonsil; very dark   CC BY 4.0
brecahad   BreCaHAD (Aksac et al. 2019), breast: case 10 (4)                   CC BY 4.0
midog21    MIDOG 2021, breast, by AMi-Br: slide 140 (100)                      CC0
tcga       TCGA, breast, by AtNorM-Br: all crops, whose slides have no name    MIT
xenium     10x Genomics, breast: the section of a Xenium run (Janesick 2023)   CC BY 4.0
=========  ==================================================================  =========
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from lemon_sc.crops.color import ColorStatistics
from lemon_sc.crops.stain import StainEstimate

if TYPE_CHECKING:
    from collections.abc import Mapping

REFERENCES: Final[Mapping[str, StainEstimate]] = {
    "tnbc": StainEstimate(
        vectors=np.array([[0.6195, 0.3763], [0.7111, 0.6292], [0.3326, 0.6801]]),
        strength=np.array([0.8051, 0.5667]),
    ),
    "nuinsseg": StainEstimate(
        vectors=np.array([[0.6523, 0.4341], [0.7234, 0.8379], [0.2261, 0.3309]]),
        strength=np.array([2.4063, 1.9732]),
    ),
    "brecahad": StainEstimate(
        vectors=np.array([[0.6862, 0.3235], [0.6441, 0.9029], [0.3379, 0.2831]]),
        strength=np.array([1.2934, 0.8175]),
    ),
    "midog21": StainEstimate(
        vectors=np.array([[0.5405, 0.3786], [0.6932, 0.8731], [0.4767, 0.3073]]),
        strength=np.array([2.3347, 1.1386]),
    ),
    "tcga": StainEstimate(
        vectors=np.array([[0.6412, 0.155], [0.6732, 0.9128], [0.3682, 0.3779]]),
        strength=np.array([2.2865, 1.914]),
    ),
    "xenium": StainEstimate(
        vectors=np.array([[0.6048, 0.3221], [0.7302, 0.9214], [0.3178, 0.2173]]),
        strength=np.array([1.4647, 0.6509]),
    ),
}
"""Stain vectors and strengths by Macenko's method, in the order in which they are reported."""

COLORS: Final[Mapping[str, ColorStatistics]] = {
    "tnbc": ColorStatistics(
        mean=np.array([73.7581, 13.8002, -10.9059]),
        std=np.array([7.2755, 4.1922, 5.8481]),
    ),
    "nuinsseg": ColorStatistics(
        mean=np.array([31.6707, 15.0373, -18.4529]),
        std=np.array([10.2956, 6.3702, 8.7535]),
    ),
    "brecahad": ColorStatistics(
        mean=np.array([66.1424, 18.0228, -20.2955]),
        std=np.array([11.3561, 5.7987, 5.375]),
    ),
    "midog21": ColorStatistics(
        mean=np.array([57.6485, 30.1769, -7.3385]),
        std=np.array([15.3601, 6.5491, 5.8956]),
    ),
    "tcga": ColorStatistics(
        mean=np.array([56.2426, 31.0316, -19.7581]),
        std=np.array([17.0716, 11.1524, 8.6926]),
    ),
    "xenium": ColorStatistics(
        mean=np.array([72.2314, 23.3839, -20.8534]),
        std=np.array([9.5065, 6.1154, 7.599]),
    ),
}
"""Mean and standard deviation of the tissue in CIELAB."""
