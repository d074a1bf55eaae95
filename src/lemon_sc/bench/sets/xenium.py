"""A Xenium run with its H&E: the nuclei of the run's own segmentation, by its own alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from lemon_sc._core import keys
from lemon_sc.analysis.panel import is_gene
from lemon_sc.bench.kinds import Labelled, Source

if TYPE_CHECKING:
    from pathlib import Path

RUN = "xenium_breast_mini/outs"

SOURCE = Source(
    url="https://www.10xgenomics.com/datasets (human breast cancer, Janesick et al. 2023), a small crop",
    licence="CC BY 4.0",
    layout=f"{RUN}: a Xenium output folder with he_image.ome.tif and he_imagealignment.csv in it.",
    citation="Janesick et al., Nature Communications 2023",
)


def read_xenium(folder: Path) -> Labelled:
    """Nuclei of the run whose crop is usable, with the counts of their cells.

    Parameters
    ----------
    folder
        The data folder.

    Returns
    -------
    The nuclei; one slide, controls left out of the genes.

    Raises
    ------
    MissingDataError
        If the run is not there.
    """
    import spatialdata_io

    from lemon_sc import pp
    from lemon_sc.io.elements import resolve

    outs = folder / RUN
    files = [outs / name for name in ("experiment.xenium", "he_image.ome.tif", "he_imagealignment.csv")]
    for path in files:
        if not path.is_file():
            raise SOURCE.missing("xenium_breast_mini", path)
    sdata = spatialdata_io.xenium(
        outs, cells_as_circles=False, cells_labels=False, nucleus_labels=False, aligned_images=False
    )
    pp.add_image(sdata, files[1], alignment=files[2])
    pp.extract_nuclei(sdata)
    table = sdata["table"]
    scene = resolve(sdata, image_key="he_image", shapes_key="nucleus_boundaries", mpp=None)
    usable = (table.obs[keys.NUCLEUS_QC] == keys.QC_OK).to_numpy()
    xy = np.asarray(table.obsm[keys.NUCLEUS_XY])[usable]
    types = table.var["feature_types"].astype(str).tolist() if "feature_types" in table.var else None
    genes = is_gene([str(name) for name in table.var_names], types)
    counts = sparse.csr_matrix(table.X)[usable][:, np.flatnonzero(genes)]
    nuclei = pd.DataFrame({"image": "he_image", "x": xy[:, 0], "y": xy[:, 1], "slide": "xenium_breast_mini"})
    return Labelled(
        nuclei=nuclei,
        open=lambda _: scene.image,
        mpp={"he_image": scene.mpp},
        expression=counts,
        genes=tuple(str(name) for name in table.var_names[genes]),
    )
