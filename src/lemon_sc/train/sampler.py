"""Which crops each step sees: an epoch of fixed length, without replacement, the same for any number of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray


def draw_epoch(n: int, length: int, *, batch: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of an epoch, int64 (length,): without replacement, or permutations in a row where it is longer than n.

    No batch holds an index twice, also where one permutation ends and the next begins: a nucleus is never its own
    negative.

    Parameters
    ----------
    n
        Crops in the corpus, at least `batch`.
    length
        Indices to draw.
    batch
        Size of the batches that the epoch is cut into.
    seed, epoch
        What decides the draw, and nothing else does.

    Returns
    -------
    int64 (length,).
    """
    rng = np.random.default_rng([seed, epoch])
    if length <= n:
        return rng.choice(n, length, replace=False).astype(np.int64)
    out = np.empty(length, dtype=np.int64)
    at = 0
    while at < length:
        order = rng.permutation(n)
        begun = at % batch  # this many of the present batch come from the permutation before
        if begun:
            twice = np.isin(order, out[at - begun : at])
            first = np.flatnonzero(~twice)[: batch - begun]
            order = np.concatenate([order[first], np.delete(order, first)])
        stop = min(at + n, length)
        out[at:stop] = order[: stop - at]
        at = stop
    return out


class Sampler:
    """Endless batches of indices into a corpus, cut into epochs whose length does not depend on its size.

    Every epoch is a new draw without replacement. Ranks take consecutive parts of each batch, so that the batches of
    all ranks, one after the other, are those of a single process: a run may go on with another number of devices.

    Parameters
    ----------
    n
        Crops in the corpus.
    epoch_length
        Crops per epoch. A remainder that fills no batch is dropped. More than `n` chains whole permutations.
    batch
        Crops per step, over all ranks together.
    rank, world
        Which process this is, of how many.
    seed
        Of the draws; the same for all ranks.

    Raises
    ------
    ValueError
        If a batch is larger than the corpus or the epoch, or does not divide among the ranks.

    Examples
    --------
    >>> from lemon_sc.train.sampler import Sampler
    >>> sampler = Sampler(10, epoch_length=8, batch=4)
    >>> [len(batch) for batch in sampler.epoch()]
    [4, 4]
    >>> sampler.state_dict()["epoch"]
    1
    """

    def __init__(self, n: int, *, epoch_length: int, batch: int, rank: int = 0, world: int = 1, seed: int = 0) -> None:
        sizes = {"n": n, "epoch_length": epoch_length, "batch": batch, "world": world}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise bad_value(name, must="be an int >= 1", got=value)
        if not 0 <= rank < world:
            raise bad_value("rank", must=f"lie in 0 to {world - 1}, one less than `world`", got=rank)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise bad_value("seed", must="be an int >= 0", got=seed)
        if batch > n:
            fix = "Take a smaller batch, or add crops: a batch never holds a crop twice."
            raise bad_value("batch", must=f"be at most the number of crops, {n}", got=batch, fix=fix)
        if batch > epoch_length:
            raise bad_value("batch", must=f"be at most `epoch_length`, {epoch_length}", got=batch)
        if batch % world:
            fix = f"{batch // world * world or world} or {-(-batch // world) * world} would do."
            raise bad_value("batch", must=f"be a multiple of the number of ranks, {world}", got=batch, fix=fix)
        self.n, self.epoch_length, self.batch = int(n), int(epoch_length), int(batch)
        self.rank, self.world, self.seed = int(rank), int(world), int(seed)
        self.epoch_number = self.step = 0
        self._drawn: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.epoch_length // self.batch

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """All indices of an epoch, over all ranks, in the order in which they are seen."""
        if self._drawn is None or self._drawn[0] != epoch:
            length = len(self) * self.batch
            self._drawn = (epoch, draw_epoch(self.n, length, batch=self.batch, seed=self.seed, epoch=epoch))
        return self._drawn[1]

    def epoch(self) -> Iterator[NDArray[np.int64]]:
        """Go on with the present epoch, to its end: this rank's part of each batch, int64 (batch / world,).

        The position moves before a batch is handed out: a state that is saved after a step counts that step as done.
        """
        epoch = self.epoch_number
        size = self.batch // self.world
        while self.epoch_number == epoch:
            start = self.step * self.batch + self.rank * size
            part = self.indices(epoch)[start : start + size]
            self.step += 1
            if self.step == len(self):
                self.epoch_number, self.step = epoch + 1, 0
            yield part

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Batches without end."""
        while True:
            yield from self.epoch()

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, for a checkpoint; the same on all ranks."""
        return {
            "n": self.n,
            "epoch_length": self.epoch_length,
            "batch": self.batch,
            "seed": self.seed,
            "epoch": self.epoch_number,
            "step": self.step,
        }

    def state_at(self, step: int) -> dict[str, Any]:
        """The state after a number of steps of a run, whatever was handed out ahead of them.

        Parameters
        ----------
        step
            Steps since the beginning.
        """
        return self.state_dict() | {"epoch": step // len(self), "step": step % len(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken. Rank and number of ranks may differ.

        Parameters
        ----------
        state
            From `state_dict`.

        Raises
        ------
        ValueError
            If the state is of another corpus, epoch length, batch or seed: the epoch could not be finished.
        """
        mine = self.state_dict()
        missing = sorted(mine.keys() - state.keys())
        if missing:
            msg = f"The sampler's state lacks {missing}: the checkpoint was written by something else."
            raise ValueError(msg)
        for name in ("n", "epoch_length", "batch", "seed"):
            if state[name] != mine[name]:
                msg = (
                    f"The checkpoint was written with `{name}` {state[name]}, this run has {mine[name]}. Take the same "
                    "value to go on, or start a new run."
                )
                raise ValueError(msg)
        epoch, step = int(state["epoch"]), int(state["step"])
        if epoch < 0 or not 0 <= step < len(self):
            msg = f"The sampler's state is damaged: epoch {epoch}, step {step} of {len(self)}."
            raise ValueError(msg)
        self.epoch_number, self.step = epoch, step
