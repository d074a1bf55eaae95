"""How a SEAL run does on units that it does not learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lemon_sc.metrics.correlation import pearson
from lemon_sc.metrics.means import nanmean
from lemon_sc.models.encoder import fit_crops, run_module

if TYPE_CHECKING:
    from lemon_sc.models.cards import ModelCard
    from lemon_sc.train.seal_data import SealData
    from lemon_sc.train.seal_network import SealNetwork

QUALITIES = ("recall_10", "pcc")
K = 10
MOST = 2048
"""Units that are looked at, evenly spread over all."""
AT_ONCE = 128


@torch.no_grad()
def validate_seal(network: SealNetwork, data: SealData, card: ModelCard) -> dict[str, float]:
    """Retrieval and reconstruction on held-out units.

    Parameters
    ----------
    network
        The network; it is in training mode afterwards.
    data
        Units on the panel of the run.
    card
        Of the encoder.

    Returns
    -------
    ``recall_10``, the share of units whose crop is among the ten that are nearest to their expression, of up to 2,048
    units, expected over random orders of those that are equally near, so that embeddings that are all alike are at
    chance; and ``pcc``, the correlation of decoded and true expression, by gene within slides, averaged.
    """
    network.eval()
    device = str(network.mean.device)
    rows = np.unique(np.linspace(0, len(data.unit) - 1, MOST).astype(np.int64))
    images, queries, decoded = [], [], []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        crops = torch.from_numpy(np.ascontiguousarray(fit_crops(data.crops(part), card.input_px))).to(device)
        image = run_module(network.encoder, crops, card, dtype="fp32").float()
        values, known = (torch.from_numpy(v).to(device) for v in data.expression(part))
        queries.append(network.expression.encode(network.standardised(values, known)).z)
        images.append(image)
        decoded.append(network.of_image(image))
    image_ND, query_ND = (torch.nn.functional.normalize(torch.cat(v), dim=1) for v in (images, queries))
    score_NN = query_ND @ image_ND.T
    own_N = score_NN.diagonal()[:, None]
    better_N, tied_N = (~(score_NN <= own_N)).sum(dim=1), (score_NN == own_N).sum(dim=1)  # NaN is no match
    found_N = ((K - better_N) / tied_N).clamp(0, 1)
    truth, seen = data.expression(rows)
    made = torch.cat(decoded).cpu().numpy()
    by_slide = [
        np.where(seen[at].all(axis=0), pearson(truth[at], made[at]), np.nan)
        for at in (np.flatnonzero(data.slide[rows] == one) for one in np.unique(data.slide[rows]))
    ]
    pcc = nanmean(nanmean(np.stack(by_slide), axis=1), axis=0)
    network.train()
    return {"recall_10": float(found_N.mean()), "pcc": float(pcc)}
