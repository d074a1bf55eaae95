"""Nuclei found in an H&E, as elements of its SpatialData: outlines in um, and a table with a row for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Scale, Sequence, get_transformation

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value
from lemon_sc._core.record import write_record
from lemon_sc._core.table import check_key
from lemon_sc._objects.per_nucleus import INSTANCE, REGION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import spatialdata as sd
    from numpy.typing import NDArray

SPATIAL = "spatial"


def check_free(sdata: sd.SpatialData, key_added: str, *, overwrite: bool) -> None:
    """Raise if nuclei cannot be put under a name without replacing what the user did not offer.

    Parameters
    ----------
    sdata
        Where they are to be put.
    key_added
        Name of the shapes; the table's follows from it.
    overwrite
        Whether nuclei of an earlier run may be replaced.

    Raises
    ------
    ValueError
        If something else has the name, or something has it and nothing may be replaced.
    """
    wanted = {check_key(key_added).lower(): "shapes", table_key_of(key_added).lower(): "tables"}
    own = is_found(sdata, key_added)
    for kind, name, _ in sdata.gen_elements():
        if name.lower() not in wanted:
            continue
        replaced = own and kind == wanted[name.lower()] and name in {key_added, table_key_of(key_added)}
        if not (replaced and overwrite):
            fix = "Pass `overwrite=True` to replace it, or another name." if replaced else "Pass another name."
            raise bad_value(
                "key_added", must="be free", got=key_added, fix=f"There is `sdata.{kind}[{name!r}]` already. {fix}"
            )


def is_found(sdata: sd.SpatialData, key_added: str) -> bool:
    """Whether shapes are nuclei that an earlier run found, and not the cells of a Xenium run, say: their table tells.

    Parameters
    ----------
    sdata
        Where they are.
    key_added
        Name of the shapes.

    Returns
    -------
    Whether they are.
    """
    table = sdata.tables.get(table_key_of(key_added))
    return key_added in sdata.shapes and table is not None and keys.SEGMENT in table.uns.get(keys.UNS, {})


def table_key_of(key_added: str) -> str:
    """Name of the table of found nuclei.

    Parameters
    ----------
    key_added
        Name of their shapes.

    Returns
    -------
    The name.
    """
    return key_added + keys.OWN_TABLE


def put_nuclei(
    sdata: sd.SpatialData,
    polygons: NDArray[Any],
    *,
    image_key: str,
    key_added: str,
    mpp: tuple[float, float],
    types: Iterable[str],
    categories: Iterable[str] | None = None,
    probability: NDArray[np.floating],
    record: Mapping[str, Any],
) -> None:
    """Put outlines and their table into a SpatialData, both or none.

    Parameters
    ----------
    sdata
        Gets ``shapes[key_added]`` and ``tables[key_added + "_table"]``; what has these names is replaced.
    polygons
        Outlines in level-0 px of the image, shapely polygons (n,).
    image_key
        The image, with which the outlines are placed in all its coordinate systems.
    key_added
        Name of the shapes.
    mpp
        um per level-0 px, (x, y).
    types, probability
        Of each nucleus, (n,).
    categories
        All types there could be, in order; None takes those there are.
    record
        What made them, for the table's ``uns``.
    """
    scale = np.asarray(mpp)
    placed = get_transformation(sdata.images[image_key], get_all=True)
    to_px = Scale(1 / scale, axes=("x", "y"))
    ids = np.arange(1, len(polygons) + 1)
    outlines = shapely.transform(np.asarray(polygons, dtype=object), lambda xy: xy * scale)
    shapes = ShapesModel.parse(
        gpd.GeoDataFrame(geometry=outlines, index=pd.Index(ids, name=INSTANCE)),
        transformations={system: Sequence([to_px, place]) for system, place in placed.items()},
    )
    obs = pd.DataFrame(
        {
            REGION: pd.Categorical([key_added] * len(ids)),
            INSTANCE: ids,
            keys.NUCLEUS_TYPE: pd.Categorical(list(types), categories=None if categories is None else list(categories)),
            keys.NUCLEUS_PROBABILITY: np.asarray(probability, dtype=np.float32),
            keys.NUCLEUS_AREA: shapely.area(outlines).astype(np.float32),
        },
        index=ids.astype(str),
    )
    table = ad.AnnData(obs=obs, obsm={SPATIAL: shapely.get_coordinates(shapely.centroid(outlines))})
    table = TableModel.parse(table, region=key_added, region_key=REGION, instance_key=INSTANCE)
    write_record(table, keys.SEGMENT, {**record, "n_nuclei": len(ids), "mpp": scale}, decides=list(record))
    before = {name: sdata[name] for name in (key_added, table_key_of(key_added)) if name in sdata}
    try:
        for name in before:
            del sdata[name]
        sdata.shapes[key_added] = shapes
        sdata.tables[table_key_of(key_added)] = table
    except BaseException:
        for name, element in before.items():
            sdata[name] = element
        raise
