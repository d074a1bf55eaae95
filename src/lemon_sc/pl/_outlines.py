"""Nucleus outlines over the H&E, where the transformations say they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.patheffects import withStroke

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.table import as_table
from lemon_sc.geometry.affine import invert, transform
from lemon_sc.io.elements import resolve
from lemon_sc.io.join import join_nuclei
from lemon_sc.io.sides import Labels
from lemon_sc.pl._base import axes_or_new, bare, scale_bar, styled
from lemon_sc.pl._colors import MISSING, add_key, coloring
from lemon_sc.pl._window import Box, Outlines, check_box, default_box, read_window, window_outlines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from lemon_sc.io.elements import Scene
    from lemon_sc.pl._colors import Coloring

LINE = "#00E5FF"
"""A colour that no H&E has."""


def nucleus_rows(sdata: SpatialData, scene: Scene, found: Outlines, *, shapes_key: str, table_key: str) -> NDArray:
    """Table row of each part, int64 (n_parts,); -1 where the table has no such cell."""
    adata = as_table(sdata, table_key=table_key)
    if not len(found.nucleus):
        return np.zeros(0, dtype=np.int64)
    if scene.kind == "labels":
        values, first, at = np.unique(found.nucleus, return_index=True, return_inverse=True)
        middle = np.array([shapely.Polygon(found.parts[i]).centroid.coords[0] for i in first])
        labels = Labels(values=values, xy=transform(invert(scene.to_pixel), middle))
        link = join_nuclei(sdata, adata, nuclei=scene.nuclei, kind=scene.kind, shapes_key=shapes_key, labels=labels)
        return link.row[at]
    link = join_nuclei(sdata, adata, nuclei=scene.nuclei, kind=scene.kind, shapes_key=shapes_key)
    return link.row[found.nucleus]


def part_colors(colors: Coloring, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Colour of each part, (n_parts, 4); light grey for nuclei without a row in the table."""
    rgba = np.tile(to_rgba(MISSING), (len(rows), 1))
    rgba[rows >= 0] = colors.rgba[rows[rows >= 0]]
    return rgba


def draw_outlines(ax: Axes, found: Outlines, rgba: NDArray[np.float64] | None) -> None:
    """Closed rings as lines, filled faintly where they carry a colour; points as dots."""
    edge: Any = LINE if rgba is None else rgba
    face: Any = "none" if rgba is None else rgba * [1, 1, 1, 0.15]
    if found.parts and len(found.parts[0]) == 1:
        xy = np.concatenate(found.parts)
        ax.scatter(xy[:, 0], xy[:, 1], s=10, facecolors=face, edgecolors=edge, linewidths=0.9)
    else:
        lines = PolyCollection(found.parts, edgecolors=edge, facecolors=face, linewidths=0.9)
        if rgba is not None:  # any category colour may be that of a stain
            lines.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
        ax.add_collection(lines, autolim=False)


@doc
@styled
def outlines(
    sdata: SpatialData,
    *,
    color: str | None = None,
    box: Box | None = None,
    image_key: str = "he_image",
    shapes_key: str = "nucleus_boundaries",
    table_key: str = "table",
    layer: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Nucleus outlines over the H&E, in the image's pixels.

    The outlines go through the full transformation chain, as they do when crops are cut, so this plot shows whether
    the image and the nuclei are registered. Only the window is read, at the pyramid level that suits it, and only the
    nuclei in it are drawn.

    Parameters
    ----------
    %(sdata)s
    color
        Column of the table's ``obs``, or a gene; nuclei without a row in the table are grey.
    box
        Window (x0, y0, x1, y1) in px of the image at full resolution; ``None`` shows 250 um around a nucleus in the
        middle of the tissue.
    %(image_key)s
    %(shapes_key)s
    %(table_key)s
    %(layer)s
    %(ax)s

    Returns
    -------
    The axes; its coordinates are image px.

    Raises
    ------
    MissingKeyError
        An element, table, column or gene that is not there.
    ValueError
        The window lies outside the image, is too wide to be read, or holds more nuclei than can be drawn.
    """
    scene = resolve(sdata, image_key=image_key, shapes_key=shapes_key, mpp=known_mpp(sdata, table_key, image_key))
    colors = None if color is None else coloring(as_table(sdata, table_key=table_key), color, layer=layer)
    window = default_box(scene) if box is None else check_box(box, scene.image.shape)
    pixels, covered = read_window(scene.image, window)
    found = window_outlines(scene, window)
    ax = axes_or_new(ax, 4.0, 4.0)
    x0, y0, x1, y1 = covered
    ax.imshow(pixels, extent=(x0, x1, y1, y0))
    rgba = None
    if colors is not None:
        rows = nucleus_rows(sdata, scene, found, shapes_key=shapes_key, table_key=table_key)
        rgba = part_colors(colors, rows)
        add_key(ax, colors)
    draw_outlines(ax, found, rgba)
    ax.set(xlim=(window[0], window[2]), ylim=(window[3], window[1]), aspect=scene.mpp[1] / scene.mpp[0])
    bare(ax)
    scale_bar(ax, scene.mpp[0], span=window[2] - window[0])
    return ax


def known_mpp(sdata: SpatialData, table_key: str, image_key: str) -> tuple[float, float] | None:
    """Pixel size that was given to `pp.extract_nuclei` for this image, so that it need not be given again."""
    if table_key not in getattr(sdata, "tables", ()):
        return None
    record = sdata.tables[table_key].uns.get(keys.UNS, {}).get(keys.NUCLEI, {})
    if record.get("image_key") != image_key or not record["mpp_given"]:
        return None
    x, y = record["mpp"]
    return float(x), float(y)
