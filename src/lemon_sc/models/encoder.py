"""An encoder: a card, and the thing that turns crops into vectors.

Shapes: n crops, S px per side, D features.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value, one_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from lemon_sc.models.cards import ModelCard

DTYPES = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """Crops in, one vector per crop out.

    Either `function` or `module` is given.

    Attributes
    ----------
    card
        What the encoder expects and gives.
    function
        Takes uint8 crops (n, S, S, 3), returns (n, D).
    module
        Takes normalised float crops (n, 3, S, S), returns (n, D). In eval mode.
    """

    card: ModelCard
    function: Callable[[NDArray[np.uint8]], Any] | None = None
    module: torch.nn.Module | None = None

    def __post_init__(self) -> None:
        if (self.function is None) == (self.module is None):
            msg = "An Encoder needs either `function` or `module`, got " + (
                "neither." if self.module is None else "both."
            )
            raise ValueError(msg)

    @property
    def device(self) -> str:
        """Where the module's parameters are; ``"cpu"`` for a function."""
        first = None if self.module is None else next(self.module.parameters(), None)
        return "cpu" if first is None else str(first.device)

    def to(self, device: str) -> Encoder:
        """The encoder with a copy of its module on `device`; a function stays as it is."""
        if self.module is None or self.device == device:
            return self
        return replace(self, module=copy.deepcopy(self.module).to(device))

    def encode(self, crops: NDArray[np.uint8], *, dtype: str = "fp32") -> NDArray[np.float32]:
        """Embed crops in one batch, where the encoder is.

        Parameters
        ----------
        crops
            uint8 (n, S, S, 3), RGB at ``card.mpp``. Crops larger than ``card.input_px`` are cut to their centre.
        dtype
            ``"fp32"``, or ``"bf16"`` to run a module under bfloat16 autocast.

        Returns
        -------
        float32 (n, D).

        Raises
        ------
        TypeError, ValueError
            If the crops are not uint8 (n, S, S, 3), or the model does not return (n, D).
        """
        one_of("dtype", dtype, DTYPES)
        cut = fit_crops(crops, self.card.input_px)
        if not len(cut):
            return np.empty((0, self.card.dim), np.float32)
        made: Any = None
        if self.module is not None:
            made = self._through_module(cut, dtype=dtype)
        elif self.function is not None:
            made = self.function(cut)
        return as_matrix(made, n=len(cut), card=self.card)

    def _through_module(self, crops: NDArray[np.uint8], *, dtype: str) -> torch.Tensor:
        import torch

        x_NHWC = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device)
        return run_module(self.module, x_NHWC, self.card, dtype=dtype)


def fit_crops(crops: NDArray[np.uint8], input_px: int) -> NDArray[np.uint8]:
    """Check crops and cut them to their central `input_px`: of 60 px, rows and columns 10..49 are the 40.

    Parameters
    ----------
    crops
        uint8 (n, S, S, 3), RGB, S >= `input_px` and of the same parity.
    input_px
        Side of the result.

    Returns
    -------
    Uint8 (n, input_px, input_px, 3).
    """
    array = np.asarray(crops)
    if array.dtype != np.uint8:
        msg = f"`crops` must be uint8 RGB in 0..255, got {array.dtype}. Convert floats in 0..1 by (x * 255).round()."
        raise TypeError(msg)
    if array.ndim != 4 or array.shape[3] != 3 or array.shape[1] != array.shape[2]:
        msg = f"`crops` must have shape (n, S, S, 3), got {array.shape}. {_shape_hint(array.shape)}".rstrip()
        raise ValueError(msg)
    extra = array.shape[1] - input_px
    if extra < 0 or extra % 2:
        raise bad_value(
            "crops",
            must=f"be {input_px} px per side, or larger by an even number of px (this model's card)",
            got=array.shape,
            fix="Cut them anew at the card's `input_px` and `mpp`.",
        )
    inside = slice(extra // 2, extra // 2 + input_px)
    return array[:, inside, inside]


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "One crop is crops[None]."
    if len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]:
        return "Move the channels last: crops.transpose(0, 2, 3, 1)."
    return "Drop the alpha channel: crops[..., :3]." if len(shape) == 4 and shape[3] == 4 else ""


def run_module(module: Any, x_NHWC: torch.Tensor, card: ModelCard, *, dtype: str) -> torch.Tensor:
    """Normalise crops and pass them through a module.

    Parameters
    ----------
    module
        Takes normalised float crops (N, 3, S, S).
    x_NHWC
        uint8 (N, S, S, 3), where the module is.
    card
        Has the statistics.
    dtype
        ``"fp32"``, or ``"bf16"`` for bfloat16 autocast.

    Returns
    -------
    What the module gives.
    """
    import torch

    where = x_NHWC.device
    with torch.inference_mode(), torch.autocast(where.type, torch.bfloat16, enabled=dtype == "bf16"):
        x_NCHW = x_NHWC.permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v, device=where).view(1, 3, 1, 1) for v in (card.mean, card.std))
        return module((x_NCHW - mean) / std)


def as_matrix(made: Any, *, n: int, card: ModelCard) -> NDArray[np.float32]:
    """What a model returned, as float32 on the host.

    Parameters
    ----------
    made
        Array or tensor.
    n
        Crops that the model was given.
    card
        The model's.

    Returns
    -------
    float32 (n, D).

    Raises
    ------
    ValueError
        Not one vector of D numbers per crop.
    """
    if hasattr(made, "detach"):  # a tensor, perhaps bfloat16 and on a device
        made = made.detach().float().cpu().numpy()
    is_numeric = isinstance(made, np.ndarray) and made.dtype.kind in "fiu"
    if not is_numeric or made.shape != (n, card.dim):
        got = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
        msg = (
            f"Model {card.name!r} must return one vector per crop, shape ({n}, {card.dim}) by its card; it returned "
            f"{got}. Return the pooled features (for a timm ViT: num_classes=0), or correct `card.dim`."
        )
        raise ValueError(msg)
    return np.ascontiguousarray(made, dtype=np.float32)
