"""The same small H&E in every format that users hold."""

import numcodecs
import numpy as np
import spatialdata as sd
import tifffile
import zarr
from spatialdata.models import Image2DModel

HEIGHT, WIDTH = 301, 370
"""No multiple of any tile, strip or chunk below."""


def rgb(height=HEIGHT, width=WIDTH, seed=0):
    """Smooth colours with a little noise, so that lossy codecs have something to lose and channels differ."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x % 251, y % 241, (x + y) % 239], axis=-1).astype(np.uint8)
    return base ^ np.random.default_rng(seed).integers(0, 4, base.shape, dtype=np.uint8)


def multiscales(axes, mpp=0.25, names=("0",)):
    """OME-NGFF multiscales metadata."""
    scales = [[mpp * 2**k if a in "yx" else 1 for a in axes] for k in range(len(names))]
    units = {"y": {"unit": "micrometer"}, "x": {"unit": "micrometer"}}
    return [
        {
            "axes": [{"name": a, **units.get(a, {})} for a in axes],
            "datasets": [
                {"path": n, "coordinateTransformations": [{"type": "scale", "scale": s}]}
                for n, s in zip(names, scales, strict=True)
            ],
        }
    ]


def ome_zarr(path, pixels, *, version, axes="cyx", **options):
    """Write an OME-Zarr image; `options` go to zarr."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    planes = np.moveaxis(pixels, 2, 0)
    at = ["cyx".index(a) for a in axes if a in "cyx"]
    data = np.expand_dims(planes.transpose(at), [i for i, a in enumerate(axes) if a not in "cyx"])
    group.create_array("0", data=data, **options)
    meta = multiscales(axes)
    group.attrs.update({"ome": {"version": "0.5", "multiscales": meta}} if version == "0.5" else {"multiscales": meta})
    return path


def by_spatialdata(path, pixels, **options):
    """Write through SpatialData, and point to the image in its store."""
    element = Image2DModel.parse(np.moveaxis(pixels, 2, 0), dims=("c", "y", "x"), c_coords=["r", "g", "b"], **options)
    sd.SpatialData(images={"he": element}).write(path)
    return path / "images" / "he"


def tiff(path, pixels, *, planar=False, **options):
    """Write a TIFF."""
    data = np.moveaxis(pixels, 2, 0) if planar else pixels
    if planar:
        options = {"planarconfig": "separate", **options}
    tifffile.imwrite(path, data, **{"photometric": "rgb", **options})
    return path


def pyramid(path, pixels, **options):
    """Write an OME-TIFF with two further levels in SubIFDs."""
    options = {"photometric": "rgb", "tile": (128, 96), **options}
    mpp = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tif:
        tif.write(pixels, subifds=2, metadata={"axes": "YXS", **mpp}, **options)
        for k in (2, 4):
            tif.write(np.ascontiguousarray(pixels[::k, ::k]), subfiletype=1, **options)
    return path


TILES = {"tile": (128, 96)}
CHUNKS = {"chunks": (3, 128, 96)}
FORMATS = {
    "zarr v2": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.4", **CHUNKS),
    "zarr v2, blosc": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.4", compressors=numcodecs.Blosc(), **CHUNKS),
    "zarr v2, raw": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.4", compressors=None, **CHUNKS),
    "zarr v2, by column": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.4", order="F", **CHUNKS),
    "zarr v2, one chunk": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.4", chunks=(3, HEIGHT, WIDTH)),
    "zarr v2, t c z y x": lambda p, x: ome_zarr(
        p / "a.zarr", x, version="0.4", axes="tczyx", chunks=(1, 1, 1, 100, 90)
    ),
    "zarr v3": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.5", **CHUNKS),
    "zarr v3, gzip": lambda p, x: ome_zarr(
        p / "a.zarr", x, version="0.5", compressors=zarr.codecs.GzipCodec(), **CHUNKS
    ),
    "zarr v3, blosc": lambda p, x: ome_zarr(
        p / "a.zarr", x, version="0.5", compressors=zarr.codecs.BloscCodec(), **CHUNKS
    ),
    "zarr v3, checksum": lambda p, x: ome_zarr(
        p / "a.zarr", x, version="0.5", compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()], **CHUNKS
    ),
    "zarr v3, transposed": lambda p, x: ome_zarr(
        p / "a.zarr", x, version="0.5", filters=[zarr.codecs.TransposeCodec(order=(1, 2, 0))], **CHUNKS
    ),
    "zarr v3, planar": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.5", chunks=(1, 64, 80)),
    "zarr v3, two planes a chunk": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.5", chunks=(2, 64, 80)),
    "zarr v3, y x c": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.5", axes="yxc", chunks=(64, 80, 3)),
    "zarr v3, sharded": lambda p, x: ome_zarr(p / "a.zarr", x, version="0.5", chunks=(3, 32, 48), shards=(3, 128, 144)),
    "zarr v3, sharded by plane": lambda p, x: ome_zarr(
        p / "a.zarr", x, version="0.5", chunks=(1, 32, 48), shards=(3, 128, 144)
    ),
    "spatialdata": lambda p, x: by_spatialdata(p / "s.zarr", x, chunks=(3, 128, 96)),
    "spatialdata, one chunk": lambda p, x: by_spatialdata(p / "s.zarr", x, chunks=(3, HEIGHT, WIDTH)),
    "spatialdata, pyramid": lambda p, x: by_spatialdata(p / "s.zarr", x, scale_factors=[2, 2], chunks=(3, 128, 96)),
    "tiff": lambda p, x: tiff(p / "a.tif", x, **TILES),
    "tiff, deflate": lambda p, x: tiff(p / "a.tif", x, compression="deflate", predictor=True, **TILES),
    "tiff, lzw": lambda p, x: tiff(p / "a.tif", x, compression="lzw", predictor=True, **TILES),
    "tiff, zstd": lambda p, x: tiff(p / "a.tif", x, compression="zstd", **TILES),
    "tiff, jpeg": lambda p, x: tiff(p / "a.tif", x, compression="jpeg", **TILES),
    "tiff, jpeg 4:2:0": lambda p, x: tiff(
        p / "a.tif", x, compression="jpeg", photometric="ycbcr", subsampling=(2, 2), **TILES
    ),
    "tiff, jpeg 2000": lambda p, x: tiff(
        p / "a.tif", x, compression="jpeg2000", compressionargs={"level": 35}, **TILES
    ),
    "tiff, jpeg 2000 lossless": lambda p, x: tiff(
        p / "a.tif", x, compression="jpeg2000", compressionargs={"reversible": True}, **TILES
    ),
    "tiff, one strip": lambda p, x: tiff(p / "a.tif", x),
    "tiff, strips": lambda p, x: tiff(p / "a.tif", x, compression="lzw", rowsperstrip=17),
    "tiff, raw strips": lambda p, x: tiff(p / "a.tif", x, rowsperstrip=17),
    "tiff, big-endian": lambda p, x: tiff(p / "a.tif", x, byteorder=">", bigtiff=True),
    "tiff, planar": lambda p, x: tiff(p / "a.tif", x, planar=True),
    "tiff, planar tiles": lambda p, x: tiff(p / "a.tif", x, planar=True, compression="deflate", **TILES),
    "tiff, planar strips": lambda p, x: tiff(p / "a.tif", x, planar=True, compression="deflate", rowsperstrip=40),
    "ome-tiff": lambda p, x: pyramid(p / "a.ome.tif", x, compression="deflate"),
    "ome-tiff, c first": lambda p, x: tiff(
        p / "a.ome.tif", np.moveaxis(x, 2, 0), photometric="minisblack", metadata={"axes": "CYX"}, **TILES
    ),
    "ome-tiff, c first, raw": lambda p, x: tiff(
        p / "a.ome.tif", np.moveaxis(x, 2, 0), photometric="minisblack", metadata={"axes": "CYX"}
    ),
}
LOSSY = {"tiff, jpeg", "tiff, jpeg 4:2:0", "tiff, jpeg 2000"}


def truth(name, path, pixels):
    """What a whole decode by the format's own library gives."""
    if name not in LOSSY:
        return pixels
    decoded = tifffile.imread(path)
    assert (decoded != pixels).any(), "a lossy file that lost nothing tests nothing"
    return decoded
