"""Expression as queries for images: the expression side of a SEAL run, with its panel and its card.

Letters of array names: N units, P genes of the panel, D width of the embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc.models.checkpoint import fit, read_tensors
from lemon_sc.models.gene_panel import GenePanel
from lemon_sc.models.seal_card import EXPRESSION, SealCard, read_seal_card

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lemon_sc.models.expression_network import ExpressionNetwork

_AT_ONCE = 4096
_STATISTICS = ("panel_mean", "panel_sd")


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpressionEncoder:
    """Gene expression in, vectors of an image encoder's space out: the cosine of both says how well they match."""

    card: SealCard
    """Names the encoder that it was trained with."""
    panel: GenePanel
    """The genes that it reads."""
    network: ExpressionNetwork
    """In evaluation mode, on the CPU."""

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes of the panel."""
        return self.panel.genes

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.card.base.dim

    @property
    def encoder_sha256(self) -> str:
        """Digest on the card of the encoder whose embeddings the vectors are compared with."""
        return self.card.adapted_sha256

    def encode_expression(self, counts: Any, genes: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of units by their counts.

        Parameters
        ----------
        counts
            Raw counts (N, G), dense or sparse.
        genes
            Names of the columns. Genes of the panel that are not among them count as average.

        Returns
        -------
        float32 (N, D), the same every time.

        Raises
        ------
        ValueError
            No counts, or no gene of the panel among the names.
        """
        values, present = self.panel.values(counts, genes)
        parts = [
            self._encoded(np.where(present, (values[k : k + _AT_ONCE].toarray() - self.panel.mean) / self.panel.sd, 0))
            for k in range(0, values.shape[0], _AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def encode_genes(self, genes: str | Sequence[str], *, shift: float = 3.0) -> NDArray[np.float32]:
        """Vectors of the mean profile with one gene raised.

        Parameters
        ----------
        genes
            One name or several, in any case.
        shift
            By how many standard deviations of the training values.

        Returns
        -------
        float32 (number of names, D).

        Raises
        ------
        MissingKeyError
            A gene that the panel has not.
        ValueError
            A `shift` that is no number, or no genes.
        """
        names = [str(g).upper() for g in ([genes] if isinstance(genes, str) else genes)]
        if not names:
            raise bad_value("genes", must="name at least one gene", got=genes)
        if not math.isfinite(shift):
            raise bad_value("shift", must="be a finite number of standard deviations", got=shift)
        place = {gene: k for k, gene in enumerate(self.genes)}
        for name in names:
            if name not in place:
                raise missing_key(name, where="genes of the panel", have=self.genes)
        profile_NP = np.zeros((len(names), len(self.genes)), np.float32)
        profile_NP[np.arange(len(names)), [place[name] for name in names]] = shift
        return self._encoded(profile_NP)

    def _encoded(self, x_NP: NDArray[np.floating]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            return self.network.encode(torch.from_numpy(x_NP.astype(np.float32))).z.numpy()


def load_expression(path: str | os.PathLike[str]) -> ExpressionEncoder:
    """Read the expression side that `lm.train.seal` wrote.

    Parameters
    ----------
    path
        The file ``expression.safetensors`` of a run; its card lies beside it.

    Returns
    -------
    The encoder of expression, on the CPU.

    Raises
    ------
    FileNotFoundError
        File or card are missing.
    ValueError
        They are damaged, or do not belong together.
    """
    import torch

    from lemon_sc.models.expression_network import ExpressionNetwork

    file = Path(path).expanduser()
    card = read_seal_card(file, kind=EXPRESSION)
    state = read_tensors(file)
    n_genes = len(card.genes)
    mean, sd = (state.pop(name, torch.zeros(0)).numpy() for name in _STATISTICS)
    if mean.shape != (n_genes,) or sd.shape != (n_genes,):
        msg = f"{file} is damaged: it has statistics of {len(mean)} genes, and its card names {n_genes}."
        raise ValueError(msg)
    network = ExpressionNetwork(
        n_genes, card.base.dim, hidden=card.hidden, n_flows=card.n_flows, generator=torch.Generator()
    )
    fit(network, state, what=f"the expression side of {card.name}", file=file)
    return ExpressionEncoder(card=card, panel=GenePanel(genes=card.genes, mean=mean, sd=sd), network=network.eval())
