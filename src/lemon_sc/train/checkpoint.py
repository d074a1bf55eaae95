"""The one file that a run goes on from: whole or the one before, and readable without running any code."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from lemon_sc._core.errors import listing
from lemon_sc.io import durable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lemon_sc.train.corpus_reader import Corpus
    from lemon_sc.train.recipes import Recipe

SCHEMA = "lemon_sc.checkpoint/1"
CHECKPOINT = "checkpoint.pt"


def write_whole(path: Path, content: bytes | Mapping[str, Any]) -> None:
    """Write a file, or a dict of tensors, so that a reader finds the old one or the new one and never a part.

    Parameters
    ----------
    path
        The file.
    content
        Bytes, or what `torch.save` takes.

    Raises
    ------
    OSError
        The disk is full, or cannot be written to; the old file is as it was.
    """
    durable.write_whole(path, content if isinstance(content, bytes) else lambda file: torch.save(dict(content), file))


def corpus_record(corpus: Corpus) -> dict[str, Any]:
    """What is kept of a corpus with everything that is trained on it.

    Parameters
    ----------
    corpus
        The corpus.

    Returns
    -------
    ``sha256`` of its manifest, ``n_crops``, ``n_slides``, ``n_organs``, ``size_px``, and ``sources`` with name and
    licence.
    """
    text = json.dumps(corpus.manifest, sort_keys=True)
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "n_crops": len(corpus),
        "n_slides": len(corpus.slides),
        "n_organs": len({slide["organ"] for slide in corpus.manifest["slides"]}),
        "size_px": corpus.size_px,
        "sources": [{k: s.get(k) for k in ("name", "licence", "n_crops")} for s in corpus.manifest.get("sources", [])],
    }


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, running no code that it might hold.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    ``recipe``, ``corpus``, ``step``, ``method``, ``optimizer``, ``sampler``, ``log`` and ``version``.

    Raises
    ------
    ValueError
        It is damaged, or no checkpoint of this package.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        msg = f"'{path}' cannot be read: it is damaged, or no checkpoint ({type(error).__name__}: {error})."
        raise ValueError(msg) from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        schema = found.get("schema") if isinstance(found, dict) else type(found).__name__
        msg = f"'{path}' is no checkpoint of lemon_sc ({schema!r}, not {SCHEMA!r}). Choose another folder."
        raise ValueError(msg)
    return found


def check_same(found: Mapping[str, Any], *, recipe: Recipe, corpus: Mapping[str, Any], path: Path) -> None:
    """Raise if a checkpoint was written by another recipe, or on another corpus.

    Parameters
    ----------
    found
        From `read_checkpoint`.
    recipe, corpus
        Of the run that is to go on; the latter from `corpus_record`.
    path
        The file, for the message.
    """
    old, new = found["recipe"], recipe.to_dict()
    differ = [f"`{k}` was {old.get(k)!r} and is {new.get(k)!r}" for k in {**old, **new} if old.get(k) != new.get(k)]
    if differ:
        msg = (
            f"'{path}' was written with another recipe: {'; '.join(differ)}. Go on with the same recipe, or begin a "
            "new run in another folder."
        )
        raise ValueError(msg)
    if found["corpus"]["sha256"] != corpus["sha256"]:
        names = listing(s["name"] for s in found["corpus"]["sources"])
        msg = (
            f"'{path}' was written on another corpus ({found['corpus']['n_crops']} crops of {names}), this one has "
            f"{corpus['n_crops']}. Go on with the same corpus, or begin a new run in another folder."
        )
        raise ValueError(msg)
