"""The two sides of a join: ids of the nuclei, and ids of the table's rows that they are looked for in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from spatialdata.transformations import get_transformation

from lemon_sc._core.errors import missing_key
from lemon_sc.geometry.affine import invert, transform
from lemon_sc.geometry.outlines import outline_centres
from lemon_sc.io.ids import ATTRS, CELL_ID, INDEX, OBS_NAMES, as_text, without
from lemon_sc.io.mpp import to_system
from lemon_sc.io.words import WORDS

if TYPE_CHECKING:
    import anndata as ad
    import geopandas as gpd
    import spatialdata as sd
    from numpy.typing import NDArray

    from lemon_sc.geometry.affine import Affine
    from lemon_sc.io.elements import Kind
    from lemon_sc.io.words import Noun

SAME_PLACE = 0.9
"""Share of labels whose centre must lie in the outline of the same number, for the two to number the same nuclei."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Labels:
    """Labels of an image: their values, (n,), and their centres in its px, (n, 2)."""

    values: NDArray[np.int64]
    xy: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sides:
    """What is joined to what.

    Attributes
    ----------
    own
        Ids of the nuclei themselves, as text, (n_nuclei,).
    cells
        Ids of their cells, as text, or None if the element does not name them.
    left, right
        Columns that are joined, of nuclei and table.
    table_ids
        Ids of the table's rows, as text, (n_obs,).
    asked
        Rows of the table that annotate these nuclei or may do so, bool (n_obs,).
    annotates
        Whether the table annotates the nuclei.
    region
        Region of the table that the rows were restricted to, else "".
    """

    own: NDArray[Any]
    cells: NDArray[Any] | None
    left: str
    right: str
    table_ids: NDArray[Any]
    asked: NDArray[np.bool_]
    annotates: bool
    region: str = ""

    @property
    def ids(self) -> NDArray[Any]:
        """Ids of the nuclei that are joined, (n_nuclei,)."""
        return self.own if self.left == INDEX or self.cells is None else self.cells

    @property
    def only_numbers(self) -> bool:
        """Whether nothing but equal numbers says that nuclei and cells belong together."""
        return not self.annotates and self.cells is None and all(i.isdecimal() for i in self.own)


@dataclass(frozen=True, eq=False, kw_only=True)
class Element:
    """What is joined: its object, the element in it, its kind and name, its labels if it has any, and what it holds."""

    sdata: sd.SpatialData
    element: Any
    kind: Kind
    key: str
    labels: Labels | None
    noun: Noun = "nuclei"

    def xy(self) -> NDArray[np.float64]:
        """Centres in the element's own coordinates, (n, 2)."""
        if self.labels is not None:
            return self.labels.xy
        if self.kind == "points":
            return self.element[["x", "y"]].compute().to_numpy(dtype=np.float64)
        return outline_centres(self.element.geometry).xy


def cell_places(adata: ad.AnnData) -> NDArray[np.float64] | None:
    """``obsm["spatial"]`` of a table as an array (n_obs, 2), in whatever frame, or None.

    Parameters
    ----------
    adata
        The table.

    Returns
    -------
    Float64 (n_obs, 2), or None.
    """
    spatial = adata.obsm.get("spatial")
    if spatial is None:
        return None
    places = np.asarray(spatial)
    if places.ndim != 2 or places.shape[1] < 2 or not np.issubdtype(places.dtype, np.number):
        return None
    return places[:, :2].astype(np.float64)


def _number_the_same(shapes: gpd.GeoDataFrame, labels: Labels, to_labels: Affine) -> bool:
    """Whether outlines with a ``cell_id`` and labels carry the same numbers for the same nuclei, by where they lie."""
    if CELL_ID not in shapes or not pd.api.types.is_integer_dtype(shapes.index) or not shapes.index.is_unique:
        return False
    if not len(labels.values) or not np.isin(labels.values, shapes.index).all():
        return False
    outlines = shapes.geometry.loc[labels.values].to_numpy()
    moved = shapely.transform(outlines, lambda xy: transform(to_labels, xy))
    return bool(shapely.contains_xy(moved, *labels.xy.T).mean() >= SAME_PLACE)


def _named_by_outlines(nuclei: Element, labels: Labels) -> Any:
    """Cell ids of labels from the outlines of the same nuclei, or None where no outlines are of the same nuclei."""
    for shapes in nuclei.sdata.shapes.values():
        shared = sorted(
            {*get_transformation(shapes, get_all=True)} & {*get_transformation(nuclei.element, get_all=True)}
        )
        if shared:
            to_labels = invert(to_system(nuclei.element, shared[0])) @ to_system(shapes, shared[0])
            if _number_the_same(shapes, labels, to_labels):
                return shapes[CELL_ID].loc[labels.values]
    return None


def _nucleus_ids(nuclei: Element) -> tuple[Any, Any]:
    """Own ids of the nuclei, and their cells' ids if the element names them (else None).

    XOA >= 2 numbers nuclei and cells independently; there the outlines, indexed by the same numbers as the label image
    and lying on it, name the cell of each nucleus.
    """
    if nuclei.labels is not None:
        return nuclei.labels.values, _named_by_outlines(nuclei, nuclei.labels)
    element = nuclei.element
    cells = element[CELL_ID] if CELL_ID in element.columns else None
    if nuclei.kind == "points":
        if cells is None:
            fix = f"It must name the {WORDS[nuclei.noun].row} of each centroid."
            raise missing_key(CELL_ID, where="points", have=element.columns, fix=fix)
        return element.index.compute(), cells.compute()
    return element.index, cells


def declared(adata: ad.AnnData) -> tuple[list[str], str | None, NDArray[Any] | None]:
    """What the table annotates: elements, the column that names their instances, and the element of each row.

    Parameters
    ----------
    adata
        The table.

    Returns
    -------
    Names of the elements, name of the column, and names (n_obs,); the last two None where the table does not say.

    Raises
    ------
    MissingKeyError
        If a column that it names is not there.
    """
    attrs = adata.uns.get(ATTRS, {})
    region, region_key, instance_key = (attrs.get(k) for k in ("region", "region_key", "instance_key"))
    regions = [region] if isinstance(region, str) else list(region if region is not None else [])
    for name, column in (("region_key", region_key), ("instance_key", instance_key)):
        if column is not None and column not in adata.obs:
            raise missing_key(column, where="table.obs", have=adata.obs, fix=f"It is the table's `{name}`.")
    return regions, instance_key, None if region_key is None else adata.obs[region_key].astype(str).to_numpy()


def sides_of(adata: ad.AnnData, nuclei: Element) -> Sides:
    """Decide what is joined to what, before anything is compared.

    Parameters
    ----------
    adata
        The table.
    nuclei
        What is joined to its rows.

    Returns
    -------
    The ids of both sides, and where they come from.

    Raises
    ------
    MissingKeyError
        If the table names a column that is not there, or points name no cell.
    """
    regions, instance_key, region_of = declared(adata)
    own, cells = _nucleus_ids(nuclei)
    own, cells = as_text(own), None if cells is None else as_text(cells)
    left = INDEX if cells is None else CELL_ID

    asked = np.ones(adata.n_obs, dtype=np.bool_)
    annotates = nuclei.key in regions and instance_key is not None
    if annotates:
        left, right = INDEX, str(instance_key)
        asked = asked if region_of is None else region_of == nuclei.key
    elif CELL_ID in adata.obs:
        right = CELL_ID
    else:
        right = instance_key if instance_key is not None and cells is None else OBS_NAMES
    ids = without(as_text(adata.obs_names if right == OBS_NAMES else adata.obs[right]), ~asked)
    return Sides(own=own, cells=cells, left=left, right=right, table_ids=ids, asked=asked, annotates=annotates)
