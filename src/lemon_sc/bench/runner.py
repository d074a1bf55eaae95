"""Tasks times encoders: here or on a Dask cluster, with what is done kept, into one tidy table."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from lemon_sc import __version__
from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.log import logger
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc.bench import probes, studies
from lemon_sc.bench.catalogue import TASKS, task
from lemon_sc.bench.encoders import resolve
from lemon_sc.bench.features import check_window, drawn, features
from lemon_sc.bench.kept import keep
from lemon_sc.bench.kinds import PROTOCOLS, MissingDataError, Task
from lemon_sc.bench.rows import as_table, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lemon_sc.bench.features import Features
    from lemon_sc.bench.kinds import Labelled
    from lemon_sc.models import Encoder

    Row = dict[str, Any]

DATA = "LEMON_SC_DATA"
"""Environment variable with the data folder."""

EMBEDDINGS = "embeddings"
"""Folder of embeddings in the folder of a run."""

RESULTS = "results.csv"
"""Table in the folder of a run; rows that are not computed anew stay."""

SCORES = 2
"""Goes up whenever the same embedding gives other rows, so that scores that are kept are computed anew."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all tasks of a run share."""

    data: Path | None
    """The data folder."""
    out: Path | None
    """Folder of the run, with what is kept."""
    seed: int
    """Of folds and draws."""
    protocols: tuple[str, ...] | None
    """Kinds of folds; None: those of each task."""
    most: int | None
    """At most so many nuclei; None: as each task says."""
    device: str
    """Where encoders run."""

    @property
    def cache(self) -> Path | None:
        """Folder of the embeddings."""
        return None if self.out is None else self.out / EMBEDDINGS


def run(
    tasks: str | Task | Sequence[str | Task] | None = None,
    *,
    encoders: Iterable[Any] | None = None,
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    rng: RNG = 0,
    protocols: str | Sequence[str] | None = None,
    most: int | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Measure encoders on benchmark tasks.

    Embeddings are kept in `out` by the digest of crops and encoder, and scores by what they were computed from: the
    same call goes on where it was cut off. With a Dask client (`distributed.Client`) each pair of task and encoder is a
    job on the cluster, which must see the same folders; the table is the same.

    Parameters
    ----------
    tasks
        Names, see `tasks`, or `Task` objects of your own. ``None`` takes all whose data are there; the others are
        listed in ``.attrs["skipped"]`` with where they are published. A task that is asked for must be there.
    encoders
        Names of models, paths of weight files or of runs of `lm.train`, `Encoder` objects, pairs of a module or
        callable and its card, or the baselines ``"random_vit_s8"``, ``"pixel_pca"`` and ``"histogram"``. ``None``
        takes the baselines and all models whose weights are on this machine.
    data
        Folder of the data; ``None`` takes the environment variable ``LEMON_SC_DATA``.
    out
        Folder of the run: ``results.csv``, whose other rows stay, and what is kept. ``None`` keeps nothing.
    rng
        Seed of draws, folds and shuffles, or a Generator.
    protocols
        Kinds of folds to run, of those that a task has; ``None``: all of them.
    most
        At most so many nuclei of a task (of a slide, where expression is predicted), in place of the task's own number.
    device
        As for `lm.models.encode`.

    Returns
    -------
    One row per fold and score: ``task``, ``version``, ``encoder``, ``dim`` (what the probe saw), ``protocol``,
    ``fold``, ``metric``, ``value``, ``n`` (scored), ``n_train`` (learned from), ``seconds`` (of the probe, all folds),
    ``kind`` (``"measured"``). ``.attrs["skipped"]``: dicts with ``task``, ``encoder`` and ``reason``.

    Raises
    ------
    MissingDataError
        A task that was asked for by name has no data here; the message says where they are published.
    ValueError
        No such task or encoder, or no data folder.
    ExceptionGroup
        Tasks failed, after all others were done; what these gave is in `out`.
    """
    names = [tasks] if isinstance(tasks, str | Task) else None if tasks is None else list(tasks)
    chosen = [one if isinstance(one, Task) else task(one) for one in (TASKS if names is None else names)]
    settings = Settings(
        data=_data_folder(data),
        out=None if out is None else Path(out),
        seed=_seed(rng),
        protocols=_protocols(protocols),
        most=_most(most),
        device=device,
    )
    found = resolve(encoders)
    skipped: list[dict[str, str]] = []
    frames: list[pd.DataFrame] = []
    errors: list[Exception] = []
    for job, result in _done(chosen, found, settings):
        if isinstance(result, MissingDataError) and names is None:
            skipped.append({"task": job.name, "encoder": "", "reason": str(result)})
            logger.warning("%s: skipped. %s", job.name, result)
        elif isinstance(result, Exception):
            result.add_note(f"task {job.name!r}")
            errors.append(result)
        else:
            frames.append(result[0])
            skipped += result[1]
    table = _collected(frames, chosen, found, settings)
    table.attrs["skipped"] = _unique(skipped)
    if settings.out is not None:
        _write(settings.out / RESULTS, table)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        failed = ", ".join(f"{error.__notes__[-1]}: {error}" for error in errors)
        msg = f"{len(errors)} of {len(chosen)} tasks failed ({failed}); the others are done"
        raise ExceptionGroup(msg, errors)
    return table


def _data_folder(data: str | os.PathLike[str] | None) -> Path | None:
    given = os.environ.get(DATA) if data is None else data
    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_dir():
        msg = f"The data folder '{path}' does not exist. Pass `data=`, or set {DATA}."
        raise FileNotFoundError(msg)
    return path


def _seed(rng: RNG) -> int:
    generator = as_generator(rng)  # which refuses what is no seed
    return int(generator.integers(2**31)) if isinstance(rng, np.random.Generator) else int(rng)


def _protocols(protocols: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if protocols is None:
        return None
    given = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    return tuple(one_of("protocols", name, PROTOCOLS) for name in given)


def _most(most: int | None) -> int | None:
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise bad_value("most", must="be None or an int >= 1", got=most)
    return most


def _unique(skipped: list[dict[str, str]]) -> list[dict[str, str]]:
    return [dict(items) for items in dict.fromkeys(tuple(entry.items()) for entry in skipped)]


def _done(chosen: Sequence[Task], encoders: Mapping[str, Encoder], settings: Settings) -> Iterator[tuple[Task, Any]]:
    """Each task with what it gave, or the error it raised."""
    from lemon_sc.tl._slides import active_client, attempt

    client = active_client()
    if client is None:
        for chosen_task in chosen:
            logger.info("%s: %s", chosen_task.name, chosen_task.title)
            yield chosen_task, attempt(measure, chosen_task, encoders, settings)
        return
    from distributed import as_completed

    jobs = {}
    for chosen_task in chosen:
        whole = chosen_task.probe in {"cost", "composition"}  # these compare encoders, or time them
        for part in [encoders] if whole else [{name: encoder} for name, encoder in encoders.items()]:
            jobs[client.submit(attempt, measure, chosen_task, part, settings, pure=False)] = chosen_task
    for future in as_completed(jobs):
        error = future.exception()
        yield jobs[future], future.result() if error is None else error


def measure(
    chosen: Task, encoders: Mapping[str, Encoder], settings: Settings
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """One task with some encoders.

    Parameters
    ----------
    chosen
        The task.
    encoders
        By name.
    settings
        What all tasks share.

    Returns
    -------
    Rows, and what was left out and why.

    Raises
    ------
    MissingDataError
        If its data are not there.
    """
    if chosen.probe == "cost":
        return as_table(studies.cost(chosen, encoders, device=settings.device)), []
    if chosen.probe == "composition":
        return _composed(chosen, encoders, settings)
    if settings.data is None:
        msg = f"Task {chosen.name!r} needs data. Pass `data=`, the folder that holds them, or set {DATA}."
        raise MissingDataError(msg)
    if chosen.adapter is None:
        raise bad_value("task.adapter", must="read the data of a task", got=chosen.adapter)
    labelled = chosen.adapter(settings.data)
    fitting, skipped = _fitting(chosen, studies.poolings(encoders) if chosen.probe == "tile" else encoders)
    if not fitting:
        return as_table([]), skipped
    most = chosen.most if settings.most is None else settings.most
    nuclei = drawn(labelled.nuclei, most, by="slide" if chosen.probe == "expression" else None, seed=settings.seed)
    places: dict[str, Any] = {"cache": settings.cache, "device": settings.device}
    if chosen.probe == "robustness":
        from lemon_sc.bench.robustness import robustness

        return as_table(robustness(chosen, labelled, nuclei, fitting, seed=settings.seed, **places)), skipped
    made = features(labelled, nuclei, fitting, window_px=chosen.window_px, **places)
    frames = [_scored(chosen, labelled, embedded, name, settings) for name, embedded in made.items()]
    return pd.concat(frames, ignore_index=True), skipped


def _fitting(chosen: Task, encoders: Mapping[str, Encoder]) -> tuple[dict[str, Encoder], list[dict[str, str]]]:
    """Encoders whose crop lies within the task's window, and why others are left out."""
    fitting, skipped = {}, []
    for name, encoder in encoders.items():
        try:
            check_window(encoder, chosen.window_px)
        except ValueError as error:
            logger.warning("%s: %s skipped. %s", chosen.name, name, error)
            skipped.append({"task": chosen.name, "encoder": name, "reason": str(error)})
        else:
            fitting[name] = encoder
    return fitting, skipped


def _scored(chosen: Task, labelled: Labelled, made: Features, name: str, settings: Settings) -> pd.DataFrame:
    """Scores of one encoder, kept by what they are computed from."""
    protocols = _of_task(chosen, settings)
    path = None
    if settings.out is not None:
        made_from = (__version__, SCORES, chosen.name, chosen.version, name, settings.seed, protocols)
        digest = hashlib.sha256(repr(made_from).encode())
        for array in (made.rows, made.z, pd.util.hash_pandas_object(labelled.nuclei).to_numpy()):
            digest.update(np.ascontiguousarray(array).tobytes())
        if labelled.expression is not None:
            counts = sparse.csr_matrix(labelled.expression)
            digest.update(counts.data.tobytes() + counts.indices.tobytes() + repr(labelled.genes).encode())
        path = settings.out / "scores" / f"{chosen.name}-{digest.hexdigest()[:24]}.csv"
        if path.is_file():
            return _read(path)
    if chosen.probe == "morans_i":
        found = as_table(probes.morans_i(chosen, labelled, made, name, seed=settings.seed))
    else:
        probe = probes.expression if chosen.probe == "expression" else probes.classification
        found = as_table(probe(chosen, labelled, made, name, protocols=protocols, seed=settings.seed))
    if path is not None:
        _write_frame(path, found)
    return found


def _of_task(chosen: Task, settings: Settings) -> tuple[str, ...]:
    """The protocols of a task that are asked for."""
    wanted = settings.protocols
    return chosen.protocols if wanted is None else tuple(name for name in chosen.protocols if name in wanted)


def _composed(
    chosen: Task, encoders: Mapping[str, Encoder], settings: Settings
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The classification tasks that a study of corpora averages over: the published ones, or those that are here."""
    trained = {name: encoder for name, encoder in encoders.items() if encoder.card.training}
    if not trained:
        reason = "none of the encoders says on its card what corpus it was trained on; those of `lm.train` do"
        return as_table([]), [{"task": chosen.name, "encoder": "", "reason": reason}]
    frames: list[pd.DataFrame] = []
    for names in (chosen.options["tasks"], chosen.options["here"]):
        for name in names:
            try:
                frames.append(measure(task(name), trained, settings)[0])
            except MissingDataError as error:
                logger.info("%s: without %s. %s", chosen.name, name, error)
        if frames:
            break
    if not frames:
        msg = f"Task {chosen.name!r} averages over {list(chosen.options['tasks'])}; none of their data are here."
        raise MissingDataError(msg)
    return as_table(studies.composition(chosen, trained, pd.concat(frames, ignore_index=True))), []


def _collected(
    frames: list[pd.DataFrame], chosen: Sequence[Task], encoders: Mapping[str, Encoder], settings: Settings
) -> pd.DataFrame:
    """One table in the order of tasks and encoders, whatever order the results came in."""
    table = pd.concat([frame for frame in frames if len(frame)] or [as_table([])], ignore_index=True)
    at_task = {one.name: k for k, one in enumerate(chosen)}
    at_encoder = {name: k for k, name in enumerate(encoders)}
    order = pd.DataFrame(
        {
            "task": table["task"].map(at_task),
            "encoder": [at_encoder.get(name, at_encoder.get(name.split(":")[0], len(encoders))) for name in
                        table["encoder"].astype(str)],
        }
    ).sort_values(["task", "encoder"], kind="stable")  # fmt: skip
    return table.loc[order.index].reset_index(drop=True)


def _write(path: Path, table: pd.DataFrame) -> None:
    """Write the table of a run: older rows that were not computed anew stay."""
    _write_frame(path, merged(_read(path), table) if path.is_file() else table)


def _write_frame(path: Path, table: pd.DataFrame) -> None:
    keep(path, lambda file: file.write(table.to_csv(index=False).encode()))


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"fold": str}, keep_default_na=False, na_values={"value": ["", "nan"]})
