"""Plots. Each reads what the other namespaces stored, draws a bounded number of things, and returns its axes."""

from __future__ import annotations

from lemon_sc.pl._decomposition import decomposition
from lemon_sc.pl._map import morphology_map
from lemon_sc.pl._markers import markers
from lemon_sc.pl._morans_i import morans_i
from lemon_sc.pl._nuclei import nuclei
from lemon_sc.pl._outlines import outlines
from lemon_sc.pl._probe import probe
from lemon_sc.pl._qc import nucleus_qc
from lemon_sc.pl._retrieved import retrieved
from lemon_sc.pl._stain_robustness import stain_robustness

__all__ = [
    "decomposition",
    "markers",
    "morans_i",
    "morphology_map",
    "nuclei",
    "nucleus_qc",
    "outlines",
    "probe",
    "retrieved",
    "stain_robustness",
]
