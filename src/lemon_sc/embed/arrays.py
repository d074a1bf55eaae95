"""Embedding of crops that are at hand as an array, for users without AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.docs import doc
from lemon_sc.embed.run import embed_batches
from lemon_sc.models.encoder import fit_crops
from lemon_sc.models.registry import as_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray


@doc
def encode(
    crops: NDArray[np.uint8],
    model: Any = None,
    *,
    device: str = "auto",
    batch_size: int | str = "auto",
    dtype: str = "auto",
) -> NDArray[np.float32]:
    """Embed crops of nuclei.

    Parameters
    ----------
    crops
        uint8 (n, S, S, 3), RGB, one nucleus in the centre of each, at the pixel size of the model's card (0.25 um).
        Crops larger than the card's ``input_px`` are cut to their centre.
    model
        ``None`` (the default encoder), a name, a checkpoint path, an `Encoder`, or a pair of a `torch.nn.Module` or
        callable and its `ModelCard`.
    %(device)s
    %(batch_size)s
    %(dtype)s

    Returns
    -------
    float32 (n, D), one row per crop.

    Raises
    ------
    TypeError, ValueError
        Crops of another type, shape or size, or a model that is not one.
    RuntimeError
        Output that is not finite or the same for all crops, or too little memory for one crop.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> import numpy as np
    >>> crops = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    >>> lm.models.encode(crops).shape == (3, lm.models.load("morphometry").card.dim)
    True
    """
    encoder = as_encoder(model)
    cut = fit_crops(crops, encoder.card.input_px)
    every_row = [(np.arange(len(cut)), cut)]
    return embed_batches(every_row, encoder, n=len(cut), device=device, batch_size=batch_size, dtype=dtype)
