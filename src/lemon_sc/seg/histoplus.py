"""Weights in the layout of HistoPLUS: CellViT's names for the decoder, timm's for the encoder.

The file itself is gated, under a licence of its own (CC BY-NC-ND 4.0), and is never fetched.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from lemon_sc._core.errors import listing
from lemon_sc.models.checkpoint import digest, read_tensors
from lemon_sc.models.zoo import OPTIMUS, ZOO
from lemon_sc.seg.card import SegCard
from lemon_sc.seg.checkpoint import check_channels, fitted
from lemon_sc.seg.network import WIDTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    import torch

    from lemon_sc.seg.segmenter import Segmenter

CLASSES = (
    "background", "cancer", "lymphocyte", "fibroblast", "plasmocyte", "eosinophil", "neutrophil", "macrophage",
    "muscle", "endothelial", "red blood cell", "epithelial", "apoptotic body", "mitotic figure", "minor stromal",
)  # fmt: skip
"""Of the released weights; the paper has no "minor stromal"."""
TAPS = (4, 6, 8, 12)
"""Of the released weights; the paper has 3, 6, 9, 12."""
ANCHOR = "patch_embed.proj.weight"
"""Ends the name of one tensor of the encoder, and tells under which prefix it lies."""
WIDEST = "np.head.0.0.bias"
"""Has an entry per channel of the decoder at the side of the image."""
_POSITION = "encoder.vit.pos_embed"
_RENAMED = (
    (r"^neck\.decoder([0-3])\.", r"neck.skip\1."),
    (r"^decoder([0-3])\.", r"neck.skip\1."),
    (r"^(np_branch|nuclei_binary_map_decoder)\.", "np."),
    (r"^(hv_branch|hv_map_decoder)\.", "hv."),
    (r"^(tp_branch|nuclei_type_maps_decoder)\.", "tp."),
    (r"^(np|hv|tp)\.bottleneck_upsampler\.", r"\1.up4."),
    (r"^(np|hv|tp)\.decoder([1-3])_upsampler\.", r"\1.up\2."),
    (r"^(np|hv|tp)\.decoder0_header\.", r"\1.head."),
    (r"\.block\.", "."),
)


def load_histoplus(
    path: str | PathLike[str],
    *,
    classes: Sequence[str] = CLASSES,
    taps: Sequence[int] = TAPS,
    mpp: float = 0.25,
    encoder: str = "h0_mini",
) -> Segmenter:
    """Load weights in the layout of HistoPLUS from a file.

    Parameters
    ----------
    path
        Weight file: safetensors, or what `torch.save` wrote.
    classes
        Names by channel, the background first.
    taps
        Blocks of the encoder whose outputs are decoded, 1-based.
    mpp
        um per px that the weights were trained at: 0.25, or 0.5 for those at 20x.
    encoder
        Its name among `lemon_sc.seg.taps.ENCODERS`.

    Returns
    -------
    The segmenter, on the CPU, in float32.

    Raises
    ------
    FileNotFoundError
        There is no file.
    ValueError
        It is damaged or of another network, or its channels are not those of `classes`.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no weight file at '{path}'. Get HistoPLUS' weights from their authors, under their terms."
        raise FileNotFoundError(msg)
    state = renamed(read_tensors(path), file=path)
    check_channels(tuple(classes), state, file=path)
    card = SegCard(
        name="histoplus",
        encoder=encoder,
        classes=tuple(classes),
        taps=tuple(taps),
        width=state[WIDEST].shape[0] if WIDEST in state else WIDTH,
        mpp=mpp,
        size_px=_side(state, encoder=encoder, mpp=mpp),
        license="CC-BY-NC-ND-4.0",
        citation="HistoPLUS, arXiv:2508.09926",
        url="https://github.com/owkin/histoplus",
        sha256=digest(path),
        **OPTIMUS,
    )
    return fitted(card, state, file=path)


def renamed(state: Mapping[str, torch.Tensor], *, file: Path) -> dict[str, torch.Tensor]:
    """Tensors under the names of `CellViT`.

    Parameters
    ----------
    state
        By their published names: encoder under any prefix, ``neck.decoder0`` to ``3``, and the branches ``np_branch``,
        ``hv_branch``, ``tp_branch``; or those of CellViT, ``nuclei_binary_map_decoder`` and so on.
    file
        Where they come from, for the message.

    Returns
    -------
    Tensors by our names; what no rule is about keeps its own, and is reported when the network is filled.

    Raises
    ------
    ValueError
        No encoder, or two.
    """
    prefixes = [name.removesuffix(ANCHOR) for name in state if name.endswith(ANCHOR)]
    if len(prefixes) != 1:
        msg = (
            f"{file} is no checkpoint in the layout of HistoPLUS: it has {len(prefixes)} tensors '...{ANCHOR}', which "
            f"the encoder has once. It begins with {listing(state, most=4)}."
        )
        raise ValueError(msg)
    found = {}
    for key, value in state.items():
        if key.startswith(prefixes[0]) and not re.match(r"(neck|decoder\d|\w+_branch|\w+_decoder)\.", key):
            found[f"encoder.vit.{key.removeprefix(prefixes[0])}"] = value
            continue
        name = key
        for pattern, by in _RENAMED:
            name = re.sub(pattern, by, name)
        found[name] = value
    return found


def _side(state: Mapping[str, torch.Tensor], *, encoder: str, mpp: float) -> int:
    """Side of the tiles from the position embedding, or the published one where the encoder has none like it."""
    published = round(112 / mpp)
    if _POSITION not in state or encoder not in ZOO:
        return published
    options = ZOO[encoder].options
    prefix = 0 if options.get("no_embed_class") else 1 + options.get("reg_tokens", 0)
    grid = round((state[_POSITION].shape[1] - prefix) ** 0.5)
    return grid * int(options["patch_size"])
