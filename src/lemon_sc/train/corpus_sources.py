"""Where crops to train on come from: folders of images, slides, SpatialData objects.

A source lists its images; each is looked at twice, once to find the nuclei and once to cut them. Neither anndata nor
spatialdata is imported before a `SpatialDataSource` is opened, and no zarr before a `SlideSource` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from lemon_sc._core.errors import listing, missing_key
from lemon_sc.geometry.windows import check_mpp
from lemon_sc.io.image import array_image
from lemon_sc.train.corpus_images import Looked, folder_look, read_rgb

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from lemon_sc.crops.stream import PyramidImage

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Images that a folder is searched for."""
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
"""Masks that are looked for, in this order."""
MPP_TOLERANCE = 0.02
"""A pixel size that is given may differ from the file's by this."""
XY = ["x", "y"]
"""Columns of centres."""


def _check_columns(table: pd.DataFrame, *columns: str, where: str) -> None:
    """Raise if a column of a table is not there; `where` names the table."""
    for column in columns:
        if column not in table:
            raise missing_key(column, where=where, have=table.columns)


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """One image of a source.

    Attributes
    ----------
    name
        Unique within the source.
    slide, organ
        What it belongs to.
    files
        What it is read from; folders stand for all their files.
    look, open
        Find its nuclei; open its pixels.
    in_blocks
        Whether it is read in blocks, not whole.
    """

    name: str
    slide: str
    organ: str
    files: tuple[Path, ...]
    look: Callable[[], Looked]
    open: Callable[[], PyramidImage]
    in_blocks: bool = True


class Source(Protocol):
    """Anything that lists pictures."""

    @property
    def name(self) -> str:
        """Unique name of the source."""
        ...

    @property
    def licence(self) -> str:
        """Its licence, in words."""
        ...

    def pictures(self) -> list[Picture]:
        """Its images, in an order that does not change."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class FolderSource:
    """A folder of images that fit into memory one by one (JPEG, PNG, TIFF).

    Attributes
    ----------
    name, licence
        Name of the source, and its licence in words.
    images
        The folder.
    mpp
        um per px, one number or (x, y).
    masks
        Folder of label images of the same names (PNG, TIFF, NPY): 0 is background, each number a nucleus. A mask with a
        single value is split into its connected parts.
    centroids
        Instead of masks: a CSV file or table with the columns image (name without suffix), x and y in px. With neither,
        nuclei are found by `lemon_sc.models.detect.detect_nuclei`.
    slide
        Slide of each image: one name for all, or by image name; None takes every image for a slide of its own.
    organ
        Organ of each image: one name for all, or by image name.
    """

    name: str
    licence: str
    images: str | os.PathLike[str]
    mpp: float | Sequence[float]
    masks: str | os.PathLike[str] | None = None
    centroids: str | os.PathLike[str] | pd.DataFrame | None = None
    slide: str | Mapping[str, str] | None = None
    organ: str | Mapping[str, str] = "unknown"

    def pictures(self) -> list[Picture]:
        """Its images, by name."""
        if self.masks is not None and self.centroids is not None:
            msg = f"Source {self.name!r} has both `masks` and `centroids`; give one of them."
            raise ValueError(msg)
        mpp = check_mpp(self.mpp)
        files = self._files()
        points = self._points(files)
        found = []
        for name, path in files.items():
            mask = self._mask(name)
            look = folder_look(
                path, mask=mask, xy=None if points is None else points.get(name, np.zeros((0, 2))), mpp=mpp
            )
            extra = () if mask is None else (mask,)
            slide = name if self.slide is None else self._of(self.slide, name, "slide")
            organ = self._of(self.organ, name, "organ")
            found.append(
                Picture(
                    name=name,
                    slide=slide,
                    organ=organ,
                    files=(path, *extra),
                    look=look,
                    open=lambda path=path: array_image(read_rgb(path)),  # type: ignore[misc]
                    in_blocks=False,
                )
            )
        return found

    def _files(self) -> dict[str, Path]:
        folder = Path(self.images)
        if not folder.is_dir():
            msg = f"Source {self.name!r}: no folder '{folder}'."
            raise FileNotFoundError(msg)
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        files = {p.stem: p for p in paths}
        if not files:
            msg = f"Source {self.name!r}: '{folder}' holds no images ({', '.join(sorted(SUFFIXES))})."
            raise ValueError(msg)
        if len(files) < len(paths):
            twice = [p.name for p in paths if files[p.stem] != p]
            msg = f"Source {self.name!r}: images in '{folder}' share a name apart from the suffix: {listing(twice)}."
            raise ValueError(msg)
        return files

    def _points(self, files: Mapping[str, Path]) -> dict[str, NDArray[np.float64]] | None:
        if self.centroids is None:
            return None
        if isinstance(self.centroids, pd.DataFrame):
            table = self.centroids
        else:
            table = pd.read_csv(Path(self.centroids), dtype={"image": str})
        _check_columns(table, "image", *XY, where=f"centroids of source {self.name!r}")
        names = table["image"].astype(str)
        unknown = sorted(set(names) - files.keys())
        if unknown:
            msg = f"Source {self.name!r}: the centroids name {len(unknown)} images that are not in the folder: "
            msg += f"{listing(unknown, most=3)}."
            raise ValueError(msg)
        xy = table[XY].to_numpy(dtype=np.float64)
        return {str(k): xy[at] for k, at in names.reset_index(drop=True).groupby(names.to_numpy()).indices.items()}

    def _mask(self, name: str) -> Path | None:
        if self.masks is None:
            return None
        for suffix in MASK_SUFFIXES:
            path = Path(self.masks) / f"{name}{suffix}"
            if path.is_file():
                return path
        msg = f"Source {self.name!r}: image {name!r} has no mask in '{self.masks}' ({', '.join(MASK_SUFFIXES)})."
        raise FileNotFoundError(msg)

    def _of(self, given: str | Mapping[str, str], name: str, what: str) -> str:
        if isinstance(given, str):
            return given
        if name not in given:
            raise missing_key(name, where=f"{what} of source {self.name!r}", have=given)
        return str(given[name])


@dataclass(frozen=True, eq=False, kw_only=True)
class SlideSource:
    """A whole slide with a table of its nuclei; read in blocks.

    Attributes
    ----------
    name, licence
        Name of the source, and its licence in words.
    image
        TIFF, OME-Zarr, or whatever OpenSlide reads.
    nuclei
        Centres in level-0 px: an array (n, 2), or a CSV file with the columns x and y.
    mpp
        um per level-0 px where the file states none; what it states must agree.
    slide, organ
        Name of the slide (None: of the file), and its organ.
    """

    name: str
    licence: str
    image: str | os.PathLike[str]
    nuclei: str | os.PathLike[str] | NDArray[np.float64]
    mpp: float | Sequence[float] | None = None
    slide: str | None = None
    organ: str = "unknown"

    def pictures(self) -> list[Picture]:
        """The slide."""
        path = Path(self.image)
        table = () if isinstance(self.nuclei, np.ndarray) else (Path(self.nuclei),)
        return [
            Picture(
                name=path.stem,
                slide=self.slide or path.stem,
                organ=self.organ,
                files=(path, *table),
                look=self._look,
                open=self._open,
            )
        ]

    def _raster(self) -> Any:
        from lemon_sc.io.raster import from_path

        found = from_path(Path(self.image))
        n, dtype = found.levels[0].shape[0], found.levels[0].dtype
        if n != 3 or dtype != np.uint8:
            msg = f"'{self.image}' has {n} channels of {dtype}; an H&E has 3 (RGB) of uint8."
            raise ValueError(msg)
        return found

    def _open(self) -> PyramidImage:
        from lemon_sc.io.image import dask_image

        return dask_image(*self._raster().levels)

    def _look(self) -> Looked:
        raster = self._raster()
        _, height, width = raster.levels[0].shape
        return Looked(xy=self._xy(), shape=(int(height), int(width)), mpp=self._mpp(raster.mpp))

    def _mpp(self, stated: tuple[float, float] | None) -> tuple[float, float]:
        if self.mpp is None:
            if stated is None:
                msg = f"'{self.image}' states no pixel size. Pass `mpp=`, its um per px."
                raise ValueError(msg)
            return stated
        mpp = check_mpp(self.mpp)
        if stated is not None and np.abs(np.divide(mpp, stated) - 1).max() > MPP_TOLERANCE:
            msg = f"'{self.image}' states {stated} um per px, `mpp` says {mpp}. One is wrong; crops need the right one."
            raise ValueError(msg)
        return mpp

    def _xy(self) -> NDArray[np.float64]:
        if isinstance(self.nuclei, np.ndarray):
            xy = np.asarray(self.nuclei, dtype=np.float64)
            if xy.ndim != 2 or xy.shape[1] != 2:
                msg = f"Source {self.name!r}: `nuclei` must have the shape (n, 2), got {xy.shape}."
                raise ValueError(msg)
            return xy
        table = pd.read_csv(Path(self.nuclei))
        _check_columns(table, *XY, where=f"'{self.nuclei}'")
        return table[XY].to_numpy(dtype=np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class SpatialDataSource:
    """The H&E and the nuclei of a SpatialData; all its transformations are honoured.

    Attributes
    ----------
    name, licence
        Name of the source, and its licence in words.
    data
        SpatialData, or the path of its store.
    image_key, shapes_key
        The H&E and the nuclei.
    mpp
        um per image px where the transformations cannot tell.
    slide, organ
        Name of the slide (None: of the source), and its organ.
    """

    name: str
    licence: str
    data: Any
    image_key: str = "he_image"
    shapes_key: str = "nucleus_boundaries"
    mpp: float | Sequence[float] | None = None
    slide: str | None = None
    organ: str = "unknown"

    def pictures(self) -> list[Picture]:
        """The H&E."""
        files = (Path(self.data),) if isinstance(self.data, str | Path) else ()
        slide = self.slide or self.name
        picture = Picture(
            name=slide, slide=slide, organ=self.organ, files=files, look=self._look, open=lambda: self._scene().image
        )
        return [picture]

    def _scene(self) -> Any:
        import spatialdata as sd

        from lemon_sc.io.elements import resolve

        sdata = sd.read_zarr(self.data) if isinstance(self.data, str | Path) else self.data
        return resolve(sdata, image_key=self.image_key, shapes_key=self.shapes_key, mpp=self.mpp)

    def _look(self) -> Looked:
        from lemon_sc._objects.candidates import own_centres
        from lemon_sc.geometry.affine import transform

        scene = self._scene()
        xy = transform(scene.to_pixel, own_centres(scene)[0].xy)
        return Looked(xy=xy, shape=scene.image.shape, mpp=scene.mpp)
