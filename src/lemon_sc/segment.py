"""The ``lemon-sc segment`` command: a slide in, a SpatialData store with its nuclei out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from spatialdata import SpatialData

IMAGE = "he_image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a segmentation needs to be told.

    Parameters
    ----------
    parser
        Gets the arguments.
    """
    parser.add_argument("slide", type=Path, help="H&E: OME-TIFF, tiled TIFF, SVS, OME-Zarr, or what OpenSlide reads")
    parser.add_argument("--out", type=Path, required=True, help="SpatialData store to write; the image is not copied")
    parser.add_argument("--model", help="name of a segmenter, path of its weights, or haematoxylin, cellpose, ...")
    parser.add_argument("--mpp", type=float, help="um per px of the slide, if its file does not say")
    parser.add_argument("--min-tissue", type=float, help="share of a tile that has to be tissue; 0 looks everywhere")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--key-added", default="he_nuclei", help="name of the nuclei in the store")
    parser.add_argument("--geojson", type=Path, help="write the nuclei here as well, as QuPath reads them")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote")


def segment(args: argparse.Namespace) -> str:
    """Segment a slide.

    Parameters
    ----------
    args
        From a parser that `add_arguments` prepared.

    Returns
    -------
    What was written, and how to go on from there.

    Raises
    ------
    FileExistsError
        If an output is there already.
    """
    import spatialdata as sd

    from lemon_sc import pp
    from lemon_sc._objects.found_nuclei import table_key_of

    for path in filter(None, (args.out, args.geojson)):
        if path.exists() and not args.overwrite:
            msg = f"'{path}' exists already. Pass --overwrite to replace it, or another name."
            raise FileExistsError(msg)
    sdata = sd.SpatialData()
    pp.add_image(sdata, args.slide, key_added=IMAGE)
    options = {} if args.min_tissue is None else {"min_tissue": args.min_tissue}
    pp.segment_nuclei(
        sdata,
        image_key=IMAGE,
        model=args.model,
        key_added=args.key_added,
        mpp=args.mpp,
        device=args.device,
        **options,
    )
    table_key = table_key_of(args.key_added)
    table = sdata[table_key]
    if args.geojson is not None:
        _write_geojson(sdata, args.key_added, table_key, args.geojson)
    del sdata.images[IMAGE]  # it is where it is; `attrs` name its path
    _write(sdata, args.out)
    return (
        f"Wrote {table.n_obs} nuclei to {args.out}. To embed them: sdata = spatialdata.read_zarr({str(args.out)!r}); "
        f"lm.pp.add_image(sdata, {str(args.slide)!r}); lm.pp.extract_nuclei(sdata, shapes_key={args.key_added!r}, "
        f"table_key={table_key!r}); lm.tl.embed(sdata, table_key={table_key!r})"
    )


def _write(sdata: SpatialData, out: Path) -> None:
    """Write a store beside the older one, if any, and only then take its place."""
    from lemon_sc.io.durable import swap

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part-{os.getpid()}.zarr")
    try:
        sdata.write(part)
        swap(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write_geojson(sdata: SpatialData, key: str, table_key: str, path: Path) -> None:
    """Outlines in px of the slide, with type and score."""
    import numpy as np
    import shapely

    from lemon_sc._core import keys
    from lemon_sc.io.geojson import write_geojson

    table = sdata[table_key]
    mpp = np.asarray(table.uns[keys.UNS][keys.SEGMENT]["mpp"])
    polygons = shapely.transform(sdata[key].geometry.to_numpy(), lambda xy: xy / mpp)
    types = table.obs[keys.NUCLEUS_TYPE].astype(str).to_numpy()
    write_geojson(path, polygons, types=types, probability=table.obs[keys.NUCLEUS_PROBABILITY].to_numpy())
