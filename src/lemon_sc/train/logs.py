"""What a run says of itself: a table of metrics, TensorBoard's events, and a bar."""

from __future__ import annotations

import csv
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from lemon_sc._core.errors import listing
from lemon_sc._core.log import logger, progress
from lemon_sc.train.distributed import rank_and_world
from lemon_sc.train.events import EventFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TABLE = "metrics.csv"
EVENTS = "events"
PLACE = ("step", "epoch", "images")
SPEED = ("seconds", "images_per_s", "utilisation")
COLLAPSED_COSINE = 0.99
"""Mean cosine of embeddings above which a run is said to have collapsed."""


class Means:
    """Means of metrics since the last row; part of a checkpoint, so that a row does not depend on a restart."""

    def __init__(self, state: Mapping[str, tuple[float, int]] | None = None) -> None:
        self._sums: dict[str, tuple[Any, int]] = dict(state or {})

    def add(self, metrics: Mapping[str, torch.Tensor]) -> None:
        """Add the metrics of a step: scalars, on any device."""
        for name, value in metrics.items():
            total, n = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value.detach().float(), n + 1)

    def state_dict(self) -> dict[str, tuple[float, int]]:
        """What was added, as numbers."""
        return {name: (float(total), n) for name, (total, n) in self._sums.items()}

    def take(self) -> dict[str, float]:
        """The means over steps, and over processes; what was added is forgotten."""
        names = sorted(self._sums)
        found = torch.tensor([float(self._sums[name][0]) / self._sums[name][1] for name in names], dtype=torch.float64)
        world = rank_and_world()[1]
        if world > 1 and names:
            found = _averaged(found, world)
        self._sums = {}
        return dict(zip(names, found.tolist(), strict=True))


def _averaged(values: torch.Tensor, world: int) -> torch.Tensor:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    there = values.to(device)
    dist.all_reduce(there)
    return (there / world).cpu()


class Logs:
    """Writes rows of metrics; of several processes, only the first has one.

    Parameters
    ----------
    out
        Folder of the run.
    columns
        Names of the metrics, beside step, epoch, images and speed.
    step, steps
        Where the run begins, and where it ends. Rows from there on, of a run that went further before it was cut off,
        are removed.
    """

    def __init__(self, out: Path, *, columns: list[str], step: int, steps: int) -> None:
        self.columns = [*PLACE, *columns, *SPEED]
        self.path = out / TABLE
        self._begin_table(step)
        self.events = EventFile(out / EVENTS, step=step)
        self.bar = progress(total=steps, desc="Training", unit="steps")
        self.bar.update(step)
        self._since = time.perf_counter()
        self._seconds = self._last_seconds
        self._warned = False

    def _begin_table(self, step: int) -> None:
        rows: list[dict[str, str]] = []
        if step and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        self._last_seconds = float(rows[-1]["seconds"]) if rows else 0.0
        part = self.path.with_name(f".{TABLE}.part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.path)

    def row(
        self, *, step: int, epoch: float, images: int, new: int, peak_share: float, metrics: Mapping[str, float]
    ) -> None:
        """Write a row.

        Parameters
        ----------
        step, epoch, images
            Steps made, epochs made, crops seen.
        new
            Crops since the last row.
        peak_share
            Utilisation at one crop per second: FLOP per crop over the peak rate.
        metrics
            Values by column.
        """
        unknown = sorted(metrics.keys() - set(self.columns))
        if unknown:
            msg = f"Metrics without a column in '{self.path}': {listing(unknown)}."
            raise ValueError(msg)
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        self._seconds += elapsed
        rate = new / elapsed if elapsed > 0 else 0.0
        found: dict[str, float] = {"step": step, "epoch": epoch, "images": images, **metrics}
        found |= {"seconds": self._seconds, "images_per_s": rate, "utilisation": rate * peak_share}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow({k: _short(v) for k, v in found.items()})
        self.events.add(step, {k: float(v) for k, v in found.items() if k not in PLACE})
        shown = [f"{k} {found[k]:.4g}" for k in ("loss", "rank", "probe") if k in found]
        self.bar.set_postfix_str(", ".join([*shown, f"{rate:.0f} images/s", f"{rate * peak_share:.0%} of peak"]))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what is done inside, a probe or a checkpoint, out of the time."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def watch(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Say once that the embeddings have collapsed.

        Parameters
        ----------
        metrics
            With ``cosine`` and ``rank`` or without.
        step
            Where the run stands, for the message.
        """
        if not self._warned and metrics.get("cosine", 0.0) > COLLAPSED_COSINE:
            self._warned = True
            logger.warning(
                "At step %d all embeddings point the same way (mean cosine %.4f, effective rank %.1f): the encoder has "
                "collapsed. A lower learning rate, a longer warm-up or a larger batch may help.",
                step, metrics["cosine"], metrics.get("rank", math.nan),
            )  # fmt: skip

    def close(self) -> None:
        """Close files and bar."""
        self.bar.close()
        self.events.close()


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.8g}"


def last_values(out: Path) -> dict[str, float]:
    """The last value of every column of a run's table.

    Parameters
    ----------
    out
        Folder of the run.

    Returns
    -------
    Values by column; none for columns that are empty.
    """
    found: dict[str, float] = {}
    path = out / TABLE
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found |= {name: float(value) for name, value in row.items() if value}
    return found
