"""Tools: embed nuclei, and relate the embedding to expression."""

from lemon_sc.analysis.decomposition import DecompositionProtocol
from lemon_sc.analysis.knn_transformer import KNNTransformer
from lemon_sc.analysis.protocol import ProbeProtocol
from lemon_sc.tl._decompose import decompose
from lemon_sc.tl._embed import embed
from lemon_sc.tl._morans_i import local_morans_i, morans_i
from lemon_sc.tl._pool_nuclei import pool_nuclei
from lemon_sc.tl._probe import probe
from lemon_sc.tl._provenance import provenance
from lemon_sc.tl._retrieve import retrieve
from lemon_sc.tl._stain_robustness import stain_robustness
from lemon_sc.tl._transfer_labels import transfer_labels

__all__ = [
    "DecompositionProtocol",
    "KNNTransformer",
    "ProbeProtocol",
    "decompose",
    "embed",
    "local_morans_i",
    "morans_i",
    "pool_nuclei",
    "probe",
    "provenance",
    "retrieve",
    "stain_robustness",
    "transfer_labels",
]
