"""Provenance: what made a result, beside the result, in ``adata.uns["lemon_sc"]``.

Each record has an ``id``, a digest of the settings that decide the result, and ``made_from``, the id of the record it
was computed from. Where a step is run again with other settings, the records that were made from it say so in
``stale``.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import lemon_sc
from lemon_sc._core import keys
from lemon_sc._core.errors import missing_key
from lemon_sc._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anndata import AnnData

ID, MADE_FROM, STALE = "id", "made_from", "stale"
MOST_VALUES = 64
"""Longest array that `as_json` writes out; an affine is written, crops and columns of cells are not."""


def write_record(
    adata: AnnData,
    verb: str,
    record: Mapping[str, Any],
    *,
    key: str | None = None,
    decides: Iterable[str] = (),
    made_from: str = "",
) -> None:
    """Store `record` and the package version in ``uns["lemon_sc"][verb]``, or ``[verb][key]``.

    Parameters
    ----------
    adata
        The table.
    verb, key
        Place of the record.
    record
        Values must survive ``write_h5ad``: numbers, strings, arrays, data frames and dicts of them; no ``None``.
    decides
        Names in `record` of the settings that decide the result. If one of them differs from the record that stood
        here before, all that was made from that one is marked as out of date, and a warning says what and why.
    made_from
        ``id`` of the record of the step whose result this one used.
    """
    decides = list(decides)
    settings = {name: record[name] for name in decides}
    made = {
        **record,
        "version": lemon_sc.__version__,
        ID: digest(verb, key, settings, made_from),
        MADE_FROM: made_from,
    }
    home = dict(adata.uns.get(keys.UNS, {}))  # new dicts: a view must not write into its parent's
    before = home.get(verb, {}) if key is None else home.get(verb, {}).get(key, {})
    home[verb] = made if key is None else {**home.get(verb, {}), key: made}
    if before.get(ID, made[ID]) != made[ID]:
        why = f"{_place(verb, key)} was made again{_differences(before, made, decides)}"
        marked = _mark(home, before[ID], why)
        if marked:
            logger.warning("%s; out of date: %s", why, ", ".join(marked))
    _renew(home, made[ID])
    adata.uns[keys.UNS] = home


def read_record(adata: AnnData, verb: str, *, key: str | None = None, fix: str) -> dict[str, Any]:
    """The record that `write_record` stored, with a warning if it is out of date; an error with `fix` without one.

    Parameters
    ----------
    adata
        The table.
    verb, key
        Place of the record.
    fix
        What to do where there is none.

    Returns
    -------
    The record.
    """
    home = adata.uns.get(keys.UNS, {})
    if verb not in home:
        raise missing_key(verb, where=f'adata.uns["{keys.UNS}"]', have=home, fix=fix)
    if key is not None and key not in home[verb]:
        raise missing_key(key, where=f'adata.uns["{keys.UNS}"]["{verb}"]', have=home[verb], fix=fix)
    record: dict[str, Any] = home[verb] if key is None else home[verb][key]
    warn_if_stale(adata, verb, key)
    return record


def record_id(adata: AnnData, verb: str, key: str | None = None) -> str:
    """``id`` of a record, empty where there is none.

    Parameters
    ----------
    adata
        The table.
    verb, key
        Place of the record.

    Returns
    -------
    12 hexadecimal digits, or nothing.
    """
    home = adata.uns.get(keys.UNS, {}).get(verb, {})
    return str((home if key is None else home.get(key, {})).get(ID, ""))


def warn_if_stale(adata: AnnData, verb: str, key: str | None) -> None:
    """Log a warning if a record is marked as out of date.

    Parameters
    ----------
    adata
        The table.
    verb, key
        Place of the record.
    """
    home = adata.uns.get(keys.UNS, {}).get(verb, {})
    record = home if key is None else home.get(key, {})
    if STALE in record:
        logger.warning("%s is out of date: %s", _place(verb, key), record[STALE])


def records(adata: AnnData) -> list[dict[str, Any]]:
    """Every record of a table as plain JSON values, each after the one that it was made from.

    Parameters
    ----------
    adata
        The table.

    Returns
    -------
    One dict per record: ``step`` (the verb), ``key`` (empty for a step with one record) and what the record holds, as
    `as_json` renders it.
    """
    found = [
        {"step": verb, "key": key or "", **as_json(record)}
        for verb, key, record in _records(adata.uns.get(keys.UNS, {}))
        if isinstance(record.get(ID), str)
    ]
    parents = {record[ID]: record.get(MADE_FROM, "") for record in found}

    def depth(of: str) -> int:
        return 0 if of not in parents else 1 + depth(parents[of])

    return sorted(found, key=lambda record: (depth(record.get(MADE_FROM, "")), record["step"], record["key"]))


def as_json(value: Any) -> Any:
    """A value of a record as the types of JSON: dict, list, str, int, float, bool and ``None``.

    Parameters
    ----------
    value
        A number, text, array, table or dict of them.

    Returns
    -------
    Numbers that are not finite become ``None``. Arrays of up to `MOST_VALUES` values become nested lists; longer ones
    and tables are results, of which ``shape`` and ``sha256``, 12 digits of the digest of their values, are given.
    """
    if isinstance(value, dict):
        return {str(name): as_json(v) for name, v in value.items()}
    if isinstance(value, pd.DataFrame):
        columns = {str(name): value[name].to_numpy(dtype=object) for name in value}
        return {"columns": list(columns), "shape": list(value.shape), "sha256": digest(columns)}
    if isinstance(value, np.ndarray | list | tuple):
        array = np.asarray(value)
        if array.size > MOST_VALUES:
            return {"shape": list(array.shape), "sha256": digest(array)}
        return [as_json(v) for v in array.tolist()] if array.ndim else as_json(array.item())
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else str(value)


def digest(*parts: Any) -> str:
    """Digest of nested settings, 12 hexadecimal digits; equal for equal values, whatever file they went through.

    Parameters
    ----------
    *parts
        Numbers, texts, arrays, and dicts and lists of them.

    Returns
    -------
    12 hexadecimal digits.
    """
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()[:12]


def _canonical(value: Any) -> str:
    """Text of a value that is the same before and after a file: 40, 40.0 and np.int64(40) are one."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_canonical(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, np.ndarray | list | tuple):
        return "[" + ",".join(_canonical(v) for v in np.asarray(value, dtype=object).ravel().tolist()) + "]"
    if isinstance(value, bool | np.bool_ | int | float | np.number):
        return format(float(value), ".10g")
    return repr(str(value))


def _place(verb: str, key: str | None) -> str:
    return f'uns["{keys.UNS}"]["{verb}"]' + ("" if key is None else f'["{key}"]')


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], names: Iterable[str]) -> str:
    """What changed, in words: ``" with other settings (mask: '' -> 'nucleus')"``."""
    changed = [n for n in names if n in before and _canonical(before[n]) != _canonical(after[n])]
    if not changed:
        return ""
    shown = [f"{n}: {before[n]!r} -> {after[n]!r}" if np.ndim(after[n]) == 0 else n for n in changed]
    return f" with other settings ({', '.join(shown)})"


def _records(home: Mapping[str, Any]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Verb, key and content of every record."""
    for verb, found in home.items():
        if not isinstance(found, dict):
            continue
        if isinstance(found.get(ID), str):  # a record; else records by key, of which one may be called "id"
            yield verb, None, found
        else:
            yield from ((verb, key, record) for key, record in found.items() if isinstance(record, dict))


def _mark(home: dict[str, Any], of: str, why: str) -> list[str]:
    """Mark what was made from the record `of`, and in turn from that; return the places."""
    marked: list[str] = []
    for verb, key, record in list(_records(home)):
        if of and record.get(MADE_FROM) == of:
            _replace(home, verb, key, {**record, STALE: why})
            marked += [_place(verb, key), *_mark(home, record[ID], why)]
    return marked


def _renew(home: dict[str, Any], of: str) -> None:
    """Take the mark off what was made from the record `of`: the settings are again what they were."""
    for verb, key, record in list(_records(home)):
        if record.get(MADE_FROM) == of and STALE in record:
            _replace(home, verb, key, {n: v for n, v in record.items() if n != STALE})
            _renew(home, record[ID])


def _replace(home: dict[str, Any], verb: str, key: str | None, record: dict[str, Any]) -> None:
    home[verb] = record if key is None else {**home[verb], key: record}
