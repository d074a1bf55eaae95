"""One encoder on one device: precision, memory and sanity of what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lemon_sc._core.log import logger
from lemon_sc.crops.uncut import Uncut
from lemon_sc.embed.batches import masked
from lemon_sc.embed.devices import resolve_dtype
from lemon_sc.embed.graphs import Replayed
from lemon_sc.embed.lane import LANES, Lane
from lemon_sc.models.encoder import fit_crops, run_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.embed.batches import Crops
    from lemon_sc.models.encoder import Encoder
    from lemon_sc.models.fast_vit import FastViT

PARITY_CROPS = 8
PARITY_COSINE = 0.99
"""Embeddings in reduced precision must agree with fp32 at least this well."""
FAST_PARITY_COSINE = 0.999
"""The same of a plain ViT, whose precision nobody need have asked for."""

_MEMORY_WORDS = ("out of memory", "can't allocate", "cannot allocate", "alloc_failed")


class Runner:
    """An encoder on a device, that halves its batch where memory runs out and checks what it returns.

    Parameters
    ----------
    encoder
        Copied to `device`.
    device
        Name of the device.
    batch_size
        Crops at once, to begin with.
    dtype
        ``"auto"``, ``"fp32"`` or ``"bf16"``.
    """

    def __init__(self, encoder: Encoder, *, device: str, batch_size: int, dtype: str) -> None:
        self.encoder = encoder.to(device)
        self.device = device
        self.batch_size = batch_size
        self.dtype = resolve_dtype(dtype, device, encoder)
        self.fast = fast_path(encoder, device=device, dtype=self.dtype)
        kind = device.split(":")[0]
        self.lanes = [self._lane() for _ in range(LANES.get(kind, 1))]
        self._by_lane = kind != "cpu" and encoder.module is not None
        self._parity_checked = self.dtype == "fp32"

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed crops; as `embed`, without the crops.

        Parameters
        ----------
        crops
            uint8 (b, S, S, 3).

        Returns
        -------
        float32 (b, D).
        """
        return self.embed(crops, self.lanes[0])[1]

    def embed(self, crops: Crops, lane: Lane) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Embed a batch.

        Parameters
        ----------
        crops
            uint8 (b, S, S, 3), or windows that are still to be cut.
        lane
            One of `lanes` that no other thread uses.

        Returns
        -------
        The crops, not masked, uint8 (b, S, S, 3), and their vectors, float32 (b, D).

        Raises
        ------
        RuntimeError
            Memory does not hold a single crop, output that is not finite, or reduced precision that is far from fp32.
        """
        shown: list[NDArray[np.uint8]] = []
        parts: list[NDArray[np.float32]] = []
        done = 0
        while done < len(crops):
            batch = crops[done : done + self.batch_size]
            made = self._attempt(batch, lane)
            if made is None:
                continue
            shown.append(made[0])
            parts.append(made[1])
            done += len(batch)
        if not parts:
            size = self.encoder.card.input_px
            return np.empty((0, size, size, 3), np.uint8), np.empty((0, self.encoder.card.dim), np.float32)
        cut = shown[0] if len(shown) == 1 else np.concatenate(shown)
        z = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._check_finite(z)
        if not self._parity_checked:
            first = slice(PARITY_CROPS)
            self._check_parity(masked(crops[first], cut[first]), z[first])
        return cut, z

    def _lane(self) -> Lane:
        forward = self._forward
        if self.fast is not None and self.device.startswith("cuda"):
            forward = Replayed(self.fast)
        return Lane(forward, self.encoder.card, device=self.device)

    def _forward(self, x_NHWC: torch.Tensor) -> torch.Tensor:
        """Vectors of crops that are on the device, (N, D)."""
        if self.fast is not None:
            return self.fast(x_NHWC)
        if self.encoder.module is not None:
            return run_module(self.encoder.module, x_NHWC, self.encoder.card, dtype=self.dtype)
        return torch.from_numpy(self.encoder.encode(x_NHWC.cpu().numpy()))

    def _once(self, batch: Crops, lane: Lane) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Crops and vectors of a batch that memory holds."""
        if self._by_lane or isinstance(batch, Uncut):
            return lane.run(batch)
        if self.fast is not None:
            return batch, self.fast.encode(fit_crops(batch, self.encoder.card.input_px))
        return batch, self.encoder.encode(batch, dtype=self.dtype)

    def _attempt(self, batch: Crops, lane: Lane) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
        """Crops and vectors, or None after the batch size was halved because memory ran out."""
        try:
            return self._once(batch, lane)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                msg = (
                    f"Out of memory on {self.device} with a single crop. Free memory on the device, or pass "
                    'device="cpu".'
                )
                raise RuntimeError(msg) from error
        self.batch_size = min(self.batch_size, (len(batch) + 1) // 2)  # another lane may have halved it already
        lane.release()
        if self.device.startswith("cuda"):  # after the handler: a live traceback keeps tensors alive
            torch.cuda.empty_cache()
        logger.warning("Out of memory on %s at %d crops; going on with %d.", self.device, len(batch), self.batch_size)
        return None

    def _check_finite(self, z: NDArray[np.float32]) -> None:
        bad = int((~np.isfinite(z).all(axis=1)).sum())
        if bad:
            fix = 'Try dtype="fp32".' if self.dtype != "fp32" else "Check the weights and the card's mean and std."
            msg = (
                f"Model {self.encoder.card.name!r} returned NaN or infinity for {bad} of {len(z)} crops on "
                f"{self.device} in {self.dtype}. {fix}"
            )
            raise RuntimeError(msg)

    def _check_parity(self, crops: NDArray[np.uint8], z: NDArray[np.float32]) -> None:
        exact = self.encoder.encode(crops)
        # of all crops together: one whose vector is next to 0, a nucleus like the mean, says nothing alone
        norms = float(np.linalg.norm(z)) * float(np.linalg.norm(exact))
        cosine = float((z * exact).sum()) / max(norms, float(np.finfo(np.float32).tiny))
        least = PARITY_COSINE if self.fast is None else FAST_PARITY_COSINE
        if cosine < least:
            msg = (
                f"In {self.dtype} on {self.device}, model {self.encoder.card.name!r} is far from fp32 (cosine "
                f'{cosine:.4f}, must be >= {least}). Pass dtype="fp32".'
            )
            raise RuntimeError(msg)
        self._parity_checked = True


def fast_path(encoder: Encoder, *, device: str, dtype: str) -> FastViT | None:
    """The encoder's network as a `FastViT`; None where it is no plain ViT, or not what its card says.

    Parameters
    ----------
    encoder
        On any device.
    device
        Where to compute; on others than the CPU and CUDA devices there is no fast path.
    dtype
        ``"fp32"`` or ``"bf16"``.

    Returns
    -------
    The network, or None.
    """
    module, card = encoder.module, encoder.card
    if module is None or device.split(":")[0] not in {"cpu", "cuda"}:
        return None
    from lemon_sc.models.fast_vit import FastViT, fits  # loads timm, which other models do without

    if not fits(module):
        return None
    if (
        module.patch_embed.img_size != (card.input_px, card.input_px)
        or (module.num_classes or module.embed_dim) != card.dim
    ):
        return None
    return FastViT(module, mean=card.mean, std=card.std, device=device, dtype=dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device.

    Parameters
    ----------
    error
        What was raised.

    Returns
    -------
    Whether it does.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in _MEMORY_WORDS)
