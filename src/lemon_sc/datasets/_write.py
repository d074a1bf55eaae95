"""A phantom as files: the output folder of a Xenium run, with its H&E and the alignment file of Xenium Explorer."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import tifffile
import zarr
from shapely import get_coordinates, get_num_coordinates

from lemon_sc._core.docs import doc
from lemon_sc._core.record import read_record
from lemon_sc._core.table import as_table
from lemon_sc.datasets._ids import split_cell_ids

if TYPE_CHECKING:
    import os

    from anndata import AnnData
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData
    from xarray import DataTree

VERSION = {"string": "xenium-3.0.0.15", "int": "xenium-1.0.1"}
TIFF_TILE = (512, 512)
PARQUET_OBS = (
    "transcript_counts",
    "control_probe_counts",
    "control_codeword_counts",
    "total_counts",
    "cell_area",
    "nucleus_area",
)


@doc
def write_phantom(sdata: SpatialData, *, path: str | os.PathLike[str]) -> None:
    """Write a phantom as the output folder of a Xenium run, so that readers can be tried from disk.

    Parameters
    ----------
    sdata
        What `phantom` returned.
    path
        Folder to create. It may exist if it is empty.

    Returns
    -------
    Nothing. The folder then holds what `spatialdata_io.xenium` reads: ``experiment.xenium``, ``cells.parquet``,
    ``cells.zarr.zip``, ``nucleus_boundaries.parquet``, ``cell_boundaries.parquet``, ``transcripts.parquet``,
    ``cell_feature_matrix.h5`` and the morphology images; and the H&E as a tiled, pyramidal OME-TIFF,
    ``he_image.ome.tif``, with its matrix in ``he_imagealignment.csv``. The layout is that of Xenium Onboard Analysis 3
    for text ids and 1.0 for integer ids. Outlines and transcripts are stored as float32, as in a real run. The truth is
    not written.

    Raises
    ------
    FileExistsError
        If there is something at `path`.
    MissingKeyError
        If `sdata` is no phantom.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> lm.datasets.write_phantom(lm.datasets.phantom(n_cells=200), path="outs")  # doctest: +SKIP
    """
    folder = Path(path)
    table = as_table(sdata)
    record = read_record(table, "phantom", fix="Pass what `lm.datasets.phantom()` returned.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"'{folder}' exists and is not an empty folder. Pass another `path=`, or remove it first."
        raise FileExistsError(msg)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_run(sdata, table, record, part)
        part.chmod(0o755)  # mkdtemp makes it private
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part)
        raise


def _write_run(sdata: SpatialData, table: AnnData, record: dict[str, Any], folder: Path) -> None:
    ids = str(record["ids"])
    pixel = float(record["pixel_size"])
    _write_specs(table, folder, ids, pixel)
    _write_cells(table, folder)
    _write_matrix(table, folder / "cell_feature_matrix.h5")
    _write_masks(sdata, table, folder / "cells.zarr.zip", ids)
    labels = dict(zip(table.obs["cell_id"], table.obs["cell_labels"], strict=True)) if ids == "string" else None
    nuclei, cells = sdata["nucleus_boundaries"], sdata["cell_boundaries"]
    owner = nuclei["cell_id"].to_numpy() if ids == "string" else nuclei.index.to_numpy()
    _write_boundaries(nuclei, owner, nuclei.index.to_numpy() if labels else None, folder / "nucleus_boundaries.parquet")
    cell_id = cells.index.to_numpy()
    cell_label = np.array([labels[c] for c in cell_id]) if labels else None
    _write_boundaries(cells, cell_id, cell_label, folder / "cell_boundaries.parquet")
    _write_transcripts(sdata, folder / "transcripts.parquet")
    _write_morphology(sdata, folder, ids, pixel)
    write_ome_tiff(sdata["he_image"], folder / "he_image.ome.tif", mpp=float(record["mpp"]))
    np.savetxt(folder / "he_imagealignment.csv", np.asarray(record["affine"]), delimiter=",", fmt="%.17g")


def _write_specs(table: AnnData, folder: Path, ids: str, pixel: float) -> None:
    specs = {
        "major_version": 4 if ids == "int" else 6,
        "minor_version": 1,
        "run_name": "phantom",
        "region_name": "phantom",
        "preservation_method": "ffpe",
        "num_cells": table.n_obs,
        "panel_name": "phantom",
        "panel_organism": "Human",
        "pixel_size": pixel,
        "analysis_sw_version": VERSION[ids],
    }
    (folder / "experiment.xenium").write_text(json.dumps(specs, indent=1), encoding="utf-8")


def _write_cells(table: AnnData, folder: Path) -> None:
    cells = pd.DataFrame({"cell_id": table.obs["cell_id"].to_numpy()})
    cells[["x_centroid", "y_centroid"]] = np.asarray(table.obsm["spatial"])
    for column in PARQUET_OBS:
        cells[column] = table.obs[column].to_numpy()
    cells.to_parquet(folder / "cells.parquet", index=False)


def _write_matrix(table: AnnData, path: Path) -> None:
    """The 10x HDF5 layout: features x cells, compressed by cell, which is the table's own CSR."""
    counts = table.X.astype(np.int32)
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(table.obs_names.astype(str), dtype="S")
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data, counts.indices, counts.indptr
        matrix["shape"] = np.array(table.shape[::-1], dtype=np.int32)
        features = matrix.create_group("features")
        features["id"] = np.array(table.var["gene_ids"], dtype="S")
        features["name"] = np.array(table.var_names, dtype="S")
        features["feature_type"] = np.array(table.var["feature_types"], dtype="S")
        features["genome"] = np.array(table.var["genome"], dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def _write_masks(sdata: SpatialData, table: AnnData, path: Path, ids: str) -> None:
    with zarr.storage.ZipStore(path, mode="w") as store:
        root = zarr.create_group(store, zarr_format=2)
        masks = root.create_group("masks")
        for i, name in enumerate(("nucleus_labels", "cell_labels")):
            masks.create_array(str(i), data=_level(sdata[name], 0), chunks=(1024, 1024))
        if ids == "int":
            root.create_array("cell_id", data=table.obs["cell_id"].to_numpy().astype(np.uint32))
            return
        root.create_array("cell_id", data=split_cell_ids(table.obs["cell_id"]))
        names = ["z_level", "nucleus_count"]
        summary = table.obs[names].to_numpy(dtype=np.float64)
        root.create_array("cell_summary", data=summary, attributes={"column_names": names})
        row = pd.Series(np.arange(table.n_obs, dtype=np.uint32), index=table.obs["cell_id"].to_numpy())
        owners = (row[sdata["nucleus_boundaries"]["cell_id"]].to_numpy(), row.to_numpy())
        sets = root.create_group("polygon_sets")
        for i, owner in enumerate(owners):
            sets.create_group(str(i)).create_array("cell_index", data=owner)


def _write_boundaries(shapes: GeoDataFrame, owner: NDArray[Any], label: NDArray[np.integer] | None, path: Path) -> None:
    """One row per vertex."""
    times = get_num_coordinates(shapes.geometry.to_numpy())
    xy = get_coordinates(shapes.geometry.to_numpy()).astype(np.float32)
    rows = pd.DataFrame({"cell_id": np.repeat(owner, times), "vertex_x": xy[:, 0], "vertex_y": xy[:, 1]})
    if label is not None:
        rows["label_id"] = np.repeat(label, times).astype(np.uint32)
    rows.to_parquet(path, index=False)


def _write_transcripts(sdata: SpatialData, path: Path) -> None:
    rows = sdata["transcripts"].compute()
    rows["feature_name"] = rows["feature_name"].astype(str)
    rows = rows.rename(columns={axis: f"{axis}_location" for axis in "xyz"})
    rows.attrs = {}  # the transformations, which parquet cannot hold
    rows.to_parquet(path, index=False)


def _write_morphology(sdata: SpatialData, folder: Path, ids: str, pixel: float) -> None:
    if ids == "int":
        for name in ("morphology_focus", "morphology_mip"):
            write_ome_tiff(sdata[name], folder / f"{name}.ome.tif", mpp=pixel)
        return
    home = folder / "morphology_focus"
    home.mkdir()
    write_ome_tiff(sdata["morphology_focus"], home / "morphology_focus_0000.ome.tif", mpp=pixel)


def _level(element: DataTree, level: int) -> NDArray[Any]:
    return element[f"scale{level}"].image.to_numpy()


def write_ome_tiff(image: DataTree, path: Path, *, mpp: float) -> None:
    """Tiled OME-TIFF with the levels of `image` as a pyramid in SubIFDs, lossless; RGB is stored interleaved."""
    levels = [_level(image, i) for i in range(len(image.children))]
    rgb = levels[0].shape[0] == 3
    axes = "YXS" if rgb else "YX"
    planes = [np.moveaxis(level, 0, -1) if rgb else level[0] for level in levels]
    size = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
    common: dict[str, Any] = {
        "tile": TIFF_TILE,
        "compression": "zlib",
        "photometric": "rgb" if rgb else "minisblack",
    }
    with tifffile.TiffWriter(path, ome=True, bigtiff=planes[0].nbytes > 2**31) as tiff:
        tiff.write(planes[0], subifds=len(planes) - 1, metadata={"axes": axes, **size}, **common)
        for plane in planes[1:]:
            tiff.write(plane, subfiletype=1, **common)
