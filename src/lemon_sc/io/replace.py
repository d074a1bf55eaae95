"""Put a new table in the place of an old one, in a SpatialData store on disk, so that a crash loses neither."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import spatialdata as sd

from lemon_sc._core.log import logger
from lemon_sc.io.durable import hidden, locked, sync

if TYPE_CHECKING:
    import os

    import anndata as ad


def replace_table(path: str | os.PathLike[str], table: ad.AnnData, *, table_key: str) -> None:
    """Write `table` over ``tables/<table_key>`` of the SpatialData store at `path`.

    The new table is written beside the store and takes the old one's place by two renames. The old one goes only then;
    a run that dies between the renames leaves it beside the store, and `recover` puts it back.

    Parameters
    ----------
    path
        Store that SpatialData has written.
    table
        What to write.
    table_key
        Name of the table, there or not.

    Raises
    ------
    StoreBusyError
        If another process is replacing a table of the store.
    """
    store = Path(path)
    with locked(store):
        _put_back(store, table_key)
        new, old = hidden(store, "new"), hidden(store, f"{table_key}.old")
        shutil.rmtree(new, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The table is annotating")  # what it annotates stays in the store
            sd.SpatialData(tables={table_key: table}).write(new)
        _same_format(new, store)
        place = store / "tables" / table_key
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            place.rename(old)
        (new / "tables" / table_key).rename(place)
        sync(place)
        sd.read_zarr(store, selection=()).write_consolidated_metadata()
        shutil.rmtree(new)
        shutil.rmtree(old, ignore_errors=True)


def recover(path: str | os.PathLike[str], *, table_key: str) -> None:
    """Put back a table whose replacement was cut short between its two renames; do nothing where none was.

    Parameters
    ----------
    path, table_key
        Store, and name of the table.
    """
    store = Path(path)
    if hidden(store, f"{table_key}.old").exists():
        with locked(store):
            _put_back(store, table_key)


def _put_back(store: Path, table_key: str) -> None:
    """Undo half a replacement, or clear up after a whole one."""
    old, place = hidden(store, f"{table_key}.old"), store / "tables" / table_key
    if old.exists() and not place.exists():
        old.rename(place)
        logger.warning("'%s': an earlier run was cut short; its table %r is back in place", store, table_key)
    shutil.rmtree(old, ignore_errors=True)


def _same_format(new: Path, store: Path) -> None:
    """Raise if the two stores are of different zarr formats, which do not mix."""
    if (store / "zarr.json").exists() != (new / "zarr.json").exists():
        msg = (
            f"'{store}' is in an older zarr format than the installed spatialdata writes. Write it anew: "
            "`spatialdata.read_zarr(path).write(new_path)`."
        )
        raise ValueError(msg)
