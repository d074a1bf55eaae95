"""Which encoders a benchmark compares: by name, by path, and baselines that know nothing of nuclei."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc import __version__
from lemon_sc._core.errors import bad_value
from lemon_sc.models import Encoder, ModelCard, as_encoder, available, load, status
from lemon_sc.models.lemon import MEAN, STD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

N_BINS = 16
"""Bins of each colour of the histograms."""

N_PCS = {"pixel_pca": 64}
"""Principal components, of the training folds, that a probe takes of an encoder's features."""

SEED = 0
"""Of the weights of the untrained network."""


def pixels(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colours of 2 x 2 px.

    Parameters
    ----------
    crops
        uint8 (n, 40, 40, 3).

    Returns
    -------
    float32 (n, 1200).
    """
    n, side = len(crops), crops.shape[1] // 2
    return crops.reshape(n, side, 2, side, 2, 3).mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)


def histograms(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of the px in each bin of each colour.

    Parameters
    ----------
    crops
        uint8 (n, S, S, 3).

    Returns
    -------
    float32 (n, 48).
    """
    bins = crops.astype(np.int64) * N_BINS // 256 + np.arange(3) * N_BINS
    flat = bins.reshape(len(crops), -1) + np.arange(len(crops))[:, None] * 3 * N_BINS
    counts = np.bincount(flat.ravel(), minlength=len(crops) * 3 * N_BINS).reshape(len(crops), -1)
    return (counts / (crops.shape[1] * crops.shape[2])).astype(np.float32)


def untrained() -> Encoder:
    """A ViT-S/8 with its initial weights, the same each time."""
    import torch

    from lemon_sc.models import vit_s8_40

    card = ModelCard(
        name="random_vit_s8", dim=384, mean=MEAN, std=STD, num_heads=12, license="no weights", pooling="cls"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = vit_s8_40()
    return as_encoder(module, card)


def _pixel_pca() -> Encoder:
    return as_encoder(pixels, ModelCard(name="pixel_pca", dim=1200, license="no weights"))


def _histogram() -> Encoder:
    return as_encoder(histograms, ModelCard(name="histogram", dim=3 * N_BINS, license="no weights"))


BASELINES = {"histogram": _histogram, "pixel_pca": _pixel_pca, "random_vit_s8": untrained}
"""Encoders that have seen no nucleus, by name."""


def default_encoders() -> list[str]:
    """Names of what can be compared here and now: the baselines, then all models whose weights are on this machine."""
    return [*BASELINES, *(card.name for card in available() if status(card.name).startswith("ready"))]


def one(given: Any) -> Encoder:
    """One encoder.

    Parameters
    ----------
    given
        Name of a baseline or model, path of a weight file, folder or checkpoint of a run of `lm.train`, or whatever
        `lm.models.as_encoder` takes.

    Returns
    -------
    The encoder.
    """
    if isinstance(given, str) and given in BASELINES:
        return BASELINES[given]()
    if isinstance(given, str | os.PathLike):
        path = Path(given).expanduser()
        if path.is_dir() or path.suffix == ".pt":
            return _of_run(path)
        return load(given)
    return as_encoder(given)


def _of_run(path: Path) -> Encoder:
    """The encoder of a run of `lm.train`, named after the run's folder."""
    from lemon_sc.train import export

    with tempfile.TemporaryDirectory() as folder:
        name = path.resolve().name if path.is_dir() else path.resolve().parent.name
        file = Path(folder) / f"{name}.safetensors"
        export(path, file)
        return load(file)


def resolve(encoders: Iterable[Any] | None) -> dict[str, Encoder]:
    """Encoders by the name under which their rows appear.

    Parameters
    ----------
    encoders
        As `one` takes them; ``None``: all of `default_encoders`.

    Returns
    -------
    Encoders by the name of their card; a number tells equal names of different encoders apart.

    Raises
    ------
    ValueError
        If there are none.
    """
    given = default_encoders() if encoders is None else encoders
    if isinstance(given, str | os.PathLike | Encoder):
        given = [given]
    found: dict[str, Encoder] = {}
    for item in given:
        encoder = one(item)
        name = encoder.card.name
        if name in found and identity(found[name]) is not None and identity(found[name]) == identity(encoder):
            continue
        again = 2
        while name in found:
            name, again = f"{encoder.card.name}-{again}", again + 1
        found[name] = encoder
    if not found:
        raise bad_value("encoders", must="name at least one encoder", got=encoders)
    return found


def identity(encoder: Encoder) -> str | None:
    """What the embeddings of an encoder are kept under: its card, and the digest of its weights.

    Parameters
    ----------
    encoder
        The encoder.

    Returns
    -------
    SHA-256 as hex; None for a function of the user's own, which nothing tells apart from another of the same name.
    """
    card = json.dumps(asdict(encoder.card), sort_keys=True, default=str)
    if encoder.card.sha256:
        content = encoder.card.sha256
    elif encoder.module is not None:
        content = _weights(encoder.module)
    elif (getattr(encoder.function, "__module__", None) or "").startswith("lemon_sc."):
        content = f"{encoder.function.__module__}.{encoder.function.__qualname__} {__version__}"  # type: ignore[union-attr]
    else:
        return None
    return hashlib.sha256(f"{card}\n{content}".encode()).hexdigest()


def _weights(module: Any) -> str:
    """Digest of a module's tensors and layout."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())
    return digest.hexdigest()
