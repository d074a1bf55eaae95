"""What a benchmark task is: a declaration, and the labelled nuclei that its adapter reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from lemon_sc.crops.stream import PyramidImage

PROBES = ("classification", "expression", "robustness", "tile", "morans_i", "cost", "composition")
"""Kinds of measurement."""

PROTOCOLS = ("stratified", "slide", "patient", "blocks")
"""Kinds of folds."""

COLUMNS = ("image", "x", "y", "slide")
"""What the table of labelled nuclei must say of each."""


class MissingDataError(FileNotFoundError):
    """A data set that is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the data of a task are published, and how they are to lie in the data folder."""

    url: str
    """Home of the data."""
    licence: str
    """As the publishers state it."""
    layout: str
    """Which files must lie where, below the data folder."""
    citation: str = ""
    """Paper to cite."""

    def missing(self, task: str, path: Path) -> MissingDataError:
        """The error for data that are not there.

        Parameters
        ----------
        task
            Name of the data set or task.
        path
            What was looked for.

        Returns
        -------
        The error, to be raised.
        """
        msg = (
            f"No data for {task!r}: '{path}' does not exist. They are published at {self.url} ({self.licence}). "
            f"Lay them out as {self.layout}"
        )
        return MissingDataError(msg)


@dataclass(frozen=True, eq=False, kw_only=True)
class Labelled:
    """Nuclei of known class or expression, in images that are opened one by one."""

    nuclei: pd.DataFrame
    """One row per window: ``image``, ``x``, ``y`` (level-0 px; pixel (r, c) has its centre at (c + 0.5, r + 0.5)),
    ``slide``, and where they are known ``label``, ``patient``, and ``item`` (windows of one item are averaged)."""
    open: Callable[[str], PyramidImage]
    """From the name of an image to the image."""
    mpp: Mapping[str, tuple[float, float]]
    """um per level-0 px, (x, y), by image."""
    expression: Any = None
    """Counts (items, genes), dense or sparse; without ``item``, a row per window."""
    genes: tuple[str, ...] = ()
    """Names of the columns of `expression`."""

    def __post_init__(self) -> None:
        lacking = [name for name in COLUMNS if name not in self.nuclei]
        if lacking:
            raise bad_value("nuclei", must=f"have the columns {list(COLUMNS)}", got=list(self.nuclei))
        if not (self.nuclei.index == np.arange(len(self.nuclei))).all():
            raise bad_value("nuclei", must="be indexed 0 .. n - 1", got=self.nuclei.index[:3].tolist())
        unknown = sorted(set(self.nuclei["image"]) - set(self.mpp))
        if unknown:
            raise bad_value("mpp", must="give the pixel size of every image", got=f"none for {unknown[:3]}")

    def items(self) -> NDArray[np.intp]:
        """(n,) item of each window: the window itself where no windows belong together."""
        if "item" in self.nuclei:
            return self.nuclei["item"].to_numpy(np.intp)
        return np.arange(len(self.nuclei))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark task: which data, which question, which folds, which scores."""

    name: str
    """How it is called."""
    version: int
    """Goes up whenever its numbers change their meaning."""
    title: str
    """In words."""
    probe: str
    """``"classification"``, ``"expression"``, ``"robustness"``, ``"tile"``, ``"morans_i"``, ``"cost"`` or
    ``"composition"``."""
    metrics: tuple[str, ...]
    """Scores, the one that counts first."""
    source: Source
    """Where the data come from."""
    adapter: Callable[[Path], Labelled] | None = None
    """Reads the data below a folder; ``None`` for studies that need no data of their own."""
    protocols: tuple[str, ...] = ()
    """How folds are drawn, of ``"stratified"`` (five random folds with the same share of each class), ``"slide"`` (no
    slide on both sides; for expression each slide is held out once), ``"patient"`` (likewise, and no patient on both
    sides) or ``"blocks"`` (square blocks of one slide)."""
    pos_label: str | None = None
    """Class whose ROC and precision-recall curves are scored; ``None``: mean over classes."""
    window_px: int = 40
    """Nuclei count whose window of so many px at 0.25 um/px lies in the image; no encoder sees a larger one."""
    most: int | None = None
    """At most so many nuclei are drawn: of the task, or for expression of each slide."""
    reference: str = ""
    """Key of the published values, empty where there are none."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What else its kind of measurement needs."""

    def __post_init__(self) -> None:
        one_of("probe", self.probe, PROBES)
        for protocol in self.protocols:
            one_of("protocols", protocol, PROTOCOLS)
        if not self.metrics:
            raise bad_value("metrics", must="name at least one score", got=self.metrics)
