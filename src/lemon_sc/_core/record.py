"""Provenance: what made a result, beside the result, in ``adata.uns["lemon_sc"]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lemon_sc
from lemon_sc._core import keys
from lemon_sc._core.errors import missing_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData


def write_record(adata: AnnData, verb: str, record: Mapping[str, Any], *, key: str | None = None) -> None:
    """Store `record` and the package version in ``uns["lemon_sc"][verb]``, or ``[verb][key]``.

    Values must survive ``write_h5ad``: numbers, strings, arrays, data frames and dicts of them; no ``None``.
    """
    made = {**record, "version": lemon_sc.__version__}
    home = dict(adata.uns.get(keys.UNS, {}))  # new dicts: a view must not write into its parent's
    home[verb] = made if key is None else {**home.get(verb, {}), key: made}
    adata.uns[keys.UNS] = home


def read_record(adata: AnnData, verb: str, *, key: str | None = None, fix: str) -> dict[str, Any]:
    """The record that `write_record` stored; an error with `fix` where there is none."""
    home = adata.uns.get(keys.UNS, {})
    if verb not in home:
        raise missing_key(verb, where=f'adata.uns["{keys.UNS}"]', have=home, fix=fix)
    if key is None:
        return home[verb]
    if key not in home[verb]:
        raise missing_key(key, where=f'adata.uns["{keys.UNS}"]["{verb}"]', have=home[verb], fix=fix)
    return home[verb][key]
