"""A synthetic Xenium run with its H&E, of which everything is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import spatialdata as sd
from anndata import AnnData
from dask import array as da
from dask import dataframe as dd
from geopandas import GeoDataFrame
from scipy.sparse import csr_matrix
from shapely import Polygon, area, get_coordinates, polygons
from spatialdata.models import Image2DModel, Labels2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.record import write_record
from lemon_sc._core.rng import RNG, spawn
from lemon_sc.crops.stain import REFERENCE
from lemon_sc.crops.stain_references import REFERENCES
from lemon_sc.datasets import _tissue as ti
from lemon_sc.datasets._cells import cell_polygons, grow
from lemon_sc.datasets._expression import plant_expression
from lemon_sc.datasets._he import STAINS, render_he
from lemon_sc.datasets._ids import cell_id_strings
from lemon_sc.datasets._looks import draw_details
from lemon_sc.datasets._placement import PIXEL_SIZE, Placement, place_he
from lemon_sc.datasets._rasters import dapi_image, label_image
from lemon_sc.datasets._spots import make_spots
from lemon_sc.datasets._transcripts import draw_transcripts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

MIN_CELLS = 50
FIRST_INT_ID = 1001  # a run's ids need not start at one once it has been cropped
CHUNKS = 1024
LEVELS = [2, 2, 2, 2]
PHANTOM = "phantom"


class _Ids(NamedTuple):
    """``cell`` (n), integer label of every cell (n) and of every nucleus (m)."""

    cell: NDArray[Any]
    cell_label: NDArray[np.int64]
    nucleus_label: NDArray[np.int64]


@doc
def phantom(
    *,
    n_cells: int = 2000,
    rng: RNG = 0,
    mpp: float = 0.2738,
    rotation: float = 97.0,
    flip: bool = True,
    shear: float = 0.01,
    ids: str = "string",
    stain: str | None = None,
    spots: float | None = None,
) -> sd.SpatialData:
    """A synthetic breast tumour: a Xenium run and its H&E as one SpatialData, with the truth about every cell and gene.

    Looks like what `spatialdata_io.xenium` returns (with ``gex_only=False``): the same elements, indices and
    transformations. The H&E shows ducts, tumour nests, lymphoid aggregates, vessels and stroma with seven types of
    nuclei, drawn straight into the pixels of an image that lies askew on the Xenium field and misses a strip of it.
    Some cells have two nuclei, some none, a few no counts.

    Parameters
    ----------
    n_cells
        Number of cells, at least 50. The field grows with it (about 5,500 cells per mm2).
    %(rng)s
    mpp
        Pixel size of the H&E in um.
    rotation
        Rotation of the H&E against the Xenium field, in degrees.
    flip
        Whether the H&E is mirrored.
    shear
        Shear of the H&E, as the tangent of an angle.
    ids
        ``"string"``: cell ids and nuclei as in Xenium Onboard Analysis 2 and later. ``"int"``: as in 1.0, where every
        nucleus has the id of its cell, no cell has two, and there is a ``morphology_mip`` beside ``morphology_focus``.
    stain
        Whose stain the section has: ``"tnbc"``, ``"nuinsseg"``, ``"brecahad"``, ``"midog21"``, ``"tcga"`` or
        ``"xenium"``, typical slides of public sets. ``None``: the reference of Macenko normalisation.
    spots
        Diameter in um of spots, 55 for Visium's: discs on a hexagonal lattice, 100/55 diameters apart, with the counts
        of the cells whose centres lie in them. ``None``: no spots.

    Returns
    -------
    SpatialData with images ``he_image`` and ``morphology_focus``, labels ``nucleus_labels`` and ``cell_labels``, points
    ``transcripts``, shapes ``nucleus_boundaries`` and ``cell_boundaries``, and ``table``, where the truth is

    - ``obs["truth_type"]``, ``obs["truth_area_um2"]``, ``obs["truth_elongation"]``, ``obs["truth_chromatin"]`` (mean
      amount of haematoxylin): of the cell's largest nucleus, NaN without one;
    - ``obsm["truth_xy"]``: centroid of that nucleus in H&E px (x, y), whether or not it lies in the image;
    - ``var["truth"]``: marker, morphology, position, balance, noise or control; ``var["truth_of"]``: the type or
      quantity that the gene follows; ``var["truth_r"]``: correlation of its log rate with it, before counting noise;
    - ``uns["lemon_sc"]["phantom"]``: the affine (3, 3) from H&E px to global px, and the parameters.

    With `spots` also circles ``sdata.shapes["spots"]`` and their table ``sdata.tables["spots_table"]``: counts, the
    number of cells (``obs["n_cells"]``), the place on the lattice (``obs["array_row"]``, ``obs["array_col"]``), and the
    share of each type among the spot's cells (``obsm["cell_types"]``), NaN without cells.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> sdata["table"].n_obs
    200
    """
    _check(n_cells, mpp, rotation, shear)
    _check_spots(spots)
    one_of("ids", ids, ("string", "int"))
    stains = STAINS if stain is None else _stains_of(one_of("stain", stain, REFERENCES))
    streams = spawn(rng, 7)
    tissue = ti.make_tissue(streams[0], n_cells, multinucleate=ids == "string")
    body, details = grow(tissue), draw_details(streams[1], tissue)
    placement = place_he(tissue.nuclei.centre, tissue.side, mpp=mpp, rotation=rotation, flip=flip, shear=shear)
    to_um = np.diag([PIXEL_SIZE, PIXEL_SIZE, 1.0]) @ placement.affine
    he = render_he(tissue, body, details, to_um=to_um, shape=placement.shape, rng=streams[2], stains=stains)
    made = _draw_ids(streams[3], tissue, ids)
    shapes, cells = _shapes(tissue, body, made, ids)
    table = _table(tissue, cells, placement, made, rng=streams[4], ids=ids)
    parameters = {"n_cells": n_cells, "mpp": mpp, "rotation": rotation, "flip": flip, "shear": shear, "ids": ids}
    parameters["stain"] = stain or ""
    write_record(table, PHANTOM, {**parameters, "pixel_size": PIXEL_SIZE, "affine": placement.affine})
    transcripts = draw_transcripts(
        streams[5], tissue, body, table.X.toarray().astype(int), genes=list(table.var_names), cell_id=made.cell
    )
    images, labels = _rasters(streams[6], tissue, shapes, made)
    if ids == "int":
        images["morphology_mip"] = images["morphology_focus"]  # one focal plane is its own maximum projection
    tables = {"table": table}
    if spots is not None:
        made_spots = make_spots(table, side=tissue.side, diameter=spots, to_global={"global": _um_to_global()})
        shapes[keys.SPOTS], tables[keys.SPOTS + keys.OWN_TABLE] = made_spots
    return sd.SpatialData(
        images={"he_image": _image(he, Affine(placement.affine, ("x", "y"), ("x", "y")), "rgb"), **images},
        labels=labels,
        points={"transcripts": _points(transcripts)},
        shapes=shapes,
        tables=tables,
    )


def _stains_of(name: str) -> Array:
    """Optical density per amount of each stain (2, 3), amounts being those that the published reference has."""
    made = REFERENCES[name]
    return (made.vectors * (made.strength / REFERENCE.strength)).T


def _check(n_cells: int, mpp: float, rotation: float, shear: float) -> None:
    if isinstance(n_cells, bool) or not isinstance(n_cells, int | np.integer) or n_cells < MIN_CELLS:
        raise bad_value("n_cells", must=f"be an int >= {MIN_CELLS}", got=n_cells)
    if not (np.isfinite(mpp) and 0.05 <= mpp <= 2):
        raise bad_value("mpp", must="lie between 0.05 and 2 um per px", got=mpp)
    if not np.isfinite(rotation):
        raise bad_value("rotation", must="be a finite number of degrees", got=rotation)
    if not (np.isfinite(shear) and abs(shear) <= 0.5):
        raise bad_value("shear", must="lie between -0.5 and 0.5", got=shear)


def _check_spots(spots: float | None) -> None:
    if spots is None:
        return
    if isinstance(spots, bool) or not isinstance(spots, int | float | np.number) or not 5 <= spots <= 100:
        raise bad_value("spots", must="be None or a diameter between 5 and 100 um (55 for Visium's)", got=spots)


def _um_to_global() -> Scale:
    return Scale([1 / PIXEL_SIZE] * 2, axes=("x", "y"))


def _draw_ids(rng: np.random.Generator, tissue: ti.Tissue, ids: str) -> _Ids:
    n = len(tissue.cell_type)
    if ids == "int":
        cell = np.arange(FIRST_INT_ID, FIRST_INT_ID + n, dtype=np.int64)
        return _Ids(cell, cell, cell[tissue.cell_of[: tissue.n_nuclei]])
    prefix = np.sort(rng.choice(2**29, size=n, replace=False)).astype(np.uint32)
    return _Ids(cell_id_strings(prefix), np.arange(1, n + 1), np.arange(1, tissue.n_nuclei + 1))


def _shapes(
    tissue: ti.Tissue, body: Array, made: _Ids, ids: str
) -> tuple[dict[str, GeoDataFrame], NDArray[np.object_]]:
    """Nucleus and cell boundaries in um, as the reader of either format version indexes them; and the cell polygons."""
    to_global = {"global": _um_to_global()}
    outlines = polygons(tissue.nuclei.take(np.arange(tissue.n_nuclei)).polygons())
    cells = cell_polygons(tissue, body)
    owner = made.cell[tissue.cell_of[: tissue.n_nuclei]]
    if ids == "string":
        nuclei = GeoDataFrame({"geometry": outlines, "cell_id": owner}, index=made.nucleus_label)
    else:
        nuclei = GeoDataFrame({"geometry": outlines}, index=pd.Index(owner, name="cell_id"))
    bodies = GeoDataFrame({"geometry": cells}, index=pd.Index(made.cell, name="cell_id"))
    return {
        "nucleus_boundaries": ShapesModel.parse(nuclei, transformations=to_global),
        "cell_boundaries": ShapesModel.parse(bodies, transformations=to_global),
    }, cells


def _largest(tissue: ti.Tissue) -> NDArray[np.int64]:
    """Row of every cell's largest nucleus, -1 without one."""
    largest = np.full(len(tissue.cell_type), -1)
    order = np.argsort(tissue.nuclei.area[: tissue.n_nuclei], kind="stable")
    largest[tissue.cell_of[order]] = order
    return largest


def _table(
    tissue: ti.Tissue,
    cells: NDArray[np.object_],
    placement: Placement,
    made: _Ids,
    *,
    rng: np.random.Generator,
    ids: str,
) -> AnnData:
    row = _largest(tissue)
    there = row >= 0
    pick = np.where(there, row, 0)
    nuclei = tissue.nuclei
    n_area = np.where(there, nuclei.area[pick], np.nan)
    chromatin = np.where(there, tissue.chromatin[pick], np.nan)
    kind = np.array(ti.NAMES)[tissue.cell_type]
    xy = np.array([c.centroid.coords[0] for c in cells])
    planted = plant_expression(rng, cell_type=kind, xy=xy, log_area=np.log(n_area), chromatin=chromatin)
    counts, control = planted.counts, (planted.var["truth"] == "control").to_numpy()
    n_nuclei = np.bincount(tissue.cell_of[: tissue.n_nuclei], minlength=len(cells))
    summed = np.bincount(tissue.cell_of, nuclei.area * (np.arange(len(nuclei)) < tissue.n_nuclei), len(cells))
    obs: dict[str, Any] = {
        "cell_id": made.cell.astype(np.int32) if ids == "int" else made.cell,
        "transcript_counts": counts[:, ~control].sum(axis=1),
        "control_probe_counts": counts[:, control].sum(axis=1),
        "control_codeword_counts": np.zeros(len(cells), int),
        "total_counts": counts.sum(axis=1),
        "cell_area": area(cells),
        "nucleus_area": np.where(there, summed, np.nan),
        "region": pd.Categorical(["cell_labels"] * len(cells)),
    }
    if ids == "string":
        obs |= {"z_level": 3.0, "nucleus_count": n_nuclei.astype(float), "cell_labels": made.cell_label}
    obs |= {
        "truth_type": pd.Categorical(kind, categories=ti.NAMES),
        "truth_area_um2": n_area,
        "truth_elongation": np.where(there, nuclei.a[pick] / nuclei.b[pick], np.nan),
        "truth_chromatin": chromatin,
    }
    frame = pd.DataFrame(obs, index=pd.Index(made.cell.astype(str), dtype=object))
    to_he = np.linalg.inv(placement.affine)
    truth_xy = nuclei.centre[pick] / PIXEL_SIZE @ to_he[:2, :2].T + to_he[:2, 2]
    truth_xy[~there] = np.nan
    matrix = csr_matrix(counts.astype(np.float32))
    adata = AnnData(matrix, obs=frame, var=planted.var, obsm={"spatial": xy, "truth_xy": truth_xy})
    key = "cell_labels" if ids == "string" else "cell_id"
    return TableModel.parse(adata, region="cell_labels", region_key="region", instance_key=key)


def _rasters(
    rng: np.random.Generator, tissue: ti.Tissue, shapes: dict[str, GeoDataFrame], made: _Ids
) -> tuple[dict[str, Any], dict[str, Any]]:
    size = int(np.ceil(tissue.side / PIXEL_SIZE))

    def draw(name: str, labels: NDArray[np.int64]) -> NDArray[np.uint32]:
        rings = (_ring(p) / PIXEL_SIZE for p in shapes[name].geometry)
        return label_image(rings, labels, size)

    nuclei, cells = draw("nucleus_boundaries", made.nucleus_label), draw("cell_boundaries", made.cell_label)
    dapi = dapi_image(rng, nuclei, made.nucleus_label, tissue.chromatin[: tissue.n_nuclei])
    labels = {"nucleus_labels": _labels(nuclei), "cell_labels": _labels(cells)}
    return {"morphology_focus": _image(dapi[..., None], Identity(), ["DAPI"])}, labels


def _ring(polygon: Polygon) -> Array:
    return get_coordinates(polygon.exterior)


def _labels(plane: NDArray[np.uint32]) -> Any:
    lazy = da.from_array(plane, chunks=CHUNKS)
    return Labels2DModel.parse(lazy, dims=("y", "x"), transformations={"global": Identity()}, scale_factors=LEVELS)


def _image(pixels: NDArray[Any], to_global: Any, channels: str | list[str]) -> Any:
    """Channel-first, chunked, multiscale image element."""
    lazy = da.from_array(np.moveaxis(pixels, -1, 0), chunks=(1, CHUNKS, CHUNKS))
    return Image2DModel.parse(
        lazy,
        dims=("c", "y", "x"),
        c_coords=list(channels),
        transformations={"global": to_global},
        scale_factors=LEVELS,
        chunks=(1, CHUNKS, CHUNKS),
    )


def _points(transcripts: pd.DataFrame) -> Any:
    return PointsModel.parse(
        dd.from_pandas(transcripts, npartitions=1 + len(transcripts) // 1_000_000),
        coordinates={"x": "x", "y": "y", "z": "z"},
        feature_key="feature_name",
        instance_key="cell_id",
        transformations={"global": _um_to_global()},
        sort=True,
    )
