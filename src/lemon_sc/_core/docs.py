"""Parameters that several public functions share, each described once.

``@doc`` replaces ``%(name)s`` in a docstring by the description of ``name``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

PARAMS = {
    "sdata": """\
sdata
    SpatialData with the H&E image, the nuclei and the table, as `spatialdata_io.xenium` reads a Xenium run.""",
    "adata": """\
adata
    Annotated table, one row per cell. Of a SpatialData, ``tables["table"]`` is taken.""",
    "spots": """\
adata
    Annotated table, one row per spot, bin or tile. Of a SpatialData, ``tables["table"]`` is taken.""",
    "data": """\
data
    SpatialData, or the AnnData table itself.""",
    "image_key": """\
image_key
    The H&E in ``sdata.images``: uint8 RGB, single scale or multiscale.""",
    "shapes_key": """\
shapes_key
    The nuclei: polygons or circles in ``sdata.shapes``, a label image in ``sdata.labels``, or centroids in
    ``sdata.points``.""",
    "table_key": """\
table_key
    The table in ``sdata.tables``.""",
    "use_rep": """\
use_rep
    The embedding in ``adata.obsm``. Rows with NaN (cells without a usable nucleus) are left out and counted.""",
    "layer": """\
layer
    Layer with the expression; ``None`` takes ``adata.X``.""",
    "rng": """\
rng
    Seed (int) or `numpy.random.Generator`. The same value gives the same result; no global state is touched.""",
    "key_added": """\
key_added
    Name under which the result is stored (letters, digits, ``_``, ``.``, ``-``).""",
    "device": """\
device
    ``"auto"`` (all visible CUDA devices, else MPS, else CPU) or a name such as ``"cuda:1"``.""",
    "batch_size": """\
batch_size
    Crops at once; ``"auto"`` chooses by device. Halved where memory runs out.""",
    "dtype": """\
dtype
    ``"auto"`` (bf16 on CUDA devices that have it, and for plain ViTs on CPUs with AMX; else fp32), ``"fp32"`` or
    ``"bf16"``.""",
    "image_mpp": """\
mpp
    um per image px, one number or (x, y), where neither the image's file nor elements in um say it.""",
    "overwrite": """\
overwrite
    Whether nuclei of an earlier run under this name may be replaced.""",
    "ax": """\
ax
    Matplotlib axes to draw into; ``None`` makes a new figure.""",
}


def doc(function: F) -> F:
    """Fill the ``%(name)s`` placeholders of a docstring from `PARAMS`, keeping the indentation.

    Parameters
    ----------
    function
        A function whose docstring holds placeholders.

    Returns
    -------
    The function itself.
    """
    if function.__doc__:  # None under python -OO
        text = inspect.cleandoc(function.__doc__)

        def fill(match: re.Match[str]) -> str:
            indent = match.group(1)
            return "\n".join(indent + line if line else line for line in PARAMS[match.group(2)].splitlines())

        function.__doc__ = re.sub(r"^([ \t]*)%\((\w+)\)s", fill, text, flags=re.MULTILINE)
    return function
